"""Fixing mistakes: opponents of misread test texts removed, or one word hidden in them; does retraining read them right?

python benchmarks/evidence/mistakes.py      results/evidence/mistakes-ag_news-cnn-cpu.json
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

import torch
from captum_tracinwe.evaluation import another_word, fixing_mistakes, without_opponents
from captum_tracinwe.evaluation.mistakes import Mistakes
from captum_tracinwe.methods import Examples
from common import Task, arguments, facts, load, preset_of, store
from deletion import contenders
from torch import Tensor
from words import named_words, specials

from captum_tracinwe import methods

REMOVED = {"smoke": 10, "cpu": 50, "gpu": 50}
MASKED = {"smoke": 20, "cpu": 200, "gpu": 200}
CANDIDATES = 200


def misread(task: Task, answers: Tensor, count: int) -> Task:
    """The task with only the first ``count`` test texts that the explained model gives a wrong class."""
    wrong = (~answers).nonzero().flatten()[:count]
    words = task.test.need_words("the experiment")
    test = Examples(tuple(field[wrong] for field in task.test.batch), [words[i] for i in wrong.tolist()])
    return replace(task, test=test)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    preset = preset_of(args)
    task = load(args.dataset, args.model, replace(preset, tests=max(CANDIDATES, preset.tests)), args.data)
    removed, masked = REMOVED[args.preset], MASKED[args.preset]
    with tempfile.TemporaryDirectory() as folder:
        explained = task.explained(folder)
        with torch.no_grad():
            answers = explained.model(task.test.batch[0]).argmax(1) == task.test.labels
        task = misread(task, answers, preset.tests)
        influence = contenders(explained, task.train)["Influence-Last"]()
        scores = {
            "WE-Topk": methods.tracin_we(explained, top_k_words=10)(task.test, task.train),
            "WE, recommended": methods.tracin_we(explained, preconditioner="auto")(task.test, task.train),
            "TR-Last": methods.tracin_last(explained)(task.test, task.train),
            "Influence-Last": influence(task.test, task.train),
            "random": methods.random_scores()(task.test, task.train),
        }
        named = named_words(task, explained, masked, proponents=False)
        recommended = named_words(task, explained, masked, proponents=False, preconditioner="auto")
    texts = task.train.batch[0].tolist()
    control = [another_word(positions, texts, skip=specials(task), seed=i) for i, positions in enumerate(named)]
    whole = torch.ones(len(task.test), len(task.train), dtype=torch.bool)
    runs = {f"{name}: {removed} opponents removed": (without_opponents(s, removed), None) for name, s in scores.items()}
    runs |= {
        f"WE: the named word hidden in {masked} opponents": (whole, named),
        f"another word hidden in the same {masked}": (whole, control),
        f"WE, recommended: the named word hidden in {masked} opponents": (whole, recommended),
    }
    retrain = task.retrain(args.workers, args.cache, ask="correct")
    results: dict[str, list[Mistakes]] = {}
    for place, seed in enumerate(task.seeds(), 1):
        table = {}
        for name, (keep, hidden) in runs.items():
            parts = results.setdefault(name, [])
            parts.append(fixing_mistakes(retrain, keep, hidden=hidden, seeds=(seed,)))
            joined = Mistakes(
                *(torch.cat([getattr(p, side) for p in parts]) for side in ("wrong_before", "right_after"))
            )
            table[name] = {"wrong before": joined.wrong_before.int(), "right after": joined.right_after.int()}
            print(f"seed {seed}: {name}: {joined.fixed(draws=1000)}", flush=True)
        content = {"seeds": task.seeds()[:place], "runs": table}
        print(
            store(args.out, f"mistakes-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content)
        )


if __name__ == "__main__":
    main()
