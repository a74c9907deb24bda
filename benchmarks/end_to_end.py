"""Claim: the ten strongest proponents of 64 test texts among 10,000 training texts, all in, in one call.

A BERT of 2 layers x 128 (V = 30,522), 40 tokens to a text with Zipf-like frequencies, one checkpoint. Slow contenders run
on a part of the training texts; their time is then linear in it, and the table says so.

    python benchmarks/end_to_end.py [--train 10000] [--threads 2]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from row_dot import OTHER_SCORES, VOCABULARY, zipf_rows
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_tracinwe import RowGradients, TracInWE, load_checkpoint, save_checkpoint

RESULTS = Path(__file__).parent / "results" / "end_to_end.json"
TESTS, TOKENS, K, BATCH = 64, 40, 10, 32
LOSS = nn.CrossEntropyLoss(reduction="none")
LAYER = "model.bert.embeddings.word_embeddings"


class Positional(nn.Module):
    """BERT with positional arguments and a tensor as output, as Captum wants it."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
        self.model = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY + 2, **sizes)).eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def texts(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels: the distinct tokens of Zipf-like texts, padded with 0."""
    ptr, tokens, _ = zipf_rows(count, 1, seed)
    ids = torch.zeros(count, TOKENS, dtype=torch.int64)
    for i in range(count):
        own = tokens[ptr[i] : ptr[i + 1]][:TOKENS]
        ids[i, : len(own)] = own
    return ids, (ids != 0).long(), torch.arange(count) % 2


def contenders(folder: str, count: int) -> dict[str, tuple[Callable[[int], Any], int]]:
    """Name → (run on the first n training texts, the n that it is run on)."""
    from captum.influence import TracInCP, TracInCPFast

    model = Positional()
    save_checkpoint(f"{folder}/step-1.pt", model, 1.0)
    train, test = texts(count, 1), texts(TESTS, 2)

    def part(n: int) -> TensorDataset:
        return TensorDataset(*(field[:n] for field in train))

    def ours(n: int) -> Tensor:
        return TracInWE(model, part(n), folder, layers=[LAYER], loss_fn=LOSS, batch_size=BATCH).influence(test, k=K)

    def scored_by(score: Callable[..., Tensor]) -> Callable[[int], Any]:
        def run(n: int) -> Any:
            tracin = TracInWE(model, part(n), folder, layers=[LAYER], loss_fn=LOSS, batch_size=BATCH)
            a, b = tracin.row_gradients(test), tracin.row_gradients()
            return score(sides(a), sides(b)).topk(K, dim=1)

        return run

    def dense(n: int) -> Any:
        return TracInCP(model, part(n), folder, load_checkpoint, [LAYER], LOSS, BATCH).influence(test, k=K)

    def fast(n: int) -> Any:
        loss = nn.CrossEntropyLoss(reduction="sum")
        return TracInCPFast(model, "model.classifier", part(n), folder, load_checkpoint, loss, BATCH).influence(
            test, k=K
        )

    found: dict[str, tuple[Callable[[int], Any], int]] = {"TracInWE.influence(k=10)": (ours, count)}
    for name, score in OTHER_SCORES.items():
        found[f"our row gradients, scored by {name}"] = (scored_by(score), count)
    found["Captum TracInCPFast (last layer, other scores)"] = (fast, count)
    found["Captum TracInCP, dense"] = (dense, 96)
    return found


def sides(rows: RowGradients) -> tuple[Tensor, Tensor, Tensor]:
    return rows.ptr, rows.ids, rows.values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = contenders(folder, args.train)
        runs["TracInWE.influence(k=10)"][0](BATCH)  # what every process pays once
        for name, (run, n) in runs.items():
            start = time.perf_counter()
            run(min(n, args.train))
            seconds = (time.perf_counter() - start) * max(1.0, args.train / n)
            table[name] = {"seconds": seconds, "texts run": min(n, args.train)}
    base = table["TracInWE.influence(k=10)"]["seconds"]
    print(f"top-{K} of {TESTS} test x {args.train} training texts, BERT 2 x 128, {args.threads} thread(s)\n")
    print("| contender | seconds | ratio |\n|---|---|---|")
    for name, row in table.items():
        row["ratio"] = row["seconds"] / base
        note = "" if row["texts run"] == args.train else f" (from {row['texts run']:.0f} texts)"
        print(f"| {name}{note} | {row['seconds']:.1f} | {row['ratio']:.1f} |")
    facts = {"date": str(datetime.date.today()), "machine": platform.machine(), "torch": torch.__version__}
    facts |= {"threads": args.threads, "train": args.train, "tests": TESTS}
    args.json.write_text(json.dumps({**facts, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
