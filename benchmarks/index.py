"""Claim: the exact top 10 by reading a few percent of the gradients; and what building and keeping them costs.

    python benchmarks/index_model.py --out DIR                      # once: MiniLM fine-tuned on AG News
    python benchmarks/index.py build --model DIR --index INDEX      # 20,000 texts, a ceiling of 200 MB
    python benchmarks/index.py search --model DIR --index INDEX     # 200 test texts: exactness, reads, times
    python benchmarks/index.py recommended --model DIR              # what the recommended score costs beside the plain one
    python benchmarks/index.py suspects --model DIR --texts 10000 --checkpoints 2   # which labels are wrong, from an index
    python benchmarks/index.py grow --index INDEX                   # 1,000 to 200,000 synthetic examples
    python benchmarks/index.py kill [--times 50]                    # kill -9 while an index is built or changed

Each step writes its part of results/index.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from index_model import DATA, MAX_LENGTH
from safetensors import safe_open
from torch import Tensor, nn

from captum_tracinwe import GradientIndex, RowGradients, TracInWE, ops, suspects
from captum_tracinwe.app import training
from captum_tracinwe.app.data import classes_of, read_rows, with_classes
from captum_tracinwe.checkpoints.weights import find_checkpoints

RESULTS = Path(__file__).parent / "results" / "index.json"
K = 10


def tracin_of(args: argparse.Namespace, preconditioner: str | None = None) -> tuple[TracInWE, Any]:
    """The fine-tuned model over its training texts, and the test texts as batches."""
    rows = read_rows(args.train)[: args.texts]
    classes = classes_of(rows, args.train)
    texts = with_classes(rows, classes, args.train)
    with training.quiet_transformers():
        model, tokenizer = training.load_model(args.model / "model", texts.names)
    train = training.EncodedTexts(texts.texts, texts.labels, tokenizer, MAX_LENGTH)
    test_texts = with_classes(read_rows(args.test)[: args.tests], classes, args.test)
    test = training.EncodedTexts(test_texts.texts, test_texts.labels, tokenizer, MAX_LENGTH)
    loss = nn.CrossEntropyLoss(reduction="none")
    checkpoints = find_checkpoints(args.model / "checkpoints")[: args.checkpoints]
    batches = training.batches(train, args.batch_size)
    tracin = TracInWE(model, batches, checkpoints, loss_fn=loss, preconditioner=preconditioner)
    return tracin, training.batches(test, args.batch_size)


# -------------------------------------------------------------------------------------------------------------- build


class Memory:
    """The most anonymous memory of this process within the block, beyond what it had before."""

    def __enter__(self) -> Memory:
        self.before, self.peak, self._done = self.now(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self.now() - self.before)

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @staticmethod
    def now() -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


def build(args: argparse.Namespace) -> dict[str, Any]:
    tracin, _ = tracin_of(args)
    limit = 200 * 10**6
    # torch and the tokenizer take memory of their own when first used: not the build's.
    first = next(iter(tracin.train_dataloader))
    tracin.row_gradients(first)
    with Memory() as memory:
        started = time.perf_counter()
        index = tracin.build_index(args.index, resume=args.resume, memory_limit=limit, show_progress=True)
        seconds = time.perf_counter() - started
    opened = [timed(lambda: GradientIndex.open(args.index))[0] for _ in range(5)]
    return {
        "texts": len(index),
        "segments": len(index.segments),
        "seconds": seconds,
        "checkpoints": args.checkpoints,
        "batch_size": args.batch_size,
        "memory_limit": limit,
        "memory_peak": memory.peak,
        "payload_bytes": index.payload_bytes,
        "sketch_bytes": index.sketch_bytes,
        "file_bytes": index.file_bytes,
        "file_bytes_against_payload_and_sketch": index.file_bytes / (index.payload_bytes + index.sketch_bytes),
        "open_seconds": statistics.median(opened),
    }


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


# ------------------------------------------------------------------------------------------------------------- search


def drop_cache(folder: Path) -> None:
    """Take the files of the index out of the page cache; nobody may have them mapped."""
    os.sync()
    for path in folder.iterdir():
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def read_everything(folder: Path, rows: RowGradients) -> None:
    """Score everything from the files as plainly and fast as we know: mapped values, the kernel, no checksums."""
    for segment in GradientIndex.open(folder).segments:
        with safe_open(segment.path, "pt") as file:
            ptr, ids, values = (file.get_tensor(name) for name in ("ptr", "ids", "values"))
        ids = ids.long()
        ops.row_dot(rows.ptr, rows.ids, rows.values, ptr, ids, values).topk(K, dim=1)


def search(args: argparse.Namespace) -> dict[str, Any]:
    tracin, tests = tracin_of(args)
    rows = tracin.row_gradients(tests)
    index = GradientIndex.open(args.index)
    facts: dict[str, Any] = {"tests": len(rows), "k": K, "texts": len(index), "rank": index.manifest.rank}
    for proponents in (True, False):
        found = index.search(rows, K, proponents)
        scores = index.scores(rows)
        best = torch.sort(scores[:, index.numbers], dim=1, descending=proponents, stable=True)
        exact = torch.equal(found.indices, index.numbers[best.indices[:, :K]])
        exact = exact and torch.equal(found.influence_scores, best.values[:, :K])
        stats = found.stats
        parts = (stats.verified_per_test / stats.examples).sort().values
        read = (stats.bytes_per_test / stats.payload_bytes).sort().values
        facts["proponents" if proponents else "opponents"] = {
            "equal_to_brute_force": exact,
            "verified_median": float(parts.median()),
            "verified_90": float(parts[int(0.9 * len(parts))]),
            "read_median": float(read.median()),
            "read_90": float(read[int(0.9 * len(read))]),
        }
    del scores, best
    one = [rows.select([i]) for i in range(len(rows))]
    facts |= warm(index, rows, one)
    del index  # nobody may have the files mapped whose pages are to go
    cold: dict[str, list[float]] = {"search": [], "everything": []}
    for r in one[:: max(1, len(one) // 10)][:10]:
        drop_cache(args.index)
        cold["search"].append(timed(lambda r=r: GradientIndex.open(args.index).search(r, K))[0])
        drop_cache(args.index)
        cold["everything"].append(timed(lambda r=r: read_everything(args.index, r))[0])
    facts["cold_seconds"] = {name: statistics.median(values) for name, values in cold.items()}
    facts["cold_ratio"] = statistics.median(
        all_of_it / found for found, all_of_it in zip(cold["search"], cold["everything"], strict=True)
    )
    return facts


def warm(index: GradientIndex, rows: RowGradients, one: list[RowGradients]) -> dict[str, Any]:
    """Times from the page cache; search and FAISS in turn, so that whatever else the machine does meets both."""
    everything = index.rows()
    questions = one[:50]
    asked = faiss_lists(everything)
    times: dict[str, list[float]] = {"search": [], "faiss": []}
    for r in questions:
        times["search"].append(timed(lambda r=r: index.search(r, K))[0])
        if asked:
            times["faiss"].append(timed(lambda r=r: asked(r).topk(K, dim=1))[0])
    lists = everything.by_token()
    posting = [timed(lambda r=r: r.dot(lists).topk(K, dim=1))[0] for r in questions]
    facts: dict[str, Any] = {
        "warm_seconds_per_question": statistics.median(times["search"]),
        "warm_seconds_all_at_once": timed(lambda: index.search(rows, K))[0],
        "warm_seconds_posting_dot_of_everything": statistics.median(posting),
    }
    if asked:
        facts["warm_seconds_faiss"] = statistics.median(times["faiss"])
        ratios = [other / ours for ours, other in zip(times["search"], times["faiss"], strict=True)]
        facts["faiss_ratio"] = statistics.median(ratios)
    return facts


def faiss_lists(rows: RowGradients) -> Callable[[RowGradients], Tensor] | None:
    """FAISS, one inverted list per word, built beforehand, exact: its range search, then summed by example."""
    try:
        import faiss
        from faiss.contrib.ivf_tools import add_preassigned, range_search_preassigned
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    size = int(rows.ids.max()) + 1
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.width), rows.width, size, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    labels, lists = rows.examples.numpy(), rows.ids.numpy()
    add_preassigned(index, rows.values.numpy(), lists, labels)
    kept = (labels, lists)  # faiss keeps no reference to them

    def scores(question: RowGradients) -> Tensor:
        wanted = question.ids.numpy()[:, None].copy()
        limits, products, found = range_search_preassigned(index, question.values.numpy(), -1e30, wanted)
        del limits
        return torch.zeros(1, len(rows)).index_add_(1, torch.from_numpy(found), torch.from_numpy(products)[None])

    scores.keep = kept  # type: ignore[attr-defined]
    return scores


# -------------------------------------------------------------------------------------------------------- recommended


def recommended(args: argparse.Namespace) -> dict[str, Any]:
    """The plain score's index and the recommended one's, of the same texts: what each takes to build, to keep and to ask."""
    facts: dict[str, Any] = {"texts": args.texts, "tests": args.tests, "k": K}
    for name in ("plain", "recommended"):
        tracin, tests = tracin_of(args, None if name == "plain" else "auto")
        tracin.row_gradients(next(iter(tracin.train_dataloader)))  # memory and threads that are had once
        with tempfile.TemporaryDirectory() as folder:
            seconds, index = timed(lambda t=tracin, f=folder: t.build_index(Path(f) / "index"))
            tracin.index = index
            batches = [one for batch in tests for one in examples_of(batch)]
            # What the score learns, it learns at the first question.
            first, _ = timed(lambda t=tracin, b=batches[0]: t.influence(b, k=K))
            each = [timed(lambda t=tracin, b=b: t.influence(b, k=K)) for b in batches]
            exact = 0
            for b, (_, found) in zip(batches, each, strict=True):
                best = torch.sort(tracin.influence(b), dim=1, descending=True, stable=True)
                exact += torch.equal(found.indices, best.indices[:, :K])
            facts[name] = {
                "build_seconds": seconds,
                "payload_bytes": index.payload_bytes,
                "first_question_seconds": first,
                "question_seconds": statistics.median(one for one, _ in each),
                "equal_to_brute_force": exact,
            }
    facts["ratio"] = {
        key: facts["recommended"][key] / facts["plain"][key]
        for key in ("build_seconds", "payload_bytes", "question_seconds")
    }
    return facts


def suspected(args: argparse.Namespace) -> dict[str, Any]:
    """Which labels are wrong, from an index: without reasons, and with those of the 50 most suspicious."""
    tracin, _ = tracin_of(args, "auto")
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = timed(lambda: tracin.build_index(Path(folder) / "index", show_progress=True))
        facts: dict[str, Any] = {"texts": args.texts, "checkpoints": args.checkpoints, "build_seconds": seconds}
        for name, limit in (("judged_seconds", 0), ("with_reasons_seconds", 50)):
            tracin, _ = tracin_of(args, "auto")
            tracin.index = GradientIndex.open(Path(folder) / "index")
            facts[name], _ = timed(lambda t=tracin, n=limit: suspects(t, limit=n))
    return facts


def examples_of(batch: Any) -> list[Any]:
    """A batch's examples, each as a batch of one."""
    size = len(next(iter(batch.values())))
    return [{name: field[i : i + 1] for name, field in batch.items()} for i in range(size)]


# --------------------------------------------------------------------------------------------------------------- grow


def shuffled_rows(real: RowGradients, count: int, generator: torch.Generator) -> RowGradients:
    """``count`` examples with the tokens and row norms of real ones, the direction of each row from another example.

    Rows of one token are exchanged among the examples that have it, so that norms, tokens and what directions a token has
    are those measured.
    """
    chosen = real.select(torch.randint(0, len(real), (count,), generator=generator))
    by_token = torch.sort(chosen.ids, stable=True).indices
    mixed = torch.rand(chosen.num_rows, generator=generator)
    # A stable sort by token of a random order: the rows of each token in a random order of their own.
    random_order = torch.argsort(mixed)
    partner = random_order[torch.sort(chosen.ids[random_order], stable=True).indices]
    values = torch.empty_like(chosen.values)
    values[by_token] = chosen.values[partner]
    norms = values.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return RowGradients(chosen.ptr, chosen.ids, values * (chosen.norms()[:, None] / norms))


def grow(args: argparse.Namespace) -> dict[str, Any]:
    """Cost of a question as an index grows, all examples alike."""
    real = GradientIndex.open(args.index)
    generator = torch.Generator().manual_seed(0)
    rows = real.rows(real.numbers[torch.randperm(len(real), generator=generator)[:4000]])
    questions = shuffled_rows(rows, 20, generator)
    table = []
    with tempfile.TemporaryDirectory(dir=args.index.parent) as folder:
        path, size = Path(folder) / "index", 0
        for target in args.sizes:
            while size < target:
                step = min(4096, target - size)
                more = shuffled_rows(rows, step, generator)
                index = GradientIndex.open(path).append(more) if size else GradientIndex.from_rows(path, more)
                size += step
            index.search(questions, K)
            seconds = statistics.median(timed(lambda i=i: index.search(questions.select([i]), K))[0] for i in range(20))  # noqa: B023
            stats = index.search(questions, K).stats
            verified = float(stats.verified_per_test.double().median())
            read = float(stats.bytes_per_test.double().median())
            table.append({"examples": size, "verified": verified, "bytes_read": read, "warm_seconds": seconds})
            print(table[-1], flush=True)
    slopes = {
        name: math.log(table[-1][name] / table[0][name]) / math.log(table[-1]["examples"] / table[0]["examples"])
        for name in ("verified", "bytes_read", "warm_seconds")
    }
    return {"sizes": table, "grows_with_the_power": slopes}


# --------------------------------------------------------------------------------------------------------------- kill


def kill(args: argparse.Namespace) -> dict[str, Any]:
    """The tests that kill writers, with more kills, spread over building, appending, deleting, compacting and merging."""
    tests = Path(__file__).parents[1] / "tests" / "test_index_kills.py"
    environment = {**os.environ, "CAPTUM_TRACINWE_KILLS": str(args.times)}
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", str(tests)], env=environment, check=False)
    return {"kills": args.times, "passed": run.returncode == 0}


# --------------------------------------------------------------------------------------------------------------- main

STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "build": build,
    "search": search,
    "recommended": recommended,
    "suspects": suspected,
    "grow": grow,
    "kill": kill,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--train", type=Path, default=DATA / "train_20k.jsonl.gz")
    parser.add_argument("--test", type=Path, default=DATA / "test_2k.jsonl.gz")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--checkpoints", type=int, default=1, help="the first N of the model's two")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 5_000, 20_000, 50_000, 200_000])
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = STEPS[args.step](args)
    print(json.dumps(facts, indent=1))
    known = json.loads(args.json.read_text()) if args.json.exists() else {}
    machine = {"date": str(datetime.date.today()), "machine": platform.machine(), "torch": torch.__version__}
    known[args.step] = {**machine, "threads": args.threads, **facts}
    args.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
