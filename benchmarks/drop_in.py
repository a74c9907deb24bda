"""Claim: in TracInCP's place, TracInWE gives equal scores in a fraction of the time and memory (BERT-base shape).

Each side runs in a process of its own on the same model, data and checkpoints. Extra memory: the most that the process
held beyond what it held before `influence` was called, once as resident memory, which counts the pages of the mapped
checkpoint file as well, and once as anonymous memory, which cannot be dropped by the system.

    python benchmarks/drop_in.py [--layers 12] [--runs 5]

Both processes run with a fixed threshold of the allocator (MALLOC_MMAP_THRESHOLD_), by which freed memory goes back to
the system at once; otherwise the peak would count what the C library keeps in fragments (60 MB here).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

TRAIN, TEST, TOKENS, CHECKPOINTS = 8, 4, 64, 2


def memory() -> tuple[int, int]:
    """Resident and anonymous bytes of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


class Peak(threading.Thread):
    """The highest memory seen, looked at every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = memory()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.001):
            self.peak = tuple(map(max, self.peak, memory()))  # type: ignore[assignment]

    def stop(self) -> list[int]:
        self.done.set()
        self.join()
        return [peak - before for peak, before in zip(self.peak, self.before, strict=True)]


class Classifier(torch.nn.Module):
    """BERT with positional arguments and a tensor as output, as Captum wants it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        self.bert = BertForSequenceClassification(BertConfig(num_hidden_layers=layers))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=ids, attention_mask=mask).logits


def worker(side: str, folder: str, layers: int, runs: int) -> None:
    from captum.influence import TracInCP

    from captum_tracinwe import TracInWE, load_checkpoint

    model = Classifier(layers).eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 30522, (TRAIN + TEST, TOKENS), generator=generator)
    ids[:, :TOKENS:8] = torch.arange(101, 101 + TOKENS // 8)  # words that all texts share
    mask, labels = torch.ones_like(ids), torch.arange(TRAIN + TEST) % 2
    train = torch.utils.data.TensorDataset(ids[:TRAIN], mask[:TRAIN], labels[:TRAIN])
    test = (ids[TRAIN:], mask[TRAIN:], labels[TRAIN:])
    kind = TracInCP if side == "captum" else TracInWE
    layers_named = ["bert.bert.embeddings.word_embeddings"]
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    tracin = kind(model, train, folder, load_checkpoint, layers_named, loss, TRAIN)
    seconds, extra = [], []
    for _ in range(runs):
        peak = Peak()
        peak.start()
        start = time.perf_counter()
        scores = tracin.influence(test)
        seconds.append(time.perf_counter() - start)
        extra.append(peak.stop())
    print(json.dumps({"seconds": seconds, "extra": extra, "scores": scores.tolist()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    default = Path(__file__).parent / "results" / "drop_in.json"
    parser.add_argument(
        "--json", type=Path, default=default, help="where the figures are stored (default: %(default)s)"
    )
    parser.add_argument("--worker", choices=["captum", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.folder, args.layers, args.runs)
    from captum_tracinwe import save_checkpoint

    result = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Classifier(args.layers)
        for c in range(CHECKPOINTS):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.0 + 0.1 * c)
            save_checkpoint(f"{folder}/{c}.pt", model, 1e-3 / (c + 1))
        del model
        for side in ("captum", "ours"):
            command = [sys.executable, __file__, "--worker", side, "--folder", folder]
            command += ["--layers", str(args.layers), "--runs", str(args.runs)]
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            result[side] = json.loads(done.stdout.splitlines()[-1])

    scores = {side: torch.tensor(result[side].pop("scores"), dtype=torch.float64) for side in result}
    difference = float((scores["ours"] - scores["captum"]).abs().max() / scores["captum"].abs().max())
    table = {}
    for side, found in result.items():
        # The first run pays for what every process pays once; memory is the most of any run.
        rss, anonymous = (max(extra[i] for extra in found["extra"]) for i in range(2))
        table[side] = {
            "seconds": statistics.median(found["seconds"][1:] or found["seconds"]),
            "rss": rss,
            "anonymous": anonymous,
        }
    print(f"BERT, V = 30,522, d = 768, {args.layers} layers, {TOKENS} tokens;", end=" ")
    print(f"{TRAIN} train x {TEST} test x {CHECKPOINTS} checkpoints")
    print(f"{args.runs} runs, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"| {'':22} | seconds (median) | extra resident MB | extra anonymous MB |")
    print("|---|---|---|---|")
    names = {"captum": "Captum TracInCP, dense", "ours": "TracInWE"}
    for side, name in names.items():
        row = table[side]
        print(f"| {name:22} | {row['seconds']:.2f} | {row['rss'] / 1e6:,.0f} | {row['anonymous'] / 1e6:,.0f} |")
    ratio = {key: table["captum"][key] / max(1e-9, table["ours"][key]) for key in table["ours"]}
    print(f"| {'ratio':22} | {ratio['seconds']:.1f} | {ratio['rss']:.1f} | {ratio['anonymous']:.1f} |")
    print(f"\nLargest difference of scores, relative to the largest score: {difference:.1e}")
    assert difference < 1e-5, "scores differ"
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    facts |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "layers": args.layers, "runs": args.runs}
    args.json.write_text(
        json.dumps({**facts, "sides": table, "captum / ours": ratio, "difference": difference}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
