"""Linear datamodelling score of each method, and how far the methods agree.

    python benchmarks/evidence/lds.py      results/evidence/lds-ag_news-cnn-cpu.json

The model is trained on random halves of the training set; a method is right where the scores of a half add up to what the
model trained on it answers.
"""

from __future__ import annotations

from captum_tracinwe.evaluation import bootstrap, lds, random_subsets, spearman, top_k_agreement
from common import arguments, begin, facts, store
from deletion import scores_of

SUBSETS = {"smoke": 8, "cpu": 200, "gpu": 200}


def main(argv: list[str] | None = None) -> None:
    args, task = begin(arguments(__doc__.splitlines()[0]), argv)
    scores, _, _ = scores_of(task)
    subsets = random_subsets(SUBSETS[args.preset], len(task.train))
    answers = task.retrain(args.workers, args.cache)(subsets, list(range(1, 1 + len(subsets))))
    k = max(1, len(task.train) // 40)
    table = {}
    for name, matrix in scores.items():
        values = lds(matrix, subsets, answers)
        interval = bootstrap(lambda indices, v=values: v[indices].nanmean(), len(values))
        others = {
            other: [spearman(matrix, b).nanmean().item(), top_k_agreement(matrix, b, k).mean().item()]
            for other, b in scores.items()
        }
        table[name] = {"lds": values, "interval": [interval.estimate, interval.low, interval.high], "agreement": others}
        print(f"{name:20} LDS {interval}", flush=True)
    content = {"subsets": len(subsets), "k": k, "answers": answers, "methods": table}
    print(store(args.out, f"lds-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content))


if __name__ == "__main__":
    main()
