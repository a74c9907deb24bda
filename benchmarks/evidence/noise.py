"""Human label errors: how early each ranking of the training set meets them.

    python benchmarks/evidence/noise.py      AG News with human labels, CNN; results/evidence/noise-ag_news_noisy-cnn-cpu.json

Global scores (self-influence, loss), and scores on a test set with right labels, aggregated by mean, rank and vote, over all
test examples or over those predicted correctly (-c). For scores on a test set the most harmful examples come first.
"""

from __future__ import annotations

import tempfile

import torch
from captum_tracinwe.evaluation import aggregate, noise_detection_curve, noise_intervals
from common import arguments, facts, load, preset_of, store
from models import MODELS
from torch import Tensor

from captum_tracinwe import methods
from captum_tracinwe.checkpoints.weights import load_checkpoint

TESTS = 200
# With a fifth of the labels wrong, 4,000 texts are few for this CNN (test accuracy 0.52 after 4 epochs): all there are.
TEXTS = 10_000


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], dataset="ag_news_noisy")
    groups = ["WE", "WE, recommended", "TR-Second", "TR-Last"]
    parser.add_argument("--groups", nargs="+", choices=groups, default=groups, help="only these groups of layers")
    args = parser.parse_args(argv)
    if args.dataset != "ag_news_noisy":
        parser.error(f"--dataset {args.dataset} has no labels that are known to be wrong: expected ag_news_noisy")
    torch.set_num_threads(1)
    if args.preset != "smoke":
        args.tests, args.texts = args.tests or TESTS, args.texts or TEXTS
    else:
        args.tests = args.tests or 12
    task = load(args.dataset, args.model, preset_of(args), args.data)
    wrong = task.given_labels
    assert wrong is not None
    found: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        explained = task.explained(folder)
        load_checkpoint(explained.model, explained.checkpoints[-1])
        with torch.no_grad():
            correct = explained.model(task.test.batch[0]).argmax(1) == task.test.labels
        found["loss"] = -methods.training_loss(explained, task.train)
        found["WE self-influence"] = -methods.we_self_influence(explained, task.train)
        found["TR-Last self-influence"] = -methods.last_self_influence(explained, task.train)
        found["random"] = methods.random_scores()(task.test, task.train)[0]
        groups = {
            "WE": methods.tracin_we(explained),
            "WE, recommended": methods.tracin_we(explained, preconditioner="auto"),
            "TR-Second": methods.tracin_layers(explained, [MODELS[args.model].second]),
            "TR-Last": methods.tracin_last(explained),
        }
        for name in args.groups:
            scores = groups[name](task.test, task.train)
            for how in ("mean", "rank", "vote"):
                found[f"{name}, {how}"] = aggregate(scores, how)
                found[f"{name}, {how}-c"] = aggregate(scores, how, correct=correct)
            print(name, flush=True)
    table = {}
    for name, scores in found.items():
        intervals = noise_intervals(scores, wrong, draws=300)
        curve = noise_detection_curve(scores, wrong)
        table[name] = {key: [i.estimate, i.low, i.high] for key, i in intervals.items()}
        table[name]["curve"] = curve.found[:: max(1, len(curve.found) // 100)]
        print(f"{name:24}", "  ".join(f"{key} {interval}" for key, interval in intervals.items()), flush=True)
    content = {"wrong": float(wrong.double().mean()), "test accuracy": float(correct.double().mean()), "methods": table}
    path = store(args.out, f"noise-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content)
    print(path)


if __name__ == "__main__":
    main()
