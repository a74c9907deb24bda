"""The first minutes with a GPU: is each kernel right, how far is it from what the card can do, and what does collection cost?

    python benchmarks/gpu.py            at most 8 minutes; writes results/gpu-<card>.json, section by section
    python benchmarks/gpu.py --dry      the same code on the CPU in seconds, small, to see that it runs; writes nothing

A roofline is the larger of bytes / bandwidth and operations / rate, both measured here, of the bytes that have to be read and
written once. Kernel times are by the card's own events, the call's by a clock, with the wait at its end. What fails is told in
its section, and the others go on.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import re
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_others import as_many_operations, faiss_best
from gpu_verified import verify
from row_dot import Rows, grouped_torch, matching_rows, zipf_rows
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_tracinwe import RowGradients, TracInWE, ops, save_checkpoint
from captum_tracinwe.app import info

RESULTS = Path(__file__).parent / "results"
SECONDS = 480
LOSS = nn.CrossEntropyLoss(reduction="none")
# N, M, D, type of the values: many questions, many of them in half the bytes, one question.
CASES = (
    (64, 20_000, 384, "float32"),
    (64, 20_000, 384, "bfloat16"),
    (256, 100_000, 768, "float32"),
    (256, 100_000, 768, "bfloat16"),
    (1, 20_000, 384, "float32"),
    (1, 20_000, 768, "float32"),
)
# Columns, and numbers of examples on either side, of generated cases.
SIDES = (
    [1, 2, 3, 5, 8, 31, 33, 64, 100, 128, 300, 384, 768, 769],
    [(0, 3), (3, 0), (1, 1), (1, 40), (40, 1), (9, 23), (300, 2), (130, 257)],
)
DRY_SIDES = [1, 7, 64], [(0, 3), (3, 0), (1, 1), (1, 40), (9, 23)]
DRY_CASES = ((3, 60, 16, "float32"), (1, 60, 16, "bfloat16"))
# What a ratio should reach: time over the roofline, and collection over the bare passes.
OF_ROOFLINE, OF_PASSES = 1.5, 1.2


class Bench:
    """Where it runs, how large, and how long it may yet take."""

    def __init__(self, dry: bool) -> None:
        self.dry, self.device = dry, torch.device("cpu" if dry else "cuda")
        self.end = time.monotonic() + SECONDS
        self.rounds = 2 if dry else 9

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def holds(self, numbers: int, dtype: torch.dtype) -> bool:
        """Whether there is room for so many numbers three times: as rows, as posting lists, and for what is made of them."""
        return self.dry or 3 * numbers * dtype.itemsize < torch.cuda.get_device_properties(0).total_memory

    def wait(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object]) -> dict[str, float]:
        """Medians: the card's own time, and that of a call until its result is there."""
        for _ in range(2):
            call()
        self.wait()
        kernel, whole = [], []
        for _ in range(self.rounds):
            begun = time.perf_counter()
            if self.dry:
                call()
            else:
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                call()
                last.record()
                last.synchronize()
                kernel.append(first.elapsed_time(last))
            whole.append(1e3 * (time.perf_counter() - begun))
        return {"kernel": statistics.median(kernel or whole), "call": statistics.median(whole)}


def rows_on(bench: Bench, examples: int, width: int, seed: int, dtype: torch.dtype) -> Rows:
    """As `zipf_rows`, the values drawn where they are to lie: 12 GB of them would take a minute to come."""
    ptr, ids, _ = zipf_rows(examples, 1, seed)
    generator = torch.Generator(bench.device).manual_seed(seed)
    values = torch.empty(len(ids), width, device=bench.device, dtype=dtype)
    for part in values.split(1 << 18):
        part.copy_(torch.randn(part.shape, generator=generator, device=bench.device))
    return ptr.to(bench.device), ids.to(bench.device), values


# ------------------------------------------------------------------------------------------------------------- sections


def about(bench: Bench) -> dict[str, Any]:
    """The card and what is installed."""
    found = {**info.facts(), "date": datetime.date.today().isoformat(), "machine": platform.machine()}
    if not bench.dry:
        card = torch.cuda.get_device_properties(0)
        found["card"] = {
            "name": card.name, "architecture": f"{card.major}.{card.minor}", "processors": card.multi_processor_count,
            "gigabytes": card.total_memory / 1e9, "level_2_cache_megabytes": getattr(card, "L2_cache_size", 0) / 1e6,
        }  # fmt: skip
        without = sorted(set(ops.OPS) - set(found["kernels"]["cuda"]))
        if without:
            print(f"No CUDA kernel for {', '.join(without)}: their reference runs.", flush=True)
    return found


def roofs(bench: Bench) -> dict[str, float]:
    """Bytes and operations per second that the card reaches, of types that products may use."""
    size, side = (1 << 16, 64) if bench.dry else (1 << 30, 8192)
    memory, copied = torch.ones(size, device=bench.device), torch.empty(size, device=bench.device)
    found = {"read": 4 * size / bench.milliseconds(lambda: memory.sum())["kernel"] * 1e3}
    found["copy"] = 8 * size / bench.milliseconds(lambda: copied.copy_(memory))["kernel"] * 1e3
    for name, dtype, reduced in (("float32", torch.float32, False), ("tf32", torch.float32, True),
                                 ("bfloat16", torch.bfloat16, False), ("float16", torch.float16, False)):  # fmt: skip
        one = torch.randn(side, side, device=bench.device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = reduced
        found[name] = 2 * side**3 / bench.milliseconds(lambda one=one: one @ one)["kernel"] * 1e3
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def kernels(bench: Bench, roof: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Times of each op beside the roofline, cuBLAS on as many operations, plain torch and FAISS."""
    for n, m, width, kind in DRY_CASES if bench.dry else CASES:
        dtype = getattr(torch, kind)
        why = (
            "no time left"
            if bench.left < 150
            else "too little memory"
            if not bench.holds(m * 42 * width, dtype)
            else None
        )
        if why is not None:
            yield {"n": n, "m": m, "width": width, "dtype": kind, "left_out": why}
            continue
        a, b = rows_on(bench, n, width, 1, dtype), rows_on(bench, m, width, 2, dtype)
        pairs, read = matching_rows(a, b)
        size = b[2].element_size()
        ids = 8 * (len(a[1]) + len(b[1]))
        moved, operations = (read + len(a[1])) * width * size + ids + 4 * n * m, 2 * pairs * width
        floor = 1e3 * max(moved / roof["read"], operations / roof[kind])
        lists = RowGradients.sound(*b).by_token()
        listed = (lists.ptr, lists.ids, lists.examples, lists.values)
        chosen = torch.stack([torch.arange(min(10, m)) % n, torch.arange(min(10, m))], 1).to(bench.device)
        calls: dict[str, Callable[[], object]] = {
            "row_dot": lambda a=a, b=b: ops.row_dot(*a, *b),
            "posting_dot": lambda a=a, listed=listed, m=m: ops.posting_dot(*a, *listed, m),
            "row_dot_terms": lambda a=a, b=b, chosen=chosen: ops.row_dot_terms(*a, *b, chosen),
            "cublas": as_many_operations(bench.device, operations, width, dtype),
        }
        if pairs < 2e7 and kind == "float32":
            calls["grouped mm in plain torch"] = lambda a=a, b=b: grouped_torch(a, b)
        search = faiss_best(bench.device, a, b) if kind == "float32" and m <= 20_000 else None
        if callable(search):
            calls["faiss, 100 best of a list each"] = search
        times, errors = {}, {}
        for name, call in calls.items():
            try:
                times[name] = bench.milliseconds(call)
            except Exception as error:  # noqa: PERF203  (a kernel that cannot run this case is the finding)
                errors[name] = f"{type(error).__name__}: {error}"[:300]
        yield {
            "n": n, "m": m, "width": width, "dtype": kind, "row_pairs": pairs, "bytes": moved, "operations": operations,
            "roofline_ms": floor, "bound_by": "bytes" if moved / roof["read"] > operations / roof[kind] else "operations",
            "ms": times, "errors": errors, "faiss": None if search is None or callable(search) else search,
            "over_roofline": {name: times[name]["kernel"] / floor for name in ("row_dot", "posting_dot") if name in times},
        }  # fmt: skip
        del a, b, lists, listed, calls, search
        if not bench.dry:
            torch.cuda.empty_cache()


def collection(bench: Bench) -> Iterator[dict[str, Any]]:
    """Row gradients beside the bare forward and input-gradient backward; how often the host waits for a batch."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    forms = [(sizes, 4, 16, 2, None)]
    if not bench.dry:
        base: dict[str, int] = {}  # BERT-base, 12 x 768
        small = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        forms = [
            (small, 32, 64, 32, None),
            (base, 32, 128, 16, None),
            (base, 128, 128, 8, None),
            (base, 128, 128, 8, "bfloat16"),
        ]
    for changes, batch, tokens, batches, kind in forms:
        if bench.left < 75:
            return
        model = _bert(changes).to(bench.device).eval().requires_grad_(False)
        if kind is not None:
            model = model.to(getattr(torch, kind))
        examples = _texts(batch * batches, tokens)
        parts = [tuple(part[start : start + batch] for part in examples) for start in range(0, batch * batches, batch)]
        table = model.get_input_embeddings().weight.detach()

        def bare(parts: list = parts, table: Tensor = table, model: nn.Module = model) -> Tensor:
            for ids, mask, labels in parts:
                ids, mask, labels = (part.to(bench.device) for part in (ids, mask, labels))
                inputs = table[ids].requires_grad_()
                out = model(inputs_embeds=inputs, attention_mask=mask).logits
                gradient = torch.autograd.grad(LOSS(out.float(), labels).sum(), inputs)[0]
            return gradient

        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(f"{folder}/step-1.pt", model, 1.0)
            data = [{"input_ids": ids, "attention_mask": mask, "labels": labels} for ids, mask, labels in parts]
            loader = DataLoader(data, batch_size=None)
            tracin = TracInWE(model, loader, folder, loss_fn=lambda out, labels: LOSS(out.float(), labels), probe=False)
            calls = {"bare": bare, "rows": tracin.row_gradients}
            times: dict[str, list[float]] = {name: [] for name in calls}
            for turn, (name, call) in itertools.product(range(bench.rounds if bench.dry else 5), calls.items()):
                begun = time.perf_counter()
                call()
                bench.wait()
                if turn:  # the first warms up
                    times[name].append(1e3 * (time.perf_counter() - begun))
            yield {
                "model": {**changes, "dtype": kind or "float32"}, "batch": batch, "tokens": tokens, "batches": batches,
                "ms": {name: statistics.median(found) for name, found in times.items()},
                "over_bare": statistics.median(ours / bare for ours, bare in zip(times["rows"], times["bare"], strict=True)),
                "waits": {name: _waits(bench, call) for name, call in calls.items()},
            }  # fmt: skip


def _waits(bench: Bench, call: Callable[[], object]) -> dict[str, int] | None:
    """How often the host waited for the card, by the line that did, of those that torch knows of."""
    if bench.dry:
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found: dict[str, int] = {}
    for one in said:
        if "synchronizing CUDA operation" in str(one.message):
            place = f"{re.sub('.*(captum_tracinwe|site-packages)/', '', one.filename)}:{one.lineno}"
            found[place] = found.get(place, 0) + 1
    return found


def whole(bench: Bench) -> dict[str, Any]:
    """The top 10 of 64 test texts over 10,000 training texts, all in, and of 256 over 20,000 rows that are there already."""
    train, tests, changes = (40, 2, {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}) if bench.dry else (
        10_000, 64, {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    )  # fmt: skip
    model = _bert(changes).to(bench.device).eval()
    names = ("input_ids", "attention_mask", "labels")
    data = [dict(zip(names, example, strict=True)) for example in zip(*_texts(train, 64), strict=True)]
    inputs = dict(zip(names, _texts(tests, 64, seed=3), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(f"{folder}/step-1.pt", model, 1.0)
        tracin = TracInWE(model, data, folder, loss_fn=LOSS, batch_size=8 if bench.dry else 256)
        seconds = []
        for _ in range(2 if bench.dry else 3):
            begun = time.perf_counter()
            best = tracin.influence(inputs, k=10)
            bench.wait()
            seconds.append(time.perf_counter() - begun)
        question, rows = tracin.row_gradients(inputs), tracin.row_gradients()
        found = {"seconds": seconds, "train": train, "tests": tests, "model": changes}
        found["seconds of a further question, rows kept"] = bench.milliseconds(lambda: question.dot(rows))["call"] / 1e3
        # The first example's best by the reference, in float64 on the CPU.
        one = question.part(0, 1).to("cpu", torch.float64)
        scores = one.dot(rows.to("cpu", torch.float64))[0]
        found["first best score, of the largest, off by"] = float(
            (best.influence_scores[0].cpu().double() - scores.topk(10).values).abs().max() / scores.abs().max()
        )
    return found


def _bert(changes: dict[str, int]) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**changes))


def _texts(count: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random texts that fill what there is, so that bare passes read no mask."""
    ids = torch.randint(1, 30_000, (count, tokens), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids), torch.arange(count) % 2


# ----------------------------------------------------------------------------------------------------------------- main


def measured(bench: Bench, store: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All sections, each stored when it is done."""
    found: dict[str, Any] = {}
    sections: dict[str, Callable[[], Any]] = {
        "about": lambda: about(bench),
        "verified": lambda: verify(bench.device, *(DRY_SIDES if bench.dry else SIDES), seconds=min(90, bench.left / 3)),
        "roofs": lambda: roofs(bench),
        "kernels": lambda: kernels(bench, found["roofs"]),
        "collection": lambda: collection(bench),
        "end_to_end": lambda: whole(bench),
    }
    for name, section in sections.items():
        begun = time.monotonic()
        try:
            made = section()
            found[name] = made if isinstance(made, dict) else []
            for one in () if isinstance(made, dict) else made:
                found[name].append(one)
                print(f"{name}: {json.dumps(one)}", flush=True)
                store(found)
            if isinstance(made, dict) and name != "about":
                print(f"{name}: {json.dumps(made)}", flush=True)
        except Exception as error:
            found.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"[:1000]
            traceback.print_exc()
        found.setdefault("seconds", {})[name] = time.monotonic() - begun
        store(found)
    return found


def verdict(found: dict[str, Any]) -> list[str]:
    """What misses its mark, in a line each."""
    missed = [f"section {name}: {error}" for name, error in found.get("failed", {}).items()]
    missed += found.get("verified", {}).get("first_failures", [])
    for case in found.get("kernels", []):
        shape = f"{case['n']} x {case['m']} x {case['width']}, {case['dtype']}"
        missed += [f"{name}, {shape}: {error}" for name, error in case.get("errors", {}).items()]
        missed += [
            f"{name}, {shape}: {ratio:.2f} of the roofline, expected {OF_ROOFLINE}"
            for name, ratio in case.get("over_roofline", {}).items()
            if ratio > OF_ROOFLINE
        ]
    for case in found.get("collection", []):
        if case["over_bare"] > OF_PASSES:
            missed.append(
                f"collection, batches of {case['batch']}: {case['over_bare']:.2f} of the passes, expected {OF_PASSES}"
            )
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="on the CPU, small, in seconds; nothing is written")
    parser.add_argument("--json", type=Path, help="default: results/gpu-<card>.json")
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        sys.exit(
            "No GPU is to be seen: expected one, with its driver and a torch for CUDA. --dry runs the code on the CPU."
        )
    bench = Bench(args.dry)
    card = "dry" if args.dry else re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()
    path = args.json or (None if args.dry else RESULTS / f"gpu-{card}.json")

    def store(found: dict[str, Any]) -> None:
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")

    found = measured(bench, store)
    for line in verdict(found) if not args.dry else found["verified"]["first_failures"]:
        print(f"missed: {line}")
    print(f"{SECONDS - bench.left:.0f} s" + (f"; written: {path}" if path is not None else ""))
    if found.get("failed"):
        sys.exit(1)


if __name__ == "__main__":
    main()
