"""What to do with wrong labels: weights from influence on trusted texts, against filtering, re-labelling and the right labels.

    python benchmarks/evidence/weights.py              results/evidence/weights-cnn-cpu.json
    python benchmarks/evidence/weights.py --choose     tries steps and scores on data seed 0; stores nothing

AG News, with a fifth of the labels wrong as by chance, and with the errors that people made (NoisyAG-News). Of each data seed 200
more texts have right labels: those are trusted. A model is trained anew on each set that is made of the training texts, from the
same first weights and in the same order, and asked about 2,000 test texts. A text counts as suspect from a suspicion of a half.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from captum_tracinwe.methods import Examples
from captum_tracinwe.texts import tokenize
from common import FILES, Task, arguments, facts, load, preset_of, store
from labels import planted
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint, suspects
from captum_tracinwe.app import data
from captum_tracinwe.neighbours import example_weights

CELLS = {"a fifth by chance": ("ag_news", 0.2), "errors of people": ("ag_news_noisy", None)}
TRUSTED, ROUNDS, DRAWS, EPOCHS = 200, 1, 2000, 8
# What --choose named: see the page.
STEP, SCORE = 1.0, "auto"
LOSS = nn.CrossEntropyLoss(reduction="none")
PLAIN, FILTERED = "as they are", "suspects removed"


@dataclass
class Cell:
    """A task with wrong labels, which labels are right, and trusted texts beside it."""

    task: Task
    gold: Tensor
    trusted: tuple[Tensor, Tensor]
    texts: list[str]


def prepared(noise: str, args: Any, seed: int) -> Cell:
    name, share = CELLS[noise]
    preset = preset_of(args)
    if (
        args.preset != "smoke"
    ):  # after 4 epochs it has hardly learned: of 4,000 texts, a fifth wrong, 48 % of the test texts
        preset = replace(preset, recipe=replace(preset.recipe, epochs=EPOCHS), checkpoints=(4, 6, EPOCHS))
    trusted = min(TRUSTED, preset.texts // 4)
    task = load(name, args.model, replace(preset, texts=preset.texts + trusted), args.data, seed)
    ids, given = task.train.batch
    gold = given if share else right_labels(task, args)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    apart, rest = order[:trusted], order[trusted:].sort().values
    texts, words = [task.texts[0][i] for i in rest.tolist()], task.train.need_words("weights")
    if share:
        wrong = planted("uniform", share, gold[rest].numpy(), len(task.classes), texts, seed)
        given = given.clone()
        given[rest] = torch.tensor(wrong)
    train = Examples((ids[rest], given[rest]), [words[i] for i in rest.tolist()])
    return Cell(replace(task, train=train), gold[rest], (ids[apart], gold[apart]), texts)


def right_labels(task: Task, args: Any) -> Tensor:
    """Of the texts of NoisyAG-News, each of which it has once: a sample is drawn by the labels given, so by text."""
    path = args.data / FILES[task.name][0]
    classes = data.classes_of(data.read_rows(path, "text", "noisy_label"), path)
    known = data.with_classes(data.read_rows(path, "text", "label"), classes, path)
    of_text = dict(zip(known.texts, known.labels, strict=True))
    return torch.tensor([of_text[text] for text in task.texts[0]])


def trained(task: Task, weights: Tensor | None, seed: int, folder: str, name: str) -> tuple[nn.Module, list[str]]:
    """A model trained on weighted texts: of each batch the weighted mean of the losses; and its checkpoints."""
    (ids, labels), recipe = task.train.batch, task.recipe
    weights = torch.ones(len(ids)) if weights is None else weights.float()
    paths: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.make_model().train()
        optimizer, now = recipe.optimizer_of(model), 0

        def keep(epoch: int) -> None:
            if epoch in task.checkpoints:
                paths.append(f"{folder}/{name}-{epoch:02d}.pt")
                save_checkpoint(paths[-1], model, recipe.learning_rate, step=epoch)

        for epoch, places in recipe.batches(len(ids), seed):
            if epoch > now:
                keep(epoch)
                now = epoch
            optimizer.zero_grad(set_to_none=False)
            heavy = weights[places]
            if float(heavy.sum()) > 0:
                (heavy * LOSS(model(ids[places]), labels[places])).sum().div(heavy.sum()).backward()
            optimizer.step()
        keep(recipe.epochs)
    return model.eval(), paths


def right(model: nn.Module, task: Task) -> Tensor:
    """Whether each test text is answered rightly, bool ``(N,)``."""
    ids, labels = task.test.batch
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in ids.split(256)]) == labels


def asked(task: Task, model: nn.Module, paths: Sequence[str], score: str | None) -> TracInWE:
    return TracInWE(
        model, TensorDataset(*task.train.batch), list(paths), loss_fn=LOSS, batch_size=64, preconditioner=score
    )


def cell(noise: str, args: Any, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Which test texts are answered rightly after each way of training, and what was done to the labels."""
    made = prepared(noise, args, seed)
    task, (ids, given) = made.task, made.task.train.batch
    wrong = given != made.gold
    found: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, paths = trained(task, None, seed, folder, "plain")
        found[PLAIN] = right(model, task)
        tracin = asked(task, model, paths, "auto")
        shown = tokenize(made.texts, task.tokenizer, max_length=ids.shape[1])
        told = suspects(tracin, texts=shown, limit=0)
        weights: Tensor | None = None
        for number in range(1, ROUNDS + 1):
            tracin = asked(task, model, paths, SCORE)
            weights = example_weights(tracin, made.trusted, step=STEP, start=weights)
            if number == 1:
                first = weights
                influence = example_weights(tracin, made.trusted, step=1e-6)  # its order, nothing cut off at 0
            model, paths = trained(task, weights, seed, folder, f"round-{number}")
            found[f"weighted, {number} round{'s' * (number > 1)}"] = right(model, task)
    suspected = torch.zeros(len(ids), dtype=torch.bool)
    relabelled = given.clone()
    for index, suspicion, suggested in zip(told.order, told.suspicions, told.suggested, strict=True):
        if suspicion > 0.5:
            suspected[index] = True
            relabelled[index] = told.names.index(suggested)
    lowest = torch.zeros_like(suspected)
    lowest[influence.argsort()[: int(suspected.sum())]] = True
    keeps = {FILTERED: ~suspected, "lowest influence removed": ~lowest}
    answers = task.retrain(args.workers, args.cache, "correct")(torch.stack(list(keeps.values())), [seed] * len(keeps))
    found |= dict(zip(keeps, answers, strict=True))
    others = {
        "suspects re-labelled": (ids, relabelled),
        "right labels": (ids, made.gold),
        "trusted texts added": (torch.cat([ids, made.trusted[0]]), torch.cat([given, made.trusted[1]])),
    }
    for name, batch in others.items():
        again = replace(task, train=Examples(batch, None)).retrain(args.workers, args.cache, "correct")
        found[name] = again(torch.ones(1, len(batch[0]), dtype=torch.bool), [seed])[0]
    about = {
        "wrong": wrong.double().mean(),
        "suspected": suspected.double().mean(),
        "of these wrong": wrong[suspected].double().mean(),
        "lowest, of these wrong": wrong[lowest].double().mean(),
        "weight of wrong labels": first[wrong].mean(),
        "of weight 0": (first == 0).double().mean(),
    }
    return found, {name: float(value) for name, value in about.items()}


def choose(args: Any) -> None:
    for noise in CELLS:
        made = prepared(noise, args, 0)
        task, wrong = made.task, made.task.train.batch[1] != made.gold
        with tempfile.TemporaryDirectory() as folder:
            model, paths = trained(task, None, 0, folder, "plain")
            print(f"{noise}: plain {right(model, task).double().mean():.3f}", flush=True)
            for score, steps in (("auto", (0.3, 1.0, 3.0)), (None, (0.3,))):
                tracin = asked(task, model, paths, score)
                for step in steps:
                    weights = example_weights(tracin, made.trusted, step=step)
                    again, _ = trained(task, weights, 0, folder, "tried")
                    print(
                        f"  {score}, step {step}: {right(again, task).double().mean():.3f}, weight of wrong ones "
                        f"{weights[wrong].mean():.2f}, {(weights == 0).double().mean():.0%} at 0",
                        flush=True,
                    )


def interval(values: Tensor) -> list[float]:
    """The mean of ``(S, N)`` with its 95 % interval over seeds and test texts, both drawn anew."""
    draw = torch.Generator().manual_seed(0)
    seeds, tests = (
        torch.zeros(DRAWS, size, dtype=torch.float64).scatter_add_(
            1,
            torch.randint(0, size, (DRAWS, size), generator=draw),
            torch.full((DRAWS, size), 1 / size, dtype=torch.float64),
        )
        for size in values.shape
    )
    drawn = ((seeds @ values) * tests).sum(1)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [float(values.mean()), low, high]


def summed(answers: dict[str, list[Tensor]], told: list[dict[str, float]]) -> dict[str, Any]:
    whole = {name: torch.stack(parts) for name, parts in answers.items()}
    return {
        "seeds": len(told),
        "about": {name: sum(one[name] for one in told) / len(told) for name in told[0]},
        "accuracy": {name: interval(one) for name, one in whole.items()},
        "by seed": {name: one.mean(1) for name, one in whole.items()},
        "ahead of": {
            rival: {name: interval(one - whole[rival]) for name, one in whole.items() if name != rival}
            for rival in (PLAIN, FILTERED)
        },
    }


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="try steps and scores on data seed 0")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.tests = args.tests or (40 if args.preset == "smoke" else 2000)
    args.texts = args.texts or (200 if args.preset == "smoke" else 2000)
    if args.choose:
        choose(args)
        return
    answers: dict[str, dict[str, list[Tensor]]] = {noise: {} for noise in CELLS}
    told: dict[str, list[dict[str, float]]] = {noise: [] for noise in CELLS}
    for seed in range(1, 1 + (args.seeds or 5)):
        for noise in CELLS:
            found, about = cell(noise, args, seed)
            told[noise].append(about)
            for name, one in found.items():
                answers[noise].setdefault(name, []).append(one.double())
            ordered = ", ".join(f"{name} {one.double().mean():.3f}" for name, one in found.items())
            print(f"{noise}, seed {seed}: {ordered}", flush=True)
            content = {"seeds": list(range(1, seed + 1)), "trusted": TRUSTED, "step": STEP, "score": SCORE}
            content["cells"] = {noise: summed(answers[noise], told[noise]) for noise in CELLS if told[noise]}
            about = facts(prepared(noise, args, seed).task, args.preset) | {"dataset": list(CELLS)}
            path = store(args.out, f"weights-{args.model}-{args.preset}", about | content)
    print(path)


# --------------------------------------------------------------------------------------------------------------- table


def table(content: dict[str, Any]) -> str:
    parts = []
    for noise, found in content["cells"].items():
        about = found["about"]
        low_ones, seeds = about["lowest, of these wrong"], f"{found['seeds']} seed{'s' * (found['seeds'] > 1)}"
        lines = [
            f"{noise}: {content['settings']['texts']:,} texts, {about['wrong']:.0%} of the labels wrong; "
            f"{about['suspected']:.0%} suspected, of which {about['of these wrong']:.0%} are wrong. "
            f"{seeds}. Mean weight of a wrong label {about['weight of wrong labels']:.2f}, "
            f"{about['of weight 0']:.0%} of the weights 0. Of as many texts of lowest influence {low_ones:.0%} are wrong.",
            "",
            f"| trained on | test accuracy | ahead of the labels {PLAIN} by | ahead of {FILTERED} by |",
            "|---|---|---|---|",
        ]
        for name in sorted(found["accuracy"], key=lambda name: -found["accuracy"][name][0]):
            mean, low, high = found["accuracy"][name]
            cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]"]
            cells += ["" if name == rival else _signed(found["ahead of"][rival][name]) for rival in (PLAIN, FILTERED)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _signed(values: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values).replace("-", "−")


if __name__ == "__main__":
    main()
