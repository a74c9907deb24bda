"""What a newcomer runs first, on real data: what it says, and how long it takes.

    python benchmarks/first_answer.py --data FOLDER [--only demo explain suspects] [--pages FOLDER]

FOLDER holds `train.csv.gz` and `test.csv.gz` of BANKING77 (Casanueva et al., 2020, CC BY 4.0; columns `text` and `category`; from
github.com/PolyAI-LDN/task-specific-datasets). Writes `results/first_answer.json` with the seconds. What `explain` and `suspects`
said goes into `results/explain.txt` and `results/suspects.txt`, which the guide shows. `--pages` keeps the pages they wrote:
`docs/pictures.py` makes a picture of one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
THREADS = 1
STARTS = {"explain": "The model is right", "suspects": "Of "}  # the line where a command begins to say what it found


def commands(data: Path, pages: Path) -> dict[str, list[str]]:
    """Name → arguments of `captum-tracinwe`."""
    train, test = str(data / "train.csv.gz"), str(data / "test.csv.gz")
    label = ["--label-column", "category", "--max-length", "32"]
    explain = ["--train", train, "--test", test, "--limit", "4000", "--epochs", "12", *label, "--no-cache"]
    return {
        "demo": ["demo", "--out", str(pages / "demo.html")],
        "explain": ["explain", *explain, "--out", str(pages / "explain.html")],
        "suspects": ["suspects", "--train", train, *label, "--epochs", "8", "--out", str(pages / "suspects.html")],
    }


def run(arguments: list[str]) -> tuple[str, dict[str, float]]:
    """What a command says, its seconds of a clock and of the processor."""
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "captum_tracinwe", *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, {"seconds": time.perf_counter() - start, "processor seconds": processor}


def shown(name: str, said: str) -> str:
    """What is said of the data, without what was done to get there and where the page lies."""
    lines = said.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(STARTS[name]))
    end = next((i for i, line in enumerate(lines) if line.startswith("Page")), len(lines))
    return without_texts("\n".join(lines[start:end]).strip()) + "\n"


def without_texts(said: str) -> str:
    """What was said, with `…` for each text: the data are not handed on here, only what is found in them."""
    said = re.sub(r"“[^”]*”", "“…”", said)
    return re.sub(r"^(     ..%  .*\n)(?: {10}(?!against |for ).*\n)+", r"\1          …\n", said, flags=re.M)


def main(argv: list[str] | None = None) -> None:
    """Run the commands and store what they took and said."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of BANKING77")
    parser.add_argument("--only", nargs="+", choices=("demo", "explain", "suspects"), help="default: all three")
    parser.add_argument("--pages", type=Path, help="keep the pages there")
    args = parser.parse_args(argv)
    path = RESULTS / "first_answer.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        pages = args.pages or Path(folder)
        pages.mkdir(exist_ok=True)
        for name, arguments in commands(args.data, pages).items():
            if args.only and name not in args.only:
                continue
            said, took = run(arguments)
            stored[name] = took | {"date": str(date.today())}
            if name != "demo":
                (RESULTS / f"{name}.txt").write_text(shown(name, said), encoding="utf-8")
    stored |= {"machine": platform.machine(), "threads": THREADS, "torch": torch.__version__}
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
