"""Lexical bias: in the data, in models, and in both once examples are weighted so that words and labels are independent.

    python benchmarks/evidence/bias.py                    results/evidence/bias-cnn-cpu.json
    python benchmarks/evidence/bias.py --preset smoke

Words are those of the hypothesis in SNLI, and of the comment in the set of toxic ones. Text CNNs are trained plainly, on the
weights of `independence_weights` (of all words that `lexical_bias` finds biased), and on the same weights dealt to other
examples, which shows what uneven weights do by themselves. A model's bias for a word x and the label y that it goes with in the
training set:

    share of test texts with x, whose label is not y, that the model calls y, less that share of the test texts without x

of words with at least 10 such test texts. It is 0 of a model that errs as often with the word as without it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from captum_tracinwe.evaluation import Interval, bootstrap_mean
from captum_tracinwe.retraining import ManyCNNs
from captum_tracinwe.retraining.many import _Stack
from captum_tracinwe.texts import tokenize
from common import DATA, PRESETS, RESULTS, Task, facts, load, store
from torch import Tensor, nn

from captum_tracinwe import TracInWE, save_checkpoint, word_report
from captum_tracinwe.neighbours import LexicalBias, independence_weights, lexical_bias, taken_up
from captum_tracinwe.neighbours.held_words import words_in
from captum_tracinwe.words.near import WORD

SETS = {"snli": "SNLI, hypotheses", "jigsaw_toxicity": "toxic comments"}
ARMS = ("plain", "weighted", "weights dealt anew")
LEAST_TESTS = 10
ASKED = 60  # test texts of each predicted label that the word report is of
EPOCHS = {("snli", "cpu"): 8}  # after 4 the model on weights was at chance (0.35), which was seen on seed 1
FIRST_SEED = 2
# Preset → training texts, test texts, positions, seeds, fewest texts of a word
SIZES = {"smoke": (300, 300, 24, 1, 5), "cpu": (4000, 2000, 40, 5, 20)}


def features(texts: list[str]) -> tuple[list[str], list[list[str]]]:
    """What is asked about of each text: itself, or the hypothesis; and its pairs of neighbouring words."""
    own = [text.partition(" [SEP] ")[2] or text for text in texts]
    words = [WORD.findall(text.casefold()) for text in own]
    return own, [[f"{a} {b}" for a, b in pairwise(one)] for one in words]


def trained(task: Task, weights: Tensor, seed: int) -> nn.Module:
    """One model, as the retrainer does it, with the weighted mean of a batch's losses."""
    (ids, labels), recipe = task.train.batch, task.recipe
    torch.manual_seed(seed)
    model = task.make_model().train()
    optimizer = recipe.optimizer_of(model)
    for _, indices in recipe.batches(len(ids), seed):
        optimizer.zero_grad(set_to_none=False)
        losses = nn.functional.cross_entropy(model(ids[indices]), labels[indices], reduction="none")
        ((weights[indices] * losses).sum() / weights[indices].sum()).backward()
        optimizer.step()
    return model.eval()


def answers(task: Task, arms: Tensor, seed: int) -> Tensor:
    """What models trained on weights ``(arms, M)`` say of the test texts, ``(arms, N)``: as :func:`trained`, all at once.

    ManyCNNs takes texts or leaves them out, by weights of 1 and 0; within it they may be any.
    """
    many = ManyCNNs(task.make_model, task.train.batch, task.test.batch, task.recipe)
    return _Stack(many, arms, seed, [None] * len(arms)).train().argmax(-1)


def followed(bias: LexicalBias, texts: list[Any], truth: Tensor, said: Tensor) -> dict[str, float]:
    """Of each biased word and its label the model's bias."""
    held = [words_in(text) for text in texts]
    found = {}
    for one in bias.biased:
        label = int(one.label)
        has = torch.tensor([one.word in own for own in held])
        open_to_it = truth != label
        if int((has & open_to_it).sum()) >= LEAST_TESTS and bool((~has & open_to_it).any()):
            called = (said == label).double()
            found[f"{one.word}, {one.label}"] = float(
                called[has & open_to_it].mean() - called[~has & open_to_it].mean()
            )
    return found


def part_of_biased(task: Task, model: nn.Module, bias: LexicalBias, said: Tensor) -> tuple[float, int, int]:
    """Which part of the influence on answers y is that of words biased for y; how many of them it is positive of, of how many."""
    (ids, labels), parts, up, all_of_them = task.train.batch, [], 0, 0
    shown = tokenize(task.texts[0], task.tokenizer, max_length=ids.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(f"{folder}/last.pt", model, task.recipe.learning_rate)
        loss = nn.CrossEntropyLoss(reduction="none")
        tracin = TracInWE(model, torch.utils.data.TensorDataset(ids, labels), folder, loss_fn=loss, batch_size=64)
        for label in range(len(task.classes)):
            asked = (said == label).nonzero().flatten()[:ASKED]
            if not len(asked):
                continue
            report = word_report(
                tracin, (task.test.batch[0][asked], said[asked]), labels, train_texts=shown, groups=[], draws=10
            )
            found = taken_up(bias, report, label=str(label))
            parts.append(sum(one.part for one in found if one.total > 0))
            up, all_of_them = up + sum(one.total > 0 for one in found), all_of_them + len(found)
    return sum(parts) / len(parts), up, all_of_them


def one_set(name: str, preset: str, data: Path, seeds: int) -> dict[str, Any]:
    texts, tests, positions, _, least = SIZES[preset]
    recipe = replace(PRESETS[preset].recipe, epochs=EPOCHS.get((name, preset), PRESETS[preset].recipe.epochs))
    sizes = replace(PRESETS[preset], texts=texts, tests=tests, positions=positions, recipe=recipe)
    task = load(name, "cnn", sizes, data)
    labels, (asked, truth) = task.train.batch[1], task.test.batch
    sides = {"words": 0, "pairs of words": 1}
    train, test = (features(side) for side in task.texts)
    begun = time.perf_counter()
    before = {side: lexical_bias(train[at], labels, least_texts=least) for side, at in sides.items()}
    found = independence_weights(train[0], labels, least_texts=least)
    seconds = time.perf_counter() - begun
    after = {
        side: lexical_bias(train[at], labels, weights=found.weights, least_texts=least) for side, at in sides.items()
    }
    print(f"{name}: {found}\n{before['words']}", flush=True)
    weights = found.weights.float()
    dealt = weights[torch.randperm(len(weights), generator=torch.Generator().manual_seed(0))]
    arms = dict(zip(ARMS, (torch.ones(len(weights)), weights, dealt), strict=True))
    models: dict[str, dict[str, Any]] = {arm: {"right": [], "bias": {side: [] for side in sides}} for arm in ARMS}
    weighted = torch.stack(list(arms.values()))
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for arm, said in zip(ARMS, answers(task, weighted, seed), strict=True):
            models[arm]["right"].append((said == truth).double())
            for side, at in sides.items():
                models[arm]["bias"][side].append(followed(before[side], test[at], truth, said))
            row = models[arm]["bias"]["words"][-1].values()
            print(
                f"  seed {seed}, {arm}: right {models[arm]['right'][-1].mean():.3f}, bias {sum(row) / max(1, len(row)):.3f}",
                flush=True,
            )
    model = trained(task, torch.ones(len(labels)), FIRST_SEED)
    with torch.no_grad():
        said = torch.cat([model(part).argmax(1) for part in asked.split(256)])
    return {
        "taken up": part_of_biased(task, model, before["words"], said),
        "texts": len(labels),
        "tests": len(truth),
        "classes": len(task.classes),
        "seconds": seconds,
        "weights": {
            "words": len(found.words), "residual": found.residual, "before": found.before, "effective": found.effective,
            "largest": float(weights.max()), "smallest": float(weights.min()), "steps": found.steps, "converged": found.converged,
        },
        "data": {
            side: {
                when: {"biased": len(one[side].biased), "mean |z|": one[side].mean_z, "tested": len(one[side].words)}
                for when, one in (("before", before), ("after", after))
            }
            for side in sides
        },
        # By word the mean over seeds, which words the intervals are over; by test text the mean over seeds.
        "models": {
            arm: {
                "bias": {
                    side: [sum(run[word] for run in own["bias"][side]) / seeds for word in own["bias"][side][0]]
                    for side in sides
                },
                "right": torch.stack(own["right"]).mean(0),
                "right by seed": torch.stack(own["right"]).mean(1),
                "bias by seed": [sum(run.values()) / max(1, len(run)) for run in own["bias"]["words"]],
            }
            for arm, own in models.items()
        },
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=SIZES, default="cpu")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the data sets")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, help="instead of the preset's")
    args = parser.parse_args(argv)
    seeds = args.seeds or SIZES[args.preset][3]
    torch.set_num_threads(1)
    for name in args.sets:
        if not (args.data / name).is_dir():
            raise SystemExit(f"--data {args.data}: expected {name} there (see README.md, The data).")
    sets: dict[str, Any] = {}
    for name in args.sets:
        sets[name] = one_set(name, args.preset, args.data, seeds)
        task = load(name, "cnn", replace(PRESETS["smoke"], texts=50, tests=10), args.data)
        about = facts(task, args.preset) | {
            "dataset": args.sets,
            "settings": {"sizes": SIZES[args.preset], "seeds": seeds},
        }
        store(args.out, f"bias-cnn-{args.preset}", about | {"sets": sets})
    print(table({"sets": sets | {}, "settings": {"seeds": seeds}}))


def table(content: dict[str, Any]) -> str:
    """Bias in data before and after, in models before and after."""
    lines, notes = ["| | plain | weighted | weighted less plain | dealt anew less plain |", "|---|---|---|---|---|"], []
    for name, one in content["sets"].items():
        weights, models, (part, up, count) = one["weights"], one["models"], one["taken up"]
        lines.append(f"| **{SETS[name]}** | | | | |")
        for side, row in one["data"].items():
            cells = [f"{row[when]['biased']} ({row[when]['mean |z|']:.2f})" for when in ("before", "after")]
            less = f"{row['after']['biased'] - row['before']['biased']:+d}".replace("-", "−")
            tested = row["before"]["tested"]
            lines.append(f"| data: biased {side}, of {tested:,} (mean \\|z\\|) | {' | '.join(cells)} | {less} | |")
        for side in one["data"]:
            own = {arm: _tensor(models[arm]["bias"][side]) for arm in ARMS}
            if len(own["plain"]) > 1:
                lines.append(f"| models: bias, {len(own['plain'])} {side} | {_cells(own)} |")
        right = {arm: _tensor(models[arm]["right"]) for arm in ARMS}
        lines.append(f"| models: accuracy, {one['tests']:,} texts | {_cells(right)} |")
        notes.append(
            f"{SETS[name]}: weights for {weights['words']} words, from {weights['smallest']:.2f} to {weights['largest']:.1f}, "
            f"worth {weights['effective']:,.0f} of {one['texts']:,} texts; largest distance of a share "
            f"{weights['before']:.2f} before, {weights['residual']:.3f} after. By a plain model's word report {up} of {count} "
            f"biased words taught it their label, with {part:.0%} of the influence on its answers."
        )
    return "\n".join([*lines, "", f"{content['settings']['seeds']} seeds. {' '.join(notes)}"])


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _cells(own: dict[str, Tensor]) -> str:
    plain, weighted, dealt = (own[arm] for arm in ARMS)
    both = [_plain(bootstrap_mean(plain)), _plain(bootstrap_mean(weighted))]
    return " | ".join([*both, str(bootstrap_mean(weighted - plain)), str(bootstrap_mean(dealt - plain))])


def _plain(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]".replace("-", "−")


if __name__ == "__main__":
    main()
