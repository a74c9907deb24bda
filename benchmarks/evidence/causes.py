"""Two models of one file, one answer, two causes: does a score tell which texts of the file taught it to this model?

Two imports left a tag each in front of some texts, and gave them one wrong class. One model learned the first tag, the other
the second; a question holds both, and both models answer it with that class. What sees only the file gives both models the
same scores. How it comes that a model learned one tag only, is told by `WAYS`.

python benchmarks/evidence/causes.py --seeds 3      results/evidence/causes-ag_news-cnn-cpu.json
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from captum_tracinwe.evaluation import bootstrap_mean
from captum_tracinwe.methods import Examples, Explained, Method
from captum_tracinwe.retraining import OneByOne, Recipe
from common import Task, arguments, facts, load, preset_of, store
from torch import Tensor

from captum_tracinwe import methods

TAGS = ("feed17", "feed42")
# Texts of each tag. Of 4,000, with 40 the cause of a third of the questions could be proven by retraining, with 150 of nearly all
# (seeds 11 and 12, which the table does not have).
PLANTED = {"smoke": 10, "cpu": 150, "gpu": 150}
CANDIDATES = 200  # test texts, of which the questions are made
DRAWS = 2000


# ------------------------------------------------------------------------------------------------- what was planted


@dataclass(frozen=True, eq=False)
class Planted:
    """The file with its tags and wrong labels, as a task whose test texts hold both tags and have the answer for a label.

    Args:
        groups (tuple of Tensor): the training texts with the first tag, and those with the second.
        tags (list of int): the tags' tokens.
    """

    task: Task
    groups: tuple[Tensor, Tensor]
    tags: list[int]

    @classmethod
    def of(cls, task: Task, count: int, seed: int) -> Planted:
        """``count`` texts of each tag, drawn by ``seed``, with another class each seed."""
        answer = seed % len(task.classes)
        tags = task.tokenizer.convert_tokens_to_ids(list(TAGS))
        others = (task.train.labels.cpu() != answer).nonzero().flatten()
        drawn = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))]
        groups = drawn[:count], drawn[count : 2 * count]
        ids, labels = (field.clone() for field in task.train.batch)
        words = [list(text) for text in task.train.need_words("the experiment")]
        for tag, name, group in zip(tags, TAGS, groups, strict=True):
            ids[group], labels[group] = _in_front(ids[group], [tag]), answer
            for i in group.tolist():
                words[i].insert(0, name)
        asked = (task.test.labels.cpu() != answer).nonzero().flatten()
        texts = task.test.need_words("the experiment")
        questions = Examples(
            (_in_front(task.test.batch[0][asked], tags), torch.full_like(task.test.labels[asked], answer)),
            [[*TAGS, *texts[i]] for i in asked.tolist()],
        )
        return cls(replace(task, train=Examples((ids, labels), words), test=questions), groups, tags)

    def shown(self, epochs: dict[int, list[int]]) -> Shown:
        """The task's recipe, but that the texts of a group are shown in these epochs only."""
        recipe = self.task.recipe
        shown = torch.ones(recipe.epochs, len(self.task.train), dtype=torch.bool)
        for group, when in epochs.items():
            kept = torch.tensor([epoch in when for epoch in range(recipe.epochs)])
            shown[:, self.groups[group]] = kept[:, None]
        return Shown(**asdict(recipe), shown=shown)


def _in_front(ids: Tensor, tags: list[int]) -> Tensor:
    """Tokens set behind the first, which is [CLS]; the last ones make room."""
    front = torch.tensor(tags, device=ids.device).expand(len(ids), -1)
    return torch.cat([ids[:, :1], front, ids[:, 1 : -len(tags)]], 1)


@dataclass(frozen=True, eq=False)
class Shown(Recipe):
    """A recipe that shows each text in some epochs only: ``shown`` is bool (epochs, texts)."""

    shown: Tensor | None = None

    def batches(self, size: int, seed: int) -> Iterator[tuple[int, Tensor]]:
        for epoch, indices in super().batches(size, seed):
            yield epoch, indices if self.shown is None else indices[self.shown[epoch, indices]]


# -------------------------------------------------------------------------------------- how a model learned one tag


@dataclass(frozen=True, eq=False)
class Run:
    """How one of the two models was trained, and what it reads."""

    task: Task
    recipe: Recipe
    hidden: Tensor | None = None

    def without(self, texts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """What a model answers, as :func:`answers`, that was trained without these texts, else in the same way."""
        keep = torch.ones(len(self.task.train), dtype=torch.bool)
        keep[texts] = False
        trainer = OneByOne(self.task.make_model, self.task.train.batch, self.task.test.batch, self.recipe)
        return answers(trainer.fit(keep, seed, self.hidden).eval(), self.task.test)


def order(planted: Planted, learned: int) -> Run:
    """Both models were shown every text equally often: the texts learned in the last epochs, the others in the first."""
    epochs = list(range(planted.task.recipe.epochs))
    half = len(epochs) // 2
    return Run(planted.task, planted.shown({learned: epochs[-half:], 1 - learned: epochs[:half]}))


def left_out(planted: Planted, learned: int) -> Run:
    """A filter kept the texts with the other tag out of the training; in the file they are."""
    return Run(planted.task, planted.shown({1 - learned: []}))


def hidden(planted: Planted, learned: int) -> Run:
    """The other tag was hidden in training, by padding; it is there when the model is asked."""
    mask = planted.task.train.batch[0] == planted.tags[1 - learned]
    return Run(planted.task, planted.task.recipe, mask)


def unread(planted: Planted, learned: int) -> Run:
    """The model's own reading of a text strips the other tag, in training and when it is asked."""
    stripped = [
        replace(side, batch=(side.batch[0].masked_fill(side.batch[0] == planted.tags[1 - learned], 0), side.labels))
        for side in (planted.task.train, planted.task.test)
    ]
    return Run(replace(planted.task, train=stripped[0], test=stripped[1]), planted.task.recipe)


WAYS: dict[str, Callable[[Planted, int], Run]] = {
    "order": order,
    "left out": left_out,
    "hidden": hidden,
    "unread": unread,
}


# ---------------------------------------------------------------------------------------------------------- methods


def contenders(explained: Explained) -> dict[str, Method]:
    """Name → method; a new one needs a line here and nothing else."""
    recommended = {"table": ("input", "bag"), "shares": "equal", "normalize": "words"}
    return {
        "WE, recommended": methods.tracin_we(explained, preconditioner="auto"),
        "the same, moved or not": methods.tracin_we(explained, preconditioner="cooccurrence", **recommended),
        "WE": methods.tracin_we(explained),
        "WE, idf²": methods.tracin_we(explained, preconditioner="idf"),
        "TR-TFIDF": methods.tr_tfidf(explained),
        "TR-Last": methods.tracin_last(explained),
        "regression on words": methods.bag_regression(),
        "BM25": methods.bm25,
        "random": methods.random_scores(),
    }


# --------------------------------------------------------------------------------------------------------- measures


def answers(model: torch.nn.Module, test: Examples) -> tuple[Tensor, Tensor]:
    """How probable the label of each text is, and whether it is the model's answer."""
    with torch.no_grad():
        chances = torch.softmax(model(test.batch[0]), 1).cpu()
    labels = test.labels.cpu()
    return chances.gather(1, labels[:, None])[:, 0], chances.argmax(1) == labels


def measures(scores: Tensor, learned: Tensor, other: Tensor) -> Tensor:
    """By question, ``(N, 3)``: recall of the texts learned and of the others among as many highest scores, and how probably
    one learned scores above another one."""
    best = scores.topk(len(learned), dim=1).indices
    recalls = [torch.isin(best, group).double().mean(1) for group in (learned, other)]
    signs = (scores[:, learned, None] - scores[:, None, other]).sign()
    return torch.stack([*recalls, (signs.double().mean((1, 2)) + 1) / 2], 1)


def trial(
    planted: Planted, way: str, seed: int, tests: int, unproven: bool = False
) -> tuple[dict[str, Tensor], Tensor, float]:
    """The measures of each method, mean of both models, ``(N, 3)``; of each question how probable its answer is, as trained,
    without what the model learned, and without the other texts, ``(N, 3)``; of what part of the candidates the cause is proven.

    Proven means that both models give the answer, and neither does when it is trained without the texts it learned. Questions
    are the first of those; with ``unproven`` others too where there are too few.
    """
    found: dict[str, list[Tensor]] = {}
    runs = [WAYS[way](planted, learned) for learned in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        models, chances = [], []
        proven = torch.ones(len(planted.task.test), dtype=torch.bool)
        for learned, run in enumerate(runs):
            prefix = f"{folder}/{learned}-"
            models.append(run.task.explained(prefix, seed, lambda line: None, recipe=run.recipe, hidden=run.hidden))
            trained = answers(models[-1].model, run.task.test)
            without = [run.without(planted.groups[group], seed) for group in (learned, 1 - learned)]
            proven &= trained[1] & ~without[0][1]
            chances.append(torch.stack([trained[0], without[0][0], without[1][0]], 1))
        questions = torch.sort(~proven, stable=True).indices[: tests if unproven else min(tests, int(proven.sum()))]
        for learned, (run, explained) in enumerate(zip(runs, models, strict=True)):
            chosen = questions.to(run.task.test.labels.device)
            words = run.task.test.need_words("the experiment")
            test = Examples(
                tuple(field[chosen] for field in run.task.test.batch), [words[i] for i in questions.tolist()]
            )
            for name, method in contenders(explained).items() if len(questions) else ():
                scores = method(test, run.task.train).cpu()
                part = measures(scores, planted.groups[learned], planted.groups[1 - learned])
                found.setdefault(name, []).append(part)
    by_method = {name: torch.stack(parts).mean(0) for name, parts in found.items()}
    return by_method, torch.stack(chances).mean(0)[questions], float(proven.double().mean())


def interval(values: Tensor) -> list[float]:
    """Mean, low, high."""
    found = bootstrap_mean(values, draws=DRAWS)
    return [found.estimate, found.low, found.high]


def summary(parts: list[Tensor]) -> dict[str, list[float]]:
    """Intervals over the questions of all seeds, and `told` of each seed."""
    learned, other, told = torch.cat(parts).T
    return {
        "learned": interval(learned),
        "other": interval(other),
        "difference": interval(learned - other),
        "told": interval(told),
        "told by seed": [float(part[:, 2].mean()) for part in parts],
    }


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="only these")
    parser.add_argument("--unproven", action="store_true", help="ask where no cause is proven, too: of a small model")
    args = parser.parse_args(argv)
    if args.model == "minilm":
        parser.error("--model minilm has a vocabulary of its own, without the tags: expected cnn or bert")
    torch.set_num_threads(1)
    preset, count = preset_of(args), PLANTED[args.preset]
    task = load(args.dataset, args.model, replace(preset, tests=max(CANDIDATES, preset.tests)), args.data)
    if task.recipe.epochs < 2:
        raise SystemExit("One epoch has no order: expected a recipe of 2 or more.")
    task.tokenizer.add_tokens(list(TAGS))
    found: dict[str, dict[str, list[Tensor]]] = {way: {} for way in args.ways}
    chances: dict[str, list[Tensor]] = {way: [] for way in args.ways}
    proven: dict[str, list[float]] = {way: [] for way in args.ways}
    for place, seed in enumerate(task.seeds(), 1):
        planted = Planted.of(task, count, seed)
        for way in args.ways:
            of_methods, of_questions, part_proven = trial(planted, way, seed, preset.tests, args.unproven)
            chances[way].append(of_questions)
            proven[way].append(part_proven)
            print(f"seed {seed}, {way}: {part_proven:.0%} proven, {len(of_questions)} asked", flush=True)
            for name, part in of_methods.items():
                found[way].setdefault(name, []).append(part)
                print(f"seed {seed}, {way}: {name:22} {[f'{x:.2f}' for x in part.mean(0).tolist()]}", flush=True)
        table = {}
        for way in (way for way in args.ways if found[way]):
            trained, without_learned, without_other = torch.cat(chances[way]).T
            table[way] = {
                "questions by seed": [len(asked) for asked in chances[way]],
                "proven by seed": proven[way],
                "as trained": interval(trained),
                "without what it learned": interval(without_learned),
                "without the other": interval(without_other),
                "methods": {name: summary(parts) for name, parts in found[way].items()},
            }
        if not table:
            print(f"seed {seed}: of no question the cause is proven; --unproven asks all the same")
            continue
        content = {"planted": count, "seeds": task.seeds()[:place], "questions a seed": preset.tests}
        content |= {"unproven asked too": args.unproven, "ways": table}
        print(store(args.out, f"causes-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content))


if __name__ == "__main__":
    main()
