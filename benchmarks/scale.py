"""Claim: an exact top 10 among 10⁶ texts by reading a few hundredths of a percent of them; and what smaller indexes lose.

    python benchmarks/index_model.py --out DIR                  # once: MiniLM fine-tuned on AG News
    python benchmarks/scale.py forms --model DIR                # size and recall of an index of fewer bits or columns
    python benchmarks/scale.py grow --model DIR --dtype int4    # 10⁵ and 10⁶ synthetic texts: verified share, bytes, time

Synthetic texts have the words and the row norms of real ones, and each row's direction from another text with that word.
Each step writes its part of results/scale.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from index import DATA, K, drop_cache, shuffled_rows, timed, tracin_of
from torch import Tensor

from captum_tracinwe import GradientIndex, RowGradients

RESULTS = Path(__file__).parent / "results" / "scale.json"
FORMS: list[dict[str, Any]] = [
    {"rank": 31},
    {"dtype": "bfloat16", "rank": 7},
    {"dtype": "int8", "rank": 7},
    {"dtype": "int4", "rank": 15},
    {"dtype": "int4", "rank": 7},
    {"dtype": "int2", "rank": 15},
    {"dtype": "int2", "rank": 7},
    {"project": 64, "rank": 7},
    {"project": 64, "dtype": "int8", "rank": 7},
    {"project": 192, "dtype": "int4", "rank": 7},
]


def recall(found: Tensor, right: Tensor) -> float:
    """The mean share of each row of ``right`` that is in the same row of ``found``."""
    return float(torch.stack([torch.isin(a, b).double().mean() for a, b in zip(right, found, strict=True)]).mean())


def forms(args: argparse.Namespace) -> dict[str, Any]:
    """By each form of one index: bytes, the share of float32's ten it names, a question's seconds, how far scores can be off."""
    table: list[dict[str, Any]] = []
    for score in ("plain", "recommended"):
        preconditioner = None if score == "plain" else "auto"
        tracin, tests = tracin_of(args, preconditioner)
        right: dict[bool, Tensor] = {}
        batches = list(tests)
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            first = tracin.build_index(Path(folder) / "first", show_progress=True)
            bag = tracin.live.widths(first.manifest.source.width)[-1] if preconditioner else None
            for number, options in enumerate(FORMS):
                if score == "recommended" and "project" in options:
                    continue  # it needs the columns of its two tables apart
                index = first if not number else first.convert(Path(folder) / str(number), bag=bag, **options)
                asked, _ = tracin_of(args, preconditioner)
                asked.index = index
                row: dict[str, Any] = {"score": score, **options, "bytes": index.file_bytes}
                row["rows"], row["recall"] = sum(one.entry.rows for one in index.segments), {}
                for side, proponents in (("first", True), ("last", False)):
                    each = [asked.influence(batch, k=K, proponents=proponents).indices for batch in batches]
                    right.setdefault(proponents, torch.cat(each))
                    row["recall"][side] = recall(torch.cat(each), right[proponents])
                if score == "plain":
                    row |= searched(index, RowGradients.cat([asked.row_gradients(batch) for batch in batches]))
                table.append(row)
                print(row, flush=True)
    return {"texts": args.texts, "tests": args.tests, "checkpoints": args.checkpoints, "k": K, "forms": table}


def searched(index: GradientIndex, rows: RowGradients) -> dict[str, float]:
    """What a question takes, and how far its scores can be off, in the median."""
    found = index.search(rows, K)
    one = [rows.select([i]) for i in range(len(rows))]
    facts = {
        "verified": float(found.stats.verified_per_test.double().median()) / len(index),
        "seconds": statistics.median(timed(lambda r=r: index.search(r, K))[0] for r in one),
    }
    if found.stats.intervals is not None:
        low, high = found.stats.intervals.double().unbind(2)
        facts["half interval / score"] = float(((high - low) / 2 / found.influence_scores.abs()).median())
    return facts


def grow(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes, verified share and time of a question at each size, and the powers by which they grow."""
    tracin, _ = tracin_of(args)
    real = tracin.row_gradients()
    generator = torch.Generator().manual_seed(0)
    questions = shuffled_rows(real, args.tests, generator)
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path, size, written = Path(folder) / "index", 0, 0.0
        for target in args.sizes:
            while size < target:
                step = min(args.segment, target - size)
                more = shuffled_rows(real, step, generator)
                written += timed(lambda m=more, n=size: add(path, m, n, args))[0]
                size += step
                if size % (20 * args.segment) < step:
                    print(f"{size:,} texts", flush=True)
            table.append({"examples": size, "seconds to write": written} | asked(path, questions, size <= args.exact))
            drop_cache(path)
            cold, _ = timed(lambda: GradientIndex.open(path).search(questions.select([0]), K))
            table[-1]["seconds, first question from disk"] = cold
            print(table[-1], flush=True)
    times = math.log(table[-1]["examples"] / table[0]["examples"])
    powers = {
        name: math.log(table[-1][name] / table[0][name]) / times
        for name in ("disk", "seconds to write", "verified", "bytes read", "seconds")
    }
    options = {"dtype": args.dtype, "rank": args.rank, "segment": args.segment, "tests": args.tests, "k": K}
    return options | {"real texts": len(real), "sizes": table, "grows with the power": powers}


def asked(path: Path, questions: RowGradients, compared: bool) -> dict[str, Any]:
    """What the questions read and take; ``compared`` with scoring everything."""
    index = GradientIndex.open(path)
    one = [questions.select([i]) for i in range(len(questions))]
    found = index.search(questions, K)  # whatever is read for the first time
    seconds = [timed(lambda r=r: index.search(r, K))[0] for r in one]
    stats = found.stats
    share = (stats.verified_per_test.double() / stats.examples).sort().values
    facts = {
        "disk": index.file_bytes,
        "payload": index.payload_bytes,
        "rows": sum(segment.entry.rows for segment in index.segments),
        "verified": float(stats.verified_per_test.double().median()),
        "verified share, median": float(share.median()),
        "verified share, 90 %": float(share[int(0.9 * len(share))]),
        "bytes read": float(stats.bytes_per_test.double().median()),
        "seconds": statistics.median(seconds),
    }
    if compared:
        best = torch.sort(index.scores(questions), dim=1, descending=True, stable=True)
        facts["equal to brute force"] = bool(torch.equal(found.indices, best.indices[:, :K]))
    return facts


def add(path: Path, rows: RowGradients, size: int, args: argparse.Namespace) -> None:
    if size:
        GradientIndex.open(path).append(rows)
    else:
        GradientIndex.from_rows(path, rows, dtype=args.dtype, rank=args.rank, segment_examples=args.segment)


STEPS = {"forms": forms, "grow": grow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, default=DATA / "train_20k.jsonl.gz")
    parser.add_argument("--test", type=Path, default=DATA / "test_2k.jsonl.gz")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--tests", type=int, default=40)
    parser.add_argument("--checkpoints", type=int, default=1, help="the first N of the model's two")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="int4")
    parser.add_argument("--rank", type=int, default=31)
    parser.add_argument("--segment", type=int, default=8192, help="texts to a segment")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument(
        "--exact", type=int, default=100_000, help="sizes up to this are compared with scoring everything"
    )
    parser.add_argument("--folder", type=Path, help="where indexes are written for a while; default: the system's")
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = STEPS[args.step](args)
    known = json.loads(args.json.read_text()) if args.json.exists() else {}
    machine = {"date": str(datetime.date.today()), "machine": platform.machine(), "torch": torch.__version__}
    known[args.step] = {**machine, "threads": args.threads, **facts}
    args.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
