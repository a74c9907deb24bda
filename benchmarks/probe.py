"""Claim: the probe, which tries whether a text's gradients in a batch are those of the text alone, costs next to nothing.

A pass over 5,000 texts of 8 to 64 tokens (of 64 for those without a mask) at one checkpoint, with the probe and without, in
turn. What is reported is what all checks took (a form of batch tried, the look at each batch, the model that comes back), as a
part of the pass without them: the median of the rounds, of which a pass below a second gets three times as many.

    python benchmarks/probe.py [--texts 5000] [--rounds 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, tiny_gpt2
from captum_tracinwe.gradients.token_losses import TokenLoss

RESULTS = Path(__file__).parent / "results" / "probe.json"
LOSS = nn.CrossEntropyLoss(reduction="none")
VOCABULARY, BATCH = 8_000, 32


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **sizes)).eval()


def gpt2() -> nn.Module:
    return tiny_gpt2(vocab_size=VOCABULARY, n_positions=64, n_embd=128)


def lstm() -> nn.Module:
    return Recurrent()


def tiny_cnn() -> nn.Module:
    return TinyCNN(VOCABULARY, 128, 2)


def cnn() -> nn.Module:
    return Convolutions()


def bag() -> nn.Module:
    return Bag()


class Bag(nn.Module):
    """The mean of a text's words, as in fastText: the least that a model can do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, 128), nn.Linear(128, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(input_ids).mean(1))


class Convolutions(nn.Module):
    """The text CNN of Kim (2014): 300 numbers a word, 100 filters of each of the widths 3, 4 and 5."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 300)
        self.filters = nn.ModuleList(nn.Conv1d(300, 100, width) for width in (3, 4, 5))
        self.out = nn.Linear(300, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        words = self.words(input_ids).transpose(1, 2)
        return self.out(torch.cat([one(words).relu().amax(2) for one in self.filters], dim=1))


class Recurrent(nn.Module):
    """A bidirectional LSTM of 128 on words of 128."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, 128), nn.Linear(256, 2)
        self.lstm = nn.LSTM(128, 128, batch_first=True, bidirectional=True)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.words(input_ids))[0].amax(1))


def texts(count: int, of_words: bool, equal: bool) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [64] * count if equal else torch.randint(8, 65, (count,), generator=generator).tolist()
    found = []
    for number, length in enumerate(lengths):
        ids = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        found.append({"input_ids": ids, "labels": ids if of_words else number % 2})
    return found


def measured(make: object, count: int, rounds: int, of_words: bool, equal: bool) -> dict[str, float]:
    torch.manual_seed(0)
    model, data = make(), texts(count, of_words, equal)  # type: ignore[operator]
    parts, seconds, shares = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(f"{folder}/step-1.pt", model, 1e-3)
        options = {"loss_fn": TokenLoss() if of_words else LOSS, "batch_size": BATCH}
        while len(seconds) < rounds * (3 if seconds and seconds[0] < 1 else 1):
            begun = time.perf_counter()
            TracInWE(model, data, folder, **options, probe=False).self_influence()
            without = time.perf_counter() - begun
            tracin = TracInWE(model, data, folder, **options)
            begun = time.perf_counter()
            tracin.self_influence()
            seconds.append(time.perf_counter() - begun)
            took = tracin.probes.seconds
            parts.append(took)
            shares.append(took / without)
    return {
        "pass, s": round(statistics.median(seconds), 3),
        "probe, s": round(statistics.median(parts), 4),
        "probe / pass without it": round(statistics.median(shares), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kinds = {
        "mean of words, 128": (bag, False, True),
        "CNN of one width, 128": (tiny_cnn, False, True),
        "CNN of Kim (2014)": (cnn, False, True),
        "LSTM, two ways, 128": (lstm, False, True),
        "BERT 2 x 128": (bert, False, False),
        "GPT-2 2 x 128": (gpt2, True, False),
    }
    found = {name: measured(make, args.texts, args.rounds, *kind) for name, (make, *kind) in kinds.items()}
    for name, numbers in found.items():
        print(name, numbers)
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "settings": {"texts": args.texts, "rounds": args.rounds, "threads": args.threads, "batch": BATCH},
    }
    args.out.write_text(json.dumps({**about, "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
