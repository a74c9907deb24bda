"""Speed of `row_dot`, against what else computes the same scores and against what the machine can do.

    python benchmarks/row_dot.py            all cases, about 6 minutes; writes results/row_dot.json
    python benchmarks/row_dot.py --quick    a few seconds, small; writes nothing

Data are synthetic: token frequencies follow Zipf's law as in English text, two tokens are in every example as
[CLS] and [SEP] are. Contenders of a case run in turn, round after round; a ratio is the median of the rounds'
ratios, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from captum_tracinwe import RowGradients, ops
from captum_tracinwe.rows.kernels.row_dot.reference import reference as row_dot_reference

try:
    import faiss
    from faiss.contrib.ivf_tools import add_preassigned, range_search_preassigned
except ImportError:
    faiss = None

Rows = tuple[Tensor, Tensor, Tensor]
VOCABULARY = 30_522
RESULTS = Path(__file__).parent / "results" / "row_dot.json"


@dataclass(frozen=True)
class Case:
    """One problem and the contenders that are timed on it; ``target`` says what a ratio should reach."""

    name: str
    n: int
    m: int
    width: int
    contenders: tuple[str, ...]
    dtype: str = "float32"
    threads: int = 1
    target: str = ""
    by_token: bool = False  # side b as posting lists, built beforehand as FAISS's lists are


OTHERS = ("faiss", "grouped", "reference")  # compute the same scores
MANY = ("row_dot", "mm", "faiss", "grouped")
CASES = [
    *(
        Case("64 tests", 64, 20_000, width, MANY, threads=threads, target=f"mm {mm}, faiss 5, grouped 2.5")
        for threads in (1, 2)
        for width, mm in ((128, 0.65), (384, 0.8), (768, 0.8))
    ),
    *(Case("plain torch, gathered", 64, 2_000, width, ("row_dot", "reference")) for width in (128, 768)),
    *(
        Case("1 test" + ", by token" * by_token, 1, 20_000, width, ("row_dot", "read", "faiss", "bfloat16"),
             target="read 0.7, faiss 1, bfloat16 1.6" if by_token else "", by_token=by_token)
        for by_token in (True, False) for width in (128, 384, 768)
    ),
    Case("256 tests, bfloat16", 256, 5_000, 768, ("row_dot", "mm"), dtype="bfloat16"),
    *(Case("linear", 64, m, 64, ("row_dot",)) for m in (1_000, 5_000, 20_000, 50_000, 200_000)),
    Case("threads", 64, 20_000, 768, ("row_dot", "two threads"), target="two threads 1.7"),
]  # fmt: skip
QUICK = [
    Case("64 tests", 64, 500, 64, (*MANY, "reference")),
    Case("1 test", 1, 2_000, 64, ("row_dot", "read", "faiss", "bfloat16")),
    Case("1 test, by token", 1, 2_000, 64, ("row_dot", "read", "faiss", "bfloat16"), by_token=True),
    *(Case("linear", 64, m, 16, ("row_dot",)) for m in (500, 2_000)),
    Case("threads", 64, 500, 64, ("row_dot", "two threads")),
]


ISA_CASE, ISA_CASE_QUICK = (Case("instruction sets", 64, m, 384, ("row_dot",)) for m in (20_000, 500))


# ------------------------------------------------------------------------------------------------------- data


def zipf_rows(examples: int, width: int, seed: int, dtype: torch.dtype = torch.float32, draws: int = 43) -> Rows:
    """About 39 rows an example: ``draws`` tokens with p ∝ 1/(rank + 2.7)^1.05, repeats merged, 2 fixed."""
    generator = torch.Generator().manual_seed(seed)
    weights = 1 / (torch.arange(VOCABULARY, dtype=torch.float64) + 2.7) ** 1.05
    cumulative = torch.cumsum(weights, 0) / weights.sum()
    drawn = torch.searchsorted(cumulative, torch.rand(examples, draws, generator=generator, dtype=torch.float64))
    drawn = torch.cat(
        [torch.tensor([VOCABULARY, VOCABULARY + 1]).expand(examples, 2), drawn.clamp_max(VOCABULARY - 1)], 1
    )
    names = torch.randperm(VOCABULARY + 2, generator=torch.Generator().manual_seed(0))  # ids do not follow frequency
    ids = names[drawn].sort(1).values
    new = torch.ones_like(ids, dtype=torch.bool)
    new[:, 1:] = ids[:, 1:] != ids[:, :-1]
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), new.sum(1).cumsum(0)])
    return ptr, ids[new], torch.randn(int(ptr[-1]), width, generator=generator).to(dtype)


def matching_rows(a: Rows, b: Rows) -> tuple[int, int]:
    """Pairs of rows that share an id, and rows of b that are in such a pair."""
    of_a, of_b = (torch.bincount(side[1].cpu(), minlength=VOCABULARY + 2) for side in (a, b))
    return int((of_a * of_b).sum()), int(of_b[of_a > 0].sum())


# ------------------------------------------------------------------------------------------------- contenders


def example_of_rows(ptr: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(ptr) - 1, device=ptr.device), ptr[1:] - ptr[:-1])


def grouped_torch(a: Rows, b: Rows) -> Tensor:
    """The best plain-torch formulation we know: one mm for each shared id, added up with index_add_."""
    scores = torch.zeros(len(a[0]) - 1, len(b[0]) - 1, device=a[2].device)
    examples_a, examples_b = example_of_rows(a[0]), example_of_rows(b[0])
    names, counts_a = torch.unique(a[1], return_counts=True)
    order_a = torch.argsort(a[1])
    sorted_b, order_b = torch.sort(b[1])
    first = torch.searchsorted(sorted_b, names).tolist()
    last = torch.searchsorted(sorted_b, names, right=True).tolist()
    at = 0
    for count, begin, end in zip(counts_a.tolist(), first, last, strict=True):
        rows_a, rows_b = order_a[at : at + count], order_b[begin:end]
        at += count
        if begin == end:
            continue
        products = a[2][rows_a] @ b[2][rows_b].T
        cells = examples_a[rows_a][:, None] * scores.shape[1] + examples_b[rows_b]
        scores.view(-1).index_add_(0, cells.view(-1), products.view(-1))
    return scores


def faiss_scores(a: Rows, b: Rows) -> Callable[[], Tensor]:
    """FAISS, one inverted list per id, built beforehand: exact; rows of b carry their example as label."""
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(b[2].shape[1]), b[2].shape[1], VOCABULARY + 2, faiss.METRIC_INNER_PRODUCT
    )
    index.is_trained = True
    labels, lists = example_of_rows(b[0]).numpy(), b[1].numpy()
    add_preassigned(index, b[2].numpy(), lists, labels)
    queries, wanted, m = a[2].numpy(), a[1].numpy()[:, None], len(b[0]) - 1
    examples_a = example_of_rows(a[0])

    def run() -> Tensor:
        limits, products, found = range_search_preassigned(index, queries, -1e30, wanted)
        counts = torch.from_numpy(limits.astype("int64")).diff()
        cells = torch.repeat_interleave(examples_a, counts) * m + torch.from_numpy(found)
        return torch.zeros(len(a[0]) - 1, m).view(-1).index_add_(0, cells, torch.from_numpy(products)).view(-1, m)

    run.keep = (index, queries, labels, lists)  # type: ignore[attr-defined]
    return run


# What else computes the scores of two sides, and its name; used end to end too, FAISS's index built within the time.
OTHER_SCORES: dict[str, Callable[[Rows, Rows], Tensor]] = {
    "grouped mm + index_add_": grouped_torch,
    "gather in plain torch (our reference)": lambda a, b: row_dot_reference(*a, *b),
    **({"FAISS, one list per word": lambda a, b: faiss_scores(a, b)()} if faiss else {}),
}


def ours(case: Case, a: Rows, b: Rows) -> Callable[[], Tensor]:
    if not case.by_token:
        return lambda: ops.row_dot(*a, *b)
    test, lists = RowGradients(*a), RowGradients(*b).by_token()
    return lambda: lists.scores_of(test)


def contender(name: str, case: Case, a: Rows, b: Rows) -> Callable[[], object] | None:
    if name == "row_dot":
        return ours(case, a, b)
    if name == "reference":
        return lambda: row_dot_reference(*a, *b)
    if name == "grouped":
        return lambda: grouped_torch(a, b)
    if name == "faiss":
        return faiss_scores(a, b) if faiss else None
    if name == "mm":
        left, right = (torch.randn(4096, case.width), torch.randn(case.width, 4096))
        return lambda: left @ right
    if name == "read":  # every byte of the training rows, in order
        return lambda: b[2].sum()
    if name == "bfloat16":
        return ours(case, (*a[:2], a[2].bfloat16()), (*b[:2], b[2].bfloat16()))
    if name == "two threads":

        def run() -> None:
            torch.set_num_threads(2)
            ops.row_dot(*a, *b)
            torch.set_num_threads(case.threads)

        return run
    raise KeyError(name)


# ------------------------------------------------------------------------------------------------ measurement


def interleaved(run: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in run}
    for turn in range(rounds + 1):
        for name, call in run.items():
            start = time.perf_counter()
            call()
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], other: str) -> float:
    """How many times faster row_dot is than another contender."""
    return statistics.median(theirs / ours for theirs, ours in zip(times[other], times["row_dot"], strict=True))


def measure(case: Case, rounds: int) -> dict:
    torch.set_num_threads(case.threads)
    if faiss:
        faiss.omp_set_num_threads(case.threads)
    dtype = getattr(torch, case.dtype)
    a, b = zipf_rows(case.n, case.width, 1, dtype), zipf_rows(case.m, case.width, 2, dtype)
    pairs, read = matching_rows(a, b)
    run = {name: contender(name, case, a, b) for name in case.contenders}
    run = {name: call for name, call in run.items() if call}
    for name in OTHERS:
        if name in run:
            torch.testing.assert_close(run[name](), ops.row_dot(*a, *b), atol=1e-3, rtol=1e-4)
    # A case of a few milliseconds is at the mercy of one interrupt: with 7 rounds its ratios went from 0.60 to 0.84.
    times = interleaved(run, rounds if case.n > 1 else 5 * rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    operations, read_bytes = 2 * pairs * case.width, read * case.width * b[2].element_size()
    ours = median["row_dot"]
    found = {
        **asdict(case), "rows_b": len(b[1]), "row_pairs": pairs,
        "milliseconds": {name: 1e3 * seconds for name, seconds in median.items()},
        "times_faster_than": {name: ratio(times, name) for name in OTHERS if name in times},
        "example_pairs_per_second": case.n * case.m / ours, "gflops": operations / ours / 1e9,
    }  # fmt: skip
    if "mm" in times:
        found["gflops_mm"] = 2 * 4096**2 * case.width / median["mm"] / 1e9
        found["share_of_mm_rate"] = ratio(times, "mm") * operations / (2 * 4096**2 * case.width)
    if "read" in times:
        all_bytes = b[2].numel() * b[2].element_size()
        found["gigabytes_per_second"] = read_bytes / ours / 1e9
        found["read_gigabytes_per_second"] = all_bytes / median["read"] / 1e9
        found["share_of_read_bandwidth"] = ratio(times, "read") * read_bytes / all_bytes
    if "bfloat16" in times:
        found["bfloat16_times_faster"] = 1 / ratio(times, "bfloat16")
    if "two threads" in times:
        found["two_threads_times_faster"] = 1 / ratio(times, "two threads")
    return found


def roofline(n: int, m: int, width: int, dtype: torch.dtype, rounds: int) -> dict:
    """On a GPU: time against the larger of bytes / bandwidth and operations / rate, both measured here."""
    a, b = (tuple(t.cuda() for t in zipf_rows(size, width, seed, dtype)) for size, seed in ((n, 1), (m, 2)))
    pairs, read = matching_rows(a, b)  # type: ignore[arg-type]
    left = torch.randn(8192, 8192, device="cuda").to(dtype)

    def synchronised(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            call()
            torch.cuda.synchronize()

        return run

    calls = {"row_dot": lambda: ops.row_dot(*a, *b), "read": lambda: b[2].sum(), "mm": lambda: left @ left}
    times = interleaved({name: synchronised(call) for name, call in calls.items()}, rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    size = b[2].element_size()
    moved = (read + len(a[1])) * width * size + 8 * (len(a[1]) + len(b[1])) + 4 * n * m
    bandwidth, rate = b[2].numel() * size / median["read"], 2 * 8192**3 / median["mm"]
    operations = 2 * pairs * width
    ceiling = max(moved / bandwidth, operations / rate)
    return {
        "name": "roofline", "device": torch.cuda.get_device_name(), "n": n, "m": m, "width": width,
        "dtype": str(dtype),
        "milliseconds": 1e3 * median["row_dot"], "bytes": moved, "operations": operations,
        "bandwidth_gigabytes_per_second": bandwidth / 1e9, "mm_gflops": rate / 1e9,
        "bound_by": "bytes" if moved / bandwidth > operations / rate else "operations",
        "share_of_roofline": ceiling / median["row_dot"],
    }  # fmt: skip


def instruction_sets(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of the kernel held to each instruction set that this machine has; chosen once for each process."""
    sets = ("base", "avx2", "avx512")
    own = torch.backends.cpu.get_cpu_capability().lower()
    limits = sets[: sets.index(own) + 1] if own in sets else sets[:1]
    code = f"import row_dot; print(row_dot.measure(row_dot.{case}, {rounds})['milliseconds']['row_dot'])"
    found = {}
    for limit in limits:
        environment = {**os.environ, "CAPTUM_TRACINWE_ISA": limit}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[limit] = float(run.stdout)
    return found


def slope(points: list[dict]) -> float:
    """Exponent p of time ∝ pairs^p, least squares on logarithms; 1 is linear."""
    x, y = ([math.log(p[key]) for p in points] for key in ("row_pairs", "time"))
    return statistics.linear_regression(x, y).slope


def machine() -> dict:
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line),
            cpu,
        )
    return {
        "cpu": cpu, "cores": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__, "faiss": faiss.__version__ if faiss else None,
        "kernels": "compiled" if ops.NATIVE_LIBRARY else "reference",
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def show(found: dict) -> None:
    numbers = {
        "ms": found["milliseconds"]["row_dot"], "M pairs/s": found["example_pairs_per_second"] / 1e6,
        "GF/s": found["gflops"],
        "× mm rate": found.get("share_of_mm_rate"), "× read": found.get("share_of_read_bandwidth"),
        **{f"× {name}": value for name, value in found["times_faster_than"].items()},
        "bf16 ×": found.get("bfloat16_times_faster"), "2 threads ×": found.get("two_threads_times_faster"),
    }  # fmt: skip
    cells = "  ".join(f"{name} {value:.2f}" for name, value in numbers.items() if value is not None)
    target = f"  (target: {found['target']})" if found["target"] else ""
    head = f"{found['name']}, N={found['n']} M={found['m']} D={found['width']}, {found['threads']} thread(s):"
    print(f"{head} {cells}{target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, no file written")
    parser.add_argument("--rounds", type=int, default=7, help="runs of every contender; the median counts")
    options = parser.parse_args()
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    found = []
    for case in QUICK if options.quick else CASES:
        found.append(measure(case, 2 if options.quick else options.rounds))
        show(found[-1])
    linear = [{**f, "time": f["milliseconds"]["row_dot"]} for f in found if f["name"] == "linear"]
    print(f"time ∝ pairs^{slope(linear):.3f} from M={linear[0]['m']} to {linear[-1]['m']}")
    by_set = instruction_sets(ISA_CASE_QUICK if options.quick else ISA_CASE, 2 if options.quick else options.rounds)
    print("by instruction set:", ", ".join(f"{name} {value:.1f} ms" for name, value in by_set.items()))
    result = {
        "machine": about, "cases": found, "exponent_of_time_over_pairs": slope(linear),
        "milliseconds_by_instruction_set": by_set,
    }  # fmt: skip
    if torch.cuda.is_available() and not options.quick:
        call = functools.partial(roofline, 256, 100_000, 768, rounds=options.rounds)
        result["cuda"] = [call(dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
        print(*result["cuda"], sep="\n")
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
