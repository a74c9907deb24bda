"""Case deletion: what each method names is removed, the model retrained, the change of the prediction measured.

    python benchmarks/evidence/deletion.py                              AG News, CNN, preset cpu
    python benchmarks/evidence/deletion.py --dataset jigsaw_toxicity
    python benchmarks/evidence/deletion.py --model bert
    python benchmarks/evidence/deletion.py --model minilm --texts 1000 --tests 10 --remove 50 --seeds 3
    python benchmarks/evidence/deletion.py --models 5                   ensemble-...: several runs, scores added up
    python benchmarks/evidence/deletion.py --own                        own-...: what taught *this* model?

One model is explained, and retrainings from other seeds ask what the data teach. With --own there are as many explained models
as seeds, and each is retrained from its own seed: same first weights, same order, the others keep their places.
Stores results/evidence/deletion-DATASET-MODEL-PRESET.json (own-...) after each seed. With --cache an interrupted run goes on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import torch
from captum_tracinwe.evaluation import auc_del, deletion_curves, separation
from captum_tracinwe.evaluation.deletion import DeletionCurve
from captum_tracinwe.methods import Examples, Explained, Method
from common import Task, arguments, begin, facts, store
from torch import Tensor

from captum_tracinwe import methods
from captum_tracinwe.gradients.embedding import find_embedding


def contenders(explained: Explained, train: Examples) -> dict[str, Callable[[], Method]]:
    common = methods.common_tokens(train)
    return {
        "WE": lambda: methods.tracin_we(explained),
        "WE, recommended": lambda: methods.tracin_we(explained, preconditioner="auto"),
        "WE-Topk": lambda: methods.tracin_we(explained, top_k_words=10),
        "WE-Syn": lambda: methods.tracin_we_syn(explained),
        "WE-NoC": lambda: methods.tracin_we(explained, exclude_tokens=common),
        "TR-Last": lambda: methods.tracin_last(explained),
        # Captum's NaiveInfluenceFunction: with its defaults, the 100 that its Arnoldi iteration names are to a half others. The
        # Hessian is a sum over the training set, so the damping is 1e-3 of each example.
        "Influence-Last": lambda: methods.influence_last(explained, exact=True, damping=1e-3 * len(train)),
        "Representer": lambda: methods.representer_last(explained),
        "TR-TFIDF": lambda: methods.tr_tfidf(explained),
        "regression on words": methods.bag_regression,
        "BM25": lambda: methods.bm25,
        "random": methods.random_scores,
    }


def highest_cosine(table: Tensor) -> float:
    """Of two different words' embeddings: up to 0.7 there is no pair that TracIn-WE-Syn could let meet."""
    rows = torch.nn.functional.normalize(table.detach().double(), dim=1)
    highest = -1.0
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024] @ rows.T
        block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -1
        highest = max(highest, float(block.max()))
    return highest


def scores_of(
    task: Task, names: list[str] | None = None, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, float], float]:
    """Scores of each method at the checkpoints of the model of a seed, the seconds each took, its words' highest cosine."""
    scores, seconds = {}, {}
    known = list(contenders(None, task.train))  # type: ignore[arg-type]
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise SystemExit(f"--methods: {', '.join(unknown)} is none of {', '.join(known)}.")
    with tempfile.TemporaryDirectory() as folder:
        explained = task.explained(folder, seed)
        for name, make in contenders(explained, task.train).items():
            if names is None or name in names:
                started = time.perf_counter()
                scores[name] = make()(task.test, task.train)
                seconds[name] = time.perf_counter() - started
                print(f"{name}: {seconds[name]:.1f} s", flush=True)
        table = find_embedding(explained.model, explained.embedding and [explained.embedding])
        return scores, seconds, highest_cosine(table.weight)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--remove", type=int, metavar="N", help="texts removed, instead of the preset's numbers")
    parser.add_argument("--own", action="store_true", help="retrain each explained model from its own seed")
    parser.add_argument(
        "--models", type=int, default=1, metavar="N", help="explain N models; a score is the sum of theirs"
    )
    args, task = begin(parser, argv)
    if args.models < 1 or (args.own and args.models > 1):
        raise SystemExit(
            f"--models {args.models}: expected at least 1, and with --own, which asks about one model, no more."
        )
    ks = task.preset.ks if args.remove is None else (0, args.remove)
    if not 0 < ks[-1] < len(task.train):
        raise SystemExit(
            f"Expected to remove at least 1 text and fewer than the {len(task.train)} there are, got {ks[-1]}."
        )
    retrain = task.retrain(args.workers, args.cache)
    curves: dict[tuple[str, bool], list[DeletionCurve]] = {}
    before: list[Tensor] = []
    for place, seed in enumerate(task.seeds(), 1):
        if args.own or place == 1:
            scores, seconds, cosine = scores_of(task, args.methods, seed if args.own else 0)
            for more in range(101, 100 + args.models):
                further, longer, _ = scores_of(task, args.methods, more)
                scores = {name: matrix + further[name] for name, matrix in scores.items()}
                seconds = {name: spent + longer[name] for name, spent in seconds.items()}
            before.append(retrain(torch.ones(1, len(task.train), dtype=torch.bool), [seed])[0])
        found = deletion_curves(scores, retrain, ks=ks, seeds=[seed])
        for key, curve in found.items():
            curves.setdefault(key, []).append(curve)
        joined = {key: DeletionCurve.cat(parts) for key, parts in curves.items()}
        table = {
            name: {
                "proponents": joined[name, True].changes,
                "opponents": joined[name, False].changes,
                "seconds": seconds[name],
            }
            for name in scores
        }
        content = {"seeds": task.seeds()[:place], "ks": list(ks), "p_before": before, "methods": table}
        content |= {"own": args.own, "models": args.models, "highest cosine of two words": cosine}
        kind = "own" if args.own else "deletion" if args.models == 1 else "ensemble"
        path = store(args.out, f"{kind}-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content)
        print(f"\nseed {seed}: {path}")
        for name in scores:
            plus, minus = joined[name, True], joined[name, False]
            print(f"{name:20} {auc_del(plus)}  {auc_del(minus)}  {separation(plus, minus)}", flush=True)


if __name__ == "__main__":
    main()
