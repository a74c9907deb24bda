"""Which labels are wrong: how early `suspects` and its rivals meet planted errors, and those of people.

    python benchmarks/evidence/labels.py                    all cells of the CNN; results/evidence/labels-cnn.json
    python benchmarks/evidence/labels.py --model minilm     of a MiniLM, fine-tuned (hours of one core)

A cell is a data set, a kind of error and its rate. Errors are *uniform*, any other class; *classdep*, one wrong class for each
class, in half of the classes three times as often; *plausible*, the second best class of a logistic regression on tf-idf words,
out of folds, among the texts of which that is least sure; or *human*, those of NoisyAG-News. Nobody is told a right label. A cell
that the results file has is not computed again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum_tracinwe.methods import Examples, Explained
from captum_tracinwe.retraining import OneByOne
from captum_tracinwe.texts import tokenize
from common import PRESETS, Task, arguments, facts, load, store
from label_tables import ahead
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, methods, suspects

NOISES = ("uniform5", "uniform10", "uniform20", "classdep10", "plausible10")
SETS = ("ag_news", "jigsaw_toxicity", "snli", "banking77")
# 77 classes take longer to learn.
EPOCHS = {("banking77", "cnn"): 12, ("banking77", "minilm"): 6}
FOLDS, NEIGHBOURS, DRAWS = 5, 10, 200
OURS = "suspects"
#: So many texts that people labelled; six trainings of a MiniLM on 10,000 took more than an hour.
HUMAN = {"cnn": 10_000, "bert": 10_000, "minilm": 2500}


def planted(kind: str, part: float, labels: np.ndarray, classes: int, texts: list[str], seed: int) -> np.ndarray:
    """The labels, some of them wrong."""
    draw, given = np.random.default_rng(seed), labels.copy()
    count = round(part * len(labels))
    if kind == "uniform":
        for place in draw.choice(len(labels), count, replace=False):
            given[place] = draw.choice([one for one in range(classes) if one != labels[place]])
    elif kind == "classdep":
        to = draw.permutation(classes)
        while (to == np.arange(classes)).any():
            to = draw.permutation(classes)
        often = np.where(np.isin(labels, draw.choice(classes, max(1, classes // 2), replace=False)), 3.0, 1.0)
        chosen = draw.choice(len(labels), count, replace=False, p=often / often.sum())
        given[chosen] = to[labels[chosen]]
    else:
        told = by_words(texts, labels, classes, seed, pairs=True)
        own = told[np.arange(len(labels)), labels].copy()
        told[np.arange(len(labels)), labels] = -1
        chosen = draw.choice(np.argsort(own - told.max(1))[: 2 * count], count, replace=False)
        given[chosen] = told[chosen].argmax(1)
    return given


def by_words(texts: list[str], labels: np.ndarray, classes: int, seed: int, pairs: bool = False) -> np.ndarray:
    """Probabilities of a logistic regression on tf-idf words (and pairs of words), out of folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2 if pairs else 1)).fit_transform(texts)
    told = np.full((len(labels), classes), 1e-9)
    for taught, asked in folds_of(labels, seed):
        model = LogisticRegression(C=10, max_iter=300).fit(vectors[taught], labels[taught])
        told[np.ix_(asked, model.classes_)] = model.predict_proba(vectors[asked])
    return told


def folds_of(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    import warnings

    from sklearn.model_selection import StratifiedKFold

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer texts than folds
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))


def margin(told: np.ndarray, labels: np.ndarray) -> np.ndarray:
    own = np.arange(len(labels)), labels
    others = told.copy()
    others[own] = -np.inf
    return others.max(1) - told[own]


def adjusted(told: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Cleanlab's normalized margin with adjust_pred_probs=True: less each class's mean, made positive, normalised."""
    means = np.array([told[labels == k, k].mean() if (labels == k).any() else 0.0 for k in range(classes)])
    moved = told - means + means.max()
    return margin(moved / moved.sum(1, keepdims=True), labels)


def neighbours(texts: list[str], labels: np.ndarray) -> np.ndarray:
    """How many of the nearest texts by tf-idf words have another label, each by its cosine."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    far, near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine").fit(vectors).kneighbors(vectors)
    close = np.where(near == np.arange(len(labels))[:, None], 0.0, 1 - far)
    return (close * (labels[near] != labels[:, None])).sum(1) / np.maximum(close.sum(1), 1e-9)


def answers(model: nn.Module, ids: Tensor) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part).softmax(1) for part in ids.split(128)]).double().numpy()


def prepared(name: str, noise: str, model: str, texts: int, seed: int, folder: Path) -> tuple[Task, np.ndarray]:
    """A task with wrong labels, and which they are."""
    preset = replace(PRESETS["cpu"], texts=texts, tests=200, positions=48)
    epochs = EPOCHS.get((name, model))
    if epochs is not None:
        recipe = replace(preset.recipe, epochs=epochs)
        preset = replace(preset, recipe=recipe, checkpoints=(epochs // 3, 2 * epochs // 3, epochs))
    task = load("ag_news_noisy" if noise == "human" else name, model, preset, folder, seed)
    ids, labels = task.train.batch
    if noise == "human":
        assert task.given_labels is not None
        return task, task.given_labels.numpy()
    right = labels.numpy()
    kind, part = noise.rstrip("0123456789"), int(noise.lstrip("abcdefghijklmnopqrstuvwxyz")) / 100
    given = planted(kind, part, right, len(task.classes), list(task.texts[0]), seed)
    task.train = Examples((ids, torch.tensor(given)), task.train.words)
    return task, given != right


def recommended(task: Task, explained: Explained) -> TracInWE:
    """The score that we recommend, of the labels given."""
    layers = None if explained.embedding is None else [explained.embedding]
    return TracInWE(
        explained.model, TensorDataset(*task.train.batch), list(explained.checkpoints), loss_fn=explained.loss_fn, batch_size=32,
        layers=layers, preconditioner="auto",
    )  # fmt: skip


def cell(name: str, noise: str, model: str, texts: int, seed: int, folder: Path) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    task, wrong = prepared(name, noise, model, texts, seed, folder)
    (ids, labels), classes = task.train.batch, len(task.classes)
    given, own = labels.numpy(), (np.arange(len(labels)), labels.numpy())
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        explained = task.explained(place, seed, progress=lambda _: None)
        tracin = recommended(task, explained)
        begun = time.perf_counter()
        shown = tokenize(task.texts[0], task.tokenizer, max_length=ids.shape[1])
        ours = suspects(tracin, texts=shown, limit=0)
        seconds = time.perf_counter() - begun
        at_each = []
        from captum_tracinwe.checkpoints.weights import load_checkpoint

        for path in explained.checkpoints:
            load_checkpoint(explained.model, path)
            at_each.append(answers(explained.model, ids))
        found["self-influence"] = methods.we_self_influence(explained, task.train).numpy()
        trainer = OneByOne(task.make_model, task.train.batch, task.test.batch, task.recipe)
        unseen = np.zeros((len(given), classes))
        for taught, asked in folds_of(given, seed):
            keep = torch.zeros(len(given), dtype=torch.bool)
            keep[torch.tensor(taught)] = True
            unseen[asked] = answers(trainer.fit(keep, seed), ids[torch.tensor(asked)])
        with_folds = suspects(tracin, texts=shown, limit=0, out_of_fold=torch.tensor(unseen).clamp_min(1e-12).log())
    mean = np.mean(at_each, 0)
    words = by_words(list(task.texts[0]), given, classes, seed)
    found |= {
        "loss": -np.mean([np.log(told[own] + 1e-12) for told in at_each], 0),
        "margin": margin(mean, given),
        "cleanlab, in sample": margin(at_each[-1], given),
        "cleanlab, in sample, adjusted": adjusted(at_each[-1], given, classes),
        "cleanlab, mean of checkpoints, adjusted": adjusted(mean, given, classes),
        "nearest neighbours": neighbours(list(task.texts[0]), given),
        "words, 5 folds, cleanlab": margin(words, given),
        "words, 5 folds, cleanlab, adjusted": adjusted(words, given, classes),
        "model, 5 folds, loss": -np.log(unseen[own] + 1e-12),
        "model, 5 folds, cleanlab": margin(unseen, given),
        "model, 5 folds, cleanlab, adjusted": adjusted(unseen, given, classes),
        OURS: ranked(ours.order),
        f"{OURS}, 5 folds": ranked(with_folds.order),
    }
    draw = np.random.default_rng(seed)
    samples = [draw.integers(0, len(wrong), len(wrong)) for _ in range(DRAWS)]
    drawn = {name: [average_precision_score(wrong[s], scores[s]) for s in samples] for name, scores in found.items()}
    first = np.array(ours.order)[: int(wrong.sum())]
    met = first[wrong[first]]
    right = np.array(prepared_right(task, name, noise, model, texts, seed, folder))
    suggested = dict(zip(ours.order, ours.suggested, strict=True))
    names = [str(one) for one in range(classes)]
    hits = [names.index(suggested[int(place)]) == right[place] for place in met]
    return {
        "texts": len(given),
        "classes": classes,
        "wrong": int(wrong.sum()),
        "AP": {name: average_precision_score(wrong, scores) for name, scores in found.items()},
        "AUC": {name: roc_auc_score(wrong, scores) for name, scores in found.items()},
        "variance of AP less ours": {
            name: {rival: float(np.var(np.subtract(drawn[name], drawn[rival]))) for rival in found}
            for name in (OURS, f"{OURS}, 5 folds")
        },
        "suggested right": sum(hits) / max(1, len(hits)),
        "expected and found": {
            who: {
                str(n): [one.expected(n), int(wrong[list(one.order[:n])].sum())]
                for n in (50, 100, 200, 400, len(given))
            }
            for who, one in ((OURS, ours), (f"{OURS}, 5 folds", with_folds))
        },
        "weight": ours.weight,
        "accuracy": ours.accuracy,
        "tells": ours.tells,
        "seconds": seconds,
    }


def prepared_right(task: Task, name: str, noise: str, model: str, texts: int, seed: int, folder: Path) -> list[int]:
    """The right labels of a task's texts."""
    if noise != "human":
        return load(name, model, replace(task.preset), folder, seed).train.batch[1].tolist()
    assert task.right_labels is not None
    return task.right_labels.tolist()


def ranked(order: tuple[int, ...]) -> np.ndarray:
    scores = np.zeros(len(order))
    scores[list(order)] = np.arange(len(order), 0, -1)
    return scores


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--noises", nargs="+", default=[*NOISES, "human"], choices=[*NOISES, "human"])
    parser.add_argument("--seed", type=int, default=0, help="of data, errors and model")
    args: argparse.Namespace = parser.parse_args(argv)
    torch.set_num_threads(1)
    texts = args.texts or (2000 if args.model == "minilm" else 4000)
    path = args.out / f"labels-{args.model}-s{args.seed}.json"
    stored: dict[str, Any] = json.loads(path.read_text())["cells"] if path.exists() else {}
    for noise in args.noises:
        for name in args.sets:
            if noise == "human" and name != "ag_news":
                continue
            key = f"{name}, {noise}"
            if key in stored:
                continue
            begun = time.perf_counter()
            size = HUMAN[args.model] if noise == "human" and not args.texts else texts
            stored[key] = cell(name, noise, args.model, size, args.seed, args.data)
            best = sorted(stored[key]["AP"].items(), key=lambda item: -item[1])
            print(
                f"{key}: {time.perf_counter() - begun:.0f} s;", ", ".join(f"{a} {b:.3f}" for a, b in best), flush=True
            )
            task = load("ag_news", args.model, replace(PRESETS["cpu"], texts=200, tests=200), args.data)
            about = facts(task, "cpu") | {
                "settings": {"texts": texts, "positions": 48, "folds": FOLDS, "seed": args.seed}
            }
            store(args.out, path.stem, about | {"cells": stored})
    cells = list(stored.values())
    for who in (OURS, f"{OURS}, 5 folds"):
        print(f"{who}: mean AP {np.mean([one['AP'][who] for one in cells]):.3f} over {len(cells)} cells, ahead of")
        for rival in cells[0]["AP"]:
            if rival != who:
                mean, low, high = ahead(cells, who, rival)
                worst = min(one["AP"][who] - one["AP"][rival] for one in cells)
                print(f"  {rival:40} by {mean:+.3f} [{low:+.3f}, {high:+.3f}], in the worst cell by {worst:+.3f}")
    print(path)


if __name__ == "__main__":
    main()
