"""Does a small model's ranking hold for a larger one? Agreement of rankings over sizes, and deletions measured on the larger one.

    python benchmarks/evidence/sizes.py             results/evidence/sizes-ag_news-bert-cpu.json
    python benchmarks/evidence/sizes.py --also cnn  without MiniLM

The text CNN, the BERT 2 x 128 and a fine-tuned MiniLM learn the same 2,000 texts, and the recommended score of each ranks
them for the same 20 questions. Then the BERT is trained again, from its own seed, without the 50 texts that its own score
names first, that the CNN's names, that a regression on words names (no model at all), and that chance names. With --cache an
interrupted run goes on.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from captum_tracinwe.evaluation import DeletionCurve, Interval, bootstrap_mean, deletion_curves
from captum_tracinwe.methods import Examples
from common import Task, arguments, facts, load, preset_of, store
from torch import Tensor

from captum_tracinwe import methods
from captum_tracinwe.neighbours.across_models import MEASURES, rank_agreement

QUESTIONS, REMOVED = 8, 50
# Half of the usual texts, and so half of the texts removed: retraining the BERT is what costs.
FEWER = 2000
OWN, SMALL, WORDS, CHANCE = "its own names", "the CNN's names", "regression on words", "random"
ALL, LABEL = "all", "of the question's label"
NAMES = {"cnn": "CNN", "bert": "BERT", "minilm": "MiniLM"}


def scored(task: Task, seed: int) -> tuple[Tensor, dict[str, float]]:
    """The recommended score of the model of a seed, and the processor's seconds of training and of scoring."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        explained = task.explained(folder, seed, progress=lambda told: print(f"  {task.kind}, {told}", flush=True))
        trained = time.process_time()
        scores = methods.tracin_we(explained, preconditioner="auto")(task.test, task.train)
        return scores, {"training": trained - started, "scoring": time.process_time() - trained}


def agreement(scores: dict[str, Tensor], task: Task, k: int) -> list[dict[str, Any]]:
    same = task.test.labels[:, None] == task.train.labels[None]
    rows = []
    for texts, where in ((ALL, None), (LABEL, same)):
        found = rank_agreement(scores, k, where=where)
        for pair in found.pairs:
            row = {"first": pair.first, "second": pair.second, "texts": texts, "by chance": found.by_chance.mean()}
            rows.append(row | {measure: pair.of(measure) for measure in MEASURES})
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(model="bert", workers=1)
    parser.add_argument("--also", nargs="*", choices=NAMES, default=["cnn", "minilm"], help="compared with --model")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.model == "cnn" or "cnn" not in args.also:
        raise SystemExit("Expected a --model larger than the CNN, and the CNN among --also: it is the small one.")
    preset = preset_of(args)
    if args.preset == "cpu" and args.texts is None:
        preset = replace(preset, texts=FEWER)
    removed = REMOVED if args.preset == "cpu" else preset.ks[-1]
    seeds = tuple(range(1, 1 + (args.seeds or 2)))
    small, large = (load(args.dataset, kind, preset, args.data) for kind in ("cnn", args.model))
    name = NAMES[args.model]
    asked = min(QUESTIONS, len(large.test))
    measured = replace(large, test=Examples(tuple(field[:asked] for field in large.test.batch)))
    retrain = measured.retrain(args.workers, args.cache)
    words = methods.bag_regression()(small.test, small.train)
    scores: dict[str, Tensor] = {}
    seconds: dict[str, dict[str, float]] = {}
    curves: dict[str, list[DeletionCurve]] = {}
    before: list[Tensor] = []
    done: list[int] = []

    def write() -> None:
        content = {
            "removed": removed,
            "asked": asked,
            "seeds": done,
            "larger": name,
            "before": before,
            "changes": {key: DeletionCurve.cat(parts).changes[:, :, -1] for key, parts in curves.items()},
            "seconds": seconds,
            "agreement": agreement(scores | {WORDS: words}, large, removed),
        }
        path = store(args.out, f"sizes-{args.dataset}-{args.model}-{args.preset}", facts(large, args.preset) | content)
        print(f"{path}\n{table(content)}", flush=True)

    for seed in seeds:
        for task in (small, large):
            key = f"{NAMES[task.kind]} {seed}"
            scores[key], seconds[key] = scored(task, seed)
            print(f"{key}: {seconds[key]}", flush=True)
        sets = {OWN: scores[f"{name} {seed}"], SMALL: scores[f"CNN {seed}"], WORDS: words}
        sets[CHANCE] = methods.random_scores(seed)(large.test, large.train)
        cut = {key: matrix[:asked] for key, matrix in sets.items()}
        found = deletion_curves(cut, retrain, ks=(0, removed), seeds=[seed], directions=(True,))
        for key, _ in found:
            curves.setdefault(key, []).append(found[key, True])
        before.append(retrain(torch.ones(1, len(large.train), dtype=torch.bool), [seed])[0])
        done.append(seed)
        write()
        for third in () if len(done) > 1 else (kind for kind in args.also if kind != "cnn"):
            scores[f"{NAMES[third]} 1"], seconds[f"{NAMES[third]} 1"] = scored(
                load(args.dataset, third, preset, args.data), 1
            )
            write()


# -------------------------------------------------------------------------------------------------------------- table


def table(content: dict[str, Any]) -> str:
    """Markdown: the deletions on the larger model, then agreement, all from stored values of single questions."""
    changes = {key: torch.as_tensor(value, dtype=torch.float64).mean(0) for key, value in content["changes"].items()}
    larger, seeds = content["larger"], content["seeds"]
    lines = [
        f"{content['asked']} questions, {len(seeds)} {larger}{'s' if len(seeds) > 1 else ''}, each retrained from its own seed "
        f"without {content['removed']} texts. In the first column a fall is negative. In the two after it "
        "plus means a larger fall.",
        "",
        f"| {larger} retrained without | change of the true class's probability | further down than regression on words | "
        "further down than random |",
        "|---|---|---|---|",
    ]
    for key, values in changes.items():
        ahead = [
            str(bootstrap_mean(changes[rival] - values)) if key not in (rival, CHANCE) else ""
            for rival in (WORDS, CHANCE)
        ]
        lines.append(f"| {key} | {bootstrap_mean(values)} | {' | '.join(ahead)} |")
    lost = bootstrap_mean(changes[SMALL] - changes[OWN])
    lines += ["", f"The CNN's names against its own: {lost} (above 0: the {larger}'s own names do more).", ""]
    k, alike = content["removed"], alike_of(content["agreement"])
    chance = {row["texts"]: float(row["by chance"]) for row in content["agreement"]}
    lines += [
        f"| rankings of | Spearman | of the label | first {k} in common | of the label | last {k} |",
        "|---|---|---|---|---|---|",
    ]
    columns = [(texts, measure) for measure in MEASURES for texts in (ALL, LABEL)][:5]
    for (first, second), found in alike.items():
        cells = [_plain(bootstrap_mean(found[key])) for key in columns]
        lines.append(f"| {first} and {second} | {' | '.join(cells)} |")
    for kind in sorted({second for first, second in alike if first == "CNN"} - {"CNN", WORDS}):
        cells = [str(bootstrap_mean(alike["CNN", kind][key] - alike[kind, WORDS][key])) for key in columns]
        lines.append(f"| with the {kind}: CNN ahead of regression by | {' | '.join(cells)} |")
    lines += [f"| by chance | 0 | 0 | {chance[ALL]:.2f} | {chance[LABEL]:.2f} | {chance[ALL]:.2f} |", ""]
    spent = (f"{key} {one['training']:.0f} + {one['scoring']:.0f}" for key, one in content["seconds"].items())
    return "\n".join([*lines, f"Seconds of one core, training + scoring: {', '.join(spent)}."])


def alike_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[tuple[str, str], Tensor]]:
    """Of two kinds of models, for each question the mean over their seeds: texts and measure → ``(N,)``."""
    order = ["CNN", "BERT", "MiniLM", WORDS]
    found: dict[tuple[str, str], dict[tuple[str, str], list[Tensor]]] = {}
    for row in rows:
        kinds = [name if name == WORDS else name.split()[0] for name in (row["first"], row["second"])]
        first, second = sorted(kinds, key=order.index)
        for measure in MEASURES:
            values = torch.as_tensor(row[measure], dtype=torch.float64)
            found.setdefault((first, second), {}).setdefault((row["texts"], measure), []).append(values)
    ordered = sorted(found, key=lambda pair: tuple(map(order.index, pair)))
    return {pair: {key: torch.stack(parts).mean(0) for key, parts in found[pair].items()} for pair in ordered}


def _plain(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-", "−")


if __name__ == "__main__":
    main()
