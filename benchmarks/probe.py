"""Claim: on twenty plain models the probe is silent, and costs next to nothing of a pass.

A pass over 5,000 texts of 8 to 64 words (of 64 for models that take no mask) at one checkpoint, with the probe and without, in
turn. What is reported is what all checks took (forms of batch tried, the look at each batch, the model that comes back), as a
part of the pass without them: the median of as many rounds as fit into `--seconds`, at least one. Seconds are those of the
processor, so that what else the machine does counts little. A warning, or batches that go another way than as they are, end it
in an error.

    python benchmarks/probe.py [--texts 5000] [--seconds 8] [--threads 1]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from probe_models import PLAIN, Plain, texts
from torch import nn

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.gradients.token_losses import TokenLoss

RESULTS = Path(__file__).parent / "results" / "probe.json"
LOSSES = {
    "class": nn.CrossEntropyLoss(reduction="none"),
    "classes": TokenLoss(shift=False),
    "words": TokenLoss(),
    "answer": TokenLoss(shift=False),
}
BATCH, MOST_ROUNDS = 32, 25


def measured(plain: Plain, count: int, limit: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model, data = plain.make().eval(), texts(count, plain.labels, plain.padded)
    passes, parts, shares, said = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        save_checkpoint(f"{folder}/step-1.pt", model, 1e-3)
        options = {"loss_fn": LOSSES[plain.labels], "batch_size": BATCH}
        begun = time.perf_counter()
        while not passes or (time.perf_counter() - begun < limit and len(passes) < MOST_ROUNDS):
            at = time.perf_counter()
            TracInWE(model, data, folder, **options, probe=False).self_influence()
            passes.append(time.perf_counter() - at)
            tracin = TracInWE(model, data, folder, **options)
            tracin.self_influence()
            parts.append(tracin.probes.seconds)
            shares.append(parts[-1] / passes[-1])
            found = tracin.probes.found.values()
            said += [f"taken {one.way.name}" for one in found if one.way.name != "as it is"]
        said += [str(one.message) for one in heard]
    return {
        "pass without it, s": round(statistics.median(passes), 3),
        "probe, s": round(statistics.median(parts), 4),
        "probe / pass without it": round(statistics.median(shares), 4),
        "rounds": len(passes),
        "forms tried": len(found),
        "largest difference": float(f"{max(one.difference for one in found):.2g}"),
        "said": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="models whose names have one of these in them")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    time.perf_counter = time.process_time  # the probe's own clock as well
    found: dict[str, dict[str, Any]] = {}
    for name, plain in PLAIN.items():
        if not args.only or any(part in name for part in args.only):
            found[name] = measured(plain, args.texts, args.seconds)
            print(name, found[name], flush=True)
    said = {name: numbers["said"] for name, numbers in found.items() if numbers["said"]}
    if said:
        raise SystemExit(f"Something was said of plain models: {said}")
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "settings": {"texts": args.texts, "seconds": args.seconds, "threads": args.threads, "batch": BATCH},
    }
    args.out.write_text(json.dumps({**about, "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
