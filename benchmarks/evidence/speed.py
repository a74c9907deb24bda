"""Many small models at once against one after the other: seconds per retraining at the preset's size.

    python benchmarks/evidence/speed.py      results/evidence/speed-ag_news-cnn-cpu.json, about 3 minutes

Both run in one process of one thread, in turn; the ratio is the median of the rounds' ratios. More cores are used by more
processes, by both alike.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch
from captum_tracinwe.retraining import ManyCNNs, OneByOne
from common import arguments, facts, load, preset_of, store

ROUNDS = 3


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 16])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    preset = preset_of(args)
    preset = replace(preset, recipe=replace(preset.recipe, epochs=1))  # seconds are proportional to epochs
    task = load(args.dataset, "cnn", preset, args.data)
    sides = task.train.batch, task.test.batch
    one = OneByOne(task.make_model, *sides, preset.recipe)
    keep = torch.rand(max(args.at_once), len(task.train), generator=torch.Generator().manual_seed(0)) < 0.975
    seconds: dict[str, list[float]] = {}

    def timed(name: str, jobs: int, run: object) -> torch.Tensor:
        started = time.perf_counter()
        found: torch.Tensor = run(keep[:jobs], [0] * jobs)  # type: ignore[operator]
        seconds.setdefault(name, []).append((time.perf_counter() - started) / jobs)
        return found

    difference = 0.0
    for _ in range(ROUNDS):
        plain = timed("one by one", 1, one)
        for number in args.at_once:
            many = timed(f"{number} at once", number, ManyCNNs(task.make_model, *sides, preset.recipe, at_once=number))
            difference = max(difference, float((many[:1] - plain).abs().max()))
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds["one by one"], values, strict=True))
        for name, values in seconds.items()
    }
    for name, values in seconds.items():
        print(f"{name:12} {statistics.median(values):.2f} s per epoch and model, ratio {ratios[name]:.2f}")
    print(f"largest difference of a probability: {difference:.1e}")
    content = {"seconds per epoch": seconds, "ratio": ratios, "largest difference": difference}
    print(store(args.out, f"speed-{args.dataset}-cnn-{args.preset}", facts(task, args.preset) | content))


if __name__ == "__main__":
    main()
