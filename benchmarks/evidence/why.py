"""Why a label is suspected: what speaks for a wrong label is taken away, the model is trained again, and asked again.

    python benchmarks/evidence/why.py                  labels that people got wrong; results/evidence/why-ag_news-cnn-cpu.json
    python benchmarks/evidence/why.py --dataset jigsaw_toxicity --noise plausible10

Those suspects are asked about whose labels are wrong and which a model finds probable without having seen them: what else
taught it that? They are, of the 100 first that are wrong, those that models without the text itself find most probable, models
of other seeds than the one that is asked. Beside the text itself as many texts are left out as its witnesses are: those
that `suspects` names as speaking for the wrong label, those that TR-TFIDF names, the nearest texts that have the label, others
that have it. Then the words: the same witnesses stay, and in them the words by which they speak are hidden, or others of theirs.
Retrainings have the seed of the explained model.

Tried before: one wrong label for each class, 20 witnesses, texts chosen by the model that was asked. Then 20 others of the label
did nearly as much as any method's, for of the highest of many answers any other is lower.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace

import torch
from captum_tracinwe.evaluation import another_word, bootstrap_mean
from captum_tracinwe.evaluation.words import Position
from captum_tracinwe.methods import Examples, Explained
from captum_tracinwe.texts import tokenize
from common import Task, arguments, facts, store
from labels import NOISES, prepared, recommended
from torch import Tensor

from captum_tracinwe import methods, suspects
from captum_tracinwe.labels import Suspect

WITNESSES, WORDS, CANDIDATES = 50, 5, 100
# Added to the seed of the models by which texts are chosen.
APART = 1000


def first_wrong(task: Task, explained: Explained, wrong: Tensor) -> list[Suspect]:
    """The most suspicious texts whose labels are wrong, with their witnesses."""
    ids, _ = task.train.batch
    tracin = recommended(task, explained)
    texts = tokenize(task.texts[0], task.tokenizer, max_length=ids.shape[1])
    found = suspects(tracin, texts=texts, limit=2 * CANDIDATES, witnesses=WITNESSES)
    return [one for one in found.first if bool(wrong[one.index])][:CANDIDATES]


def unseen_alike(task: Task, among: list[Suspect], seed: int, count: int, args: Namespace) -> list[Suspect]:
    """Those to which a model that has not seen them gives their wrong label most surely."""
    (ids, labels), places = task.train.batch, torch.tensor([one.index for one in among])
    task.test = Examples((ids[places], labels[places]), [task.train.need_words("why")[int(one)] for one in places])
    keep = torch.ones((len(among), len(ids)), dtype=torch.bool)
    keep[torch.arange(len(among)), places] = False
    sure = task.retrain(args.workers, args.cache)(keep, [seed + APART] * len(among)).diagonal()
    return [among[place] for place in sure.topk(min(count, len(among))).indices.tolist()]


def best(scores: Tensor, count: int, but: int) -> list[int]:
    """The training texts of the highest scores, without the text itself."""
    scores = scores.clone()
    scores[but] = -torch.inf
    return scores.topk(count).indices.tolist()


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--noise", choices=[*NOISES, "human"], default="human")
    parser.add_argument("--at", type=int, nargs="+", help="these seeds, instead of the first ones")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tests, seeds = args.tests or 20, args.at or list(range(args.seeds or 3))
    changes: dict[str, list[Tensor]] = {}
    turned: dict[str, list[Tensor]] = {}
    asked_at = 0
    for number, seed in enumerate(seeds, 1):
        task, wrong = prepared(args.dataset, args.noise, args.model, args.texts or 4000, seed, args.data)
        ids, labels = task.train.batch
        with tempfile.TemporaryDirectory() as folder:
            explained = task.explained(folder, seed, progress=lambda _: None)
            chosen = unseen_alike(task, first_wrong(task, explained, torch.tensor(wrong)), seed, tests, args)
            places = torch.tensor([one.index for one in chosen])
            words = [task.train.need_words("why")[one.index] for one in chosen]
            asked_at += len(chosen)
            task.test = Examples((ids[places], labels[places]), words)
            fewest = [len(one.reasons.speaks_for) for one in chosen]
            sets: dict[str, list[list[int]]] = {
                "itself": [[] for _ in chosen],
                "suspects": [[pair.train_index for pair in one.reasons.speaks_for] for one in chosen],
            }
            by_other = {"TR-TFIDF": methods.tr_tfidf(explained)(task.test, task.train)}
            alike = methods.tfidf(task.test, task.train)
            same = labels[places][:, None] == labels[None]
            by_other["nearest of the label"] = alike.masked_fill(~same, -1.0)
            drawn = torch.rand(same.shape, generator=torch.Generator().manual_seed(seed))
            by_other["others of the label"] = drawn.masked_fill(~same, -1.0)
            for name, scores in by_other.items():
                sets[name] = [best(row, n, int(p)) for row, n, p in zip(scores, fewest, places, strict=True)]
        retrain = task.retrain(args.workers, args.cache)
        jobs = [(name, place) for name in sets for place in range(len(chosen))]
        keep = torch.ones((len(jobs), len(ids)), dtype=torch.bool)
        for job, (name, place) in enumerate(jobs):
            keep[job, [int(places[place]), *sets[name][place]]] = False
        answers = retrain(keep, [seed] * len(jobs))
        given = {name: torch.stack([answers[jobs.index((name, i)), i] for i in range(len(chosen))]) for name in sets}
        texts, skip = ids.tolist(), sorted(task.tokenizer.all_special_ids)
        named: list[list[Position]] = []
        for one in chosen:
            tokens = {token for word in one.words(against=False, count=WORDS) for token in word.token_ids}
            held = [pair.train_index for pair in one.reasons.speaks_for]
            named.append([(index, p) for index in held for p, token in enumerate(texts[index]) if token in tokens])
        others = [another_word(positions, texts, skip=skip, seed=i) for i, positions in enumerate(named)]
        keep = torch.ones((2 * len(chosen), len(ids)), dtype=torch.bool)
        keep[torch.arange(2 * len(chosen)), places.repeat(2)] = False
        hidden = retrain(keep, [seed] * len(keep), [*named, *others])
        own = torch.arange(len(chosen))
        given["words, hidden"] = hidden[own, own]
        given["other words, hidden"] = hidden[own + len(chosen), own]
        for name, probability in given.items():
            changes.setdefault(name, []).append(given["itself"] - probability)
            turned.setdefault(name, []).append((probability < 0.5).double())
        changes.setdefault("probability without itself", []).append(given["itself"])
        content = {
            "witnesses": WITNESSES,
            "noise": args.noise,
            "seeds": seeds[:number],
            "asked": asked_at,
            "fall of the wrong label's probability": {name: torch.cat(parts) for name, parts in changes.items()},
            "wrong label below a half": {name: torch.cat(parts) for name, parts in turned.items()},
        }
        path = store(args.out, f"why-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content)
        print(f"seed {seed}: {asked_at} texts, {path}")
        for name, parts in changes.items():
            if name not in turned:
                print(f"  {name}: {torch.cat(parts).mean():.2f}")
                continue
            fall, down = torch.cat(parts), torch.cat(turned[name])
            ahead = bootstrap_mean(torch.cat(changes["suspects"]) - fall) if name not in ("itself", "suspects") else ""
            print(
                f"  {name:22} fall {bootstrap_mean(fall)}  below a half {down.mean():.2f}  ours ahead by {ahead}",
                flush=True,
            )


if __name__ == "__main__":
    main()
