"""How the recommended score was chosen: on texts, questions and a seed that no other table has.

    python benchmarks/evidence/choosing.py --dataset jigsaw_toxicity      results/evidence/choosing-jigsaw_toxicity-cnn-cpu.json

A few methods name the 100 strongest proponents and opponents of each question; the explained model is retrained from its own seed
without each of these sets. A score is right where its sum over a set tells how far the answer moved, of every question: that is
one pool of retrainings for all scores, and for those thought of later. --cache keeps it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from captum_tracinwe.evaluation import bootstrap, spearman
from captum_tracinwe.methods import Explained, Method
from common import arguments, facts, load, preset_of, store
from torch import Tensor

from captum_tracinwe import methods
from captum_tracinwe.preconditioners import Cooccurrence
from captum_tracinwe.rows.ranking import top_k

# Of texts and questions, and of the explained model; the other tables have 0, and 0 to 5.
DATA_SEED, SEED = 100, 7
QUESTIONS = {"smoke": 4, "cpu": 40, "gpu": 100}
REMOVED = {"smoke": 10, "cpu": 100, "gpu": 100}
# Who names the sets.
NAMING = "WE, idf²", "TR-TFIDF", "regression on words"
BOTH: dict[str, Any] = {"table": ("input", "bag"), "shares": "equal", "normalize": "words"}


def trials(explained: Explained) -> dict[str, Callable[[], Method]]:
    """Name → score; a new one needs a line here and nothing else."""

    def rows(**options: Any) -> Callable[[], Method]:
        return lambda: methods.tracin_we(explained, **options)

    return {
        "WE": rows(),
        "WE, idf²": rows(preconditioner="idf"),
        "WE, idf², by words": rows(preconditioner="idf", normalize="words"),
        "WE, idf², by gradient": rows(preconditioner="idf", normalize="gradient"),
        "WE + bag, idf²": rows(preconditioner="idf", **BOTH),
        "bag, idf²": rows(preconditioner="idf", table="bag", normalize="words"),
        "WE, cooccurrence": rows(preconditioner="cooccurrence", normalize="words"),
        "bag, cooccurrence": rows(preconditioner="cooccurrence", table="bag", normalize="words"),
        "WE + bag, cooccurrence": rows(preconditioner="cooccurrence", **BOTH),
        "WE + bag, cooccurrence, a quarter of the damping": rows(preconditioner=Cooccurrence(damping=0.00125), **BOTH),
        "WE + bag, cooccurrence, four times the damping": rows(preconditioner=Cooccurrence(damping=0.02), **BOTH),
        "WE + bag, cooccurrence by_moved (recommended)": rows(preconditioner=Cooccurrence(by_moved=True), **BOTH),
        "TR-TFIDF": lambda: methods.tr_tfidf(explained),
        "regression on words": methods.bag_regression,
    }


def told(scores: Tensor, sets: Tensor, changes: Tensor) -> Tensor:
    """For each question the rank correlation over sets of −Σ scores and the change, ``(N,)``."""
    return spearman(-(scores.double() @ sets.double().T), changes.T.double())


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args(argv)
    torch.set_num_threads(1)
    preset, removed = preset_of(args), REMOVED[args.preset]
    questions = QUESTIONS[args.preset] if args.tests is None else args.tests
    task = load(args.dataset, args.model, replace(preset, tests=questions), args.data, DATA_SEED)
    with tempfile.TemporaryDirectory() as folder:
        explained = task.explained(folder, SEED)
        scores = {name: make()(task.test, task.train).cpu() for name, make in trials(explained).items()}
    everything = torch.ones(len(task.train), dtype=torch.bool)
    kept = {everything.numpy().tobytes(): everything}
    for name in NAMING:
        for proponents in (True, False):
            for named in top_k(scores[name], removed, proponents)[0]:
                left = everything.clone()
                left[named] = False
                kept.setdefault(left.numpy().tobytes(), left)
    masks = torch.stack(list(kept.values()))
    answers = task.retrain(args.workers, args.cache)(masks, [SEED] * len(masks))
    sets, changes = ~masks[1:], answers[1:] - answers[0]
    found = {name: told(matrix, sets, changes) for name, matrix in scores.items()}
    table = {}
    for name, values in found.items():
        ahead = values - found["TR-TFIDF"]
        intervals = [bootstrap(lambda i, v=v: v[i].nanmean(), len(v)) for v in (values, ahead)]
        table[name] = {"told": values, "intervals": [[one.estimate, one.low, one.high] for one in intervals]}
        print(f"{name:40} {intervals[0]}  ahead of TR-TFIDF by {intervals[1]}", flush=True)
    content = {"sets": len(sets), "removed": removed, "seed": SEED, "methods": table}
    print(store(args.out, f"choosing-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content))


if __name__ == "__main__":
    main()
