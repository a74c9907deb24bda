"""Claim: what preconditioner="auto" costs a classifier beside the plain score: its first question, each further one, memory;
and that the first question asked of an index, by whomever, is the only one that learns.

    python benchmarks/auto.py                                       # 1,500 to 16,000 texts of 100 words, 3,000 of AG News
    python benchmarks/auto.py --sizes 4000x100                      # texts x words

Words are drawn by Zipf's law from 20,000, or those of AG News; the model is the mean of word vectors of 128 numbers, at three
checkpoints, so that little is hidden by the model's own passes. Seconds are those of one thread's processor time: the machine
may be shared. Each size runs in a process of its own, for its memory is that process's peak; and so does each who asks an index.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_tracinwe import TracInWE
from captum_tracinwe.app.data import read_rows
from captum_tracinwe.app.testing import scatter_checkpoints
from captum_tracinwe.index.files.names import LEARNED

RESULTS = Path(__file__).parent / "results" / "auto.json"
DATA = Path(__file__).parents[2] / "shared" / "data" / "ag_news" / "train_20k.jsonl.gz"
VOCABULARY, WIDTH, CLASSES, CHECKPOINTS, BATCH, K = 20_000, 128, 4, 3, 64, 10
QUESTIONS = 4
SIZES = ["1500x100", "4000x100", "16000x100", "ag_news-3000x32"]


class MeanOfWords(nn.Module):
    """The mean of word vectors, then one layer; 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.answer = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        held = (ids != 0).sum(1, keepdim=True).clamp_min(1)
        found: Tensor = self.answer(self.words(ids).sum(1) / held)
        return found


def drawn(texts: int, words: int) -> tuple[Tensor, Tensor]:
    """Texts of words by Zipf's law, ``(N, T)``, with labels."""
    generator = torch.Generator().manual_seed(0)
    often = 1 / torch.arange(1.0, VOCABULARY)
    ids = torch.multinomial(often, texts * words, replacement=True, generator=generator).view(texts, words) + 1
    return ids, torch.randint(0, CLASSES, (texts,), generator=generator)


def of_ag_news(texts: int, words: int) -> tuple[Tensor, Tensor]:
    """The first words of AG News' texts, those beyond the vocabulary as one."""
    rows = read_rows(DATA)[:texts]
    held = [re.findall(r"\w+", row.text.lower())[:words] for row in rows]
    places: dict[str, int] = {}
    ids = torch.zeros((len(rows), words), dtype=torch.int64)
    for i, own in enumerate(held):
        found = [places.setdefault(word, len(places) + 1) for word in own]
        ids[i, : len(own)] = torch.tensor([min(place, VOCABULARY - 1) for place in found])
    return ids, torch.tensor([int(row.label) for row in rows])


def seconds(act: Callable[[], Any]) -> float:
    """Of this process on the processor, while it acts."""
    start = time.process_time()
    act()
    return time.process_time() - start


def peak() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


OPTIONS: dict[str, Any] = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": BATCH}


def texts_of(size: str) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Training texts, their labels, and questions."""
    name, _, numbers = size.rpartition("-")
    texts, words = map(int, numbers.split("x"))
    ids, labels = (of_ag_news if name else drawn)(texts + QUESTIONS, words)
    questions = [(ids[i : i + 1], labels[i : i + 1]) for i in range(QUESTIONS)]
    return ids[QUESTIONS:], labels[QUESTIONS:], questions


def measured(size: str) -> dict[str, Any]:
    """One size: texts x words."""
    torch.manual_seed(0)
    ids, labels, questions = texts_of(size)
    train, model = torch.utils.data.TensorDataset(ids, labels), MeanOfWords()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        paths = scatter_checkpoints(model, checkpoints, rates=[0.1] * CHECKPOINTS)
        plain = TracInWE(model, train, paths, **OPTIONS)
        plain.influence(questions[0], k=K)  # what is had once
        each = statistics.median(seconds(lambda q=q: plain.influence(q, k=K)) for q in questions)
        before = peak()
        auto = TracInWE(model, train, paths, preconditioner="auto", **OPTIONS)
        first = seconds(lambda: auto.influence(questions[0], k=K))
        further = statistics.median(seconds(lambda q=q: auto.influence(q, k=K)) for q in questions[1:])
        extra = peak() - before
        factors = auto.question(questions[0]).preconditioner.factors.tolist()
        auto.build_index(Path(folder) / "index")
        one, other = (run("--one", size, "--index", folder) for _ in range(2))
        kept = (Path(folder) / "index" / LEARNED).stat().st_size
    return {
        "plain question, seconds": each,
        "first question, seconds": first,
        "further question, seconds": further,
        "extra memory, bytes": extra,
        "distinct words": len(ids.unique()),
        "factors": factors,
        "from an index": {
            "plain question, seconds": other["plain"],
            "first question of all, seconds": one["first"],
            "first question of another process, seconds": other["first"],
            "further question, seconds": other["further"],
            "kept, bytes": kept,
            "same scores": one["scores"] == other["scores"],
        },
    }


def from_index(size: str, folder: Path) -> dict[str, Any]:
    """What one process takes that asks an index."""
    questions = texts_of(size)[2]
    of: tuple[Any, ...] = MeanOfWords(), None, folder / "checkpoints"
    plain = TracInWE(*of, index=folder / "index", table="input", **OPTIONS)
    plain.influence(questions[0], k=K)  # what is had once
    each = statistics.median(seconds(lambda q=q: plain.influence(q, k=K)) for q in questions)
    auto = TracInWE(*of, index=folder / "index", preconditioner="auto", **OPTIONS)
    scores: list[Any] = []
    first = seconds(lambda: scores.append(auto.influence(questions[0], k=K).influence_scores.tolist()))
    further = statistics.median(seconds(lambda q=q: auto.influence(q, k=K)) for q in questions[1:])
    return {"plain": each, "first": first, "further": further, "scores": scores}


def run(*arguments: str) -> dict[str, Any]:
    """What this script prints in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(from_index(args.one, args.index) if args.index else measured(args.one)))
        return
    sizes = {}
    for size in args.sizes:
        sizes[size] = run("--one", size)
        print(size, json.dumps(sizes[size], indent=1), flush=True)
    facts = {
        "date": str(datetime.date.today()),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
    }
    args.json.write_text(json.dumps({**facts, "checkpoints": CHECKPOINTS, "k": K, "sizes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
