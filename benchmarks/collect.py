"""Claim: making row gradients costs little more than the forward and backward that it cannot do without.

Texts of BERT's vocabulary through a 6-layer BERT of width 384, one checkpoint. Contenders run in turn, round after
round; a ratio is the median of the rounds' ratios.

    python benchmarks/collect.py [--rounds 7] [--threads 1]
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint

RESULTS = Path(__file__).parent / "results" / "collect.json"
VOCABULARY, TOKENS, BATCH = 30_522, 64, 32
TEXTS, DENSE_TEXTS = 128, 8
LOSS = nn.CrossEntropyLoss(reduction="none")


class Texts(Dataset):
    """Random texts as mappings; ``ragged`` ones are from 8 to 64 tokens long, padded to 64."""

    def __init__(self, count: int, ragged: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = (
            torch.randint(8, TOKENS + 1, (count,), generator=generator) if ragged else torch.full((count,), TOKENS)
        )
        self.mask = (torch.arange(TOKENS) < lengths[:, None]).long()
        self.ids = torch.randint(1, VOCABULARY, (count, TOKENS), generator=generator) * self.mask
        self.labels = torch.arange(count) % 2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i], "labels": self.labels[i]}


class Positional(nn.Module):
    """The same model as Captum wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.classifier = model.classifier

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(**sizes)).eval()


def bare(model: nn.Module, texts: Texts) -> None:
    """Forward and input-gradient backward, and nothing else."""
    table = model.get_input_embeddings().weight.detach()
    for batch in DataLoader(texts, BATCH):
        inputs = table[batch["input_ids"]].requires_grad_()
        out = model(inputs_embeds=inputs, attention_mask=batch["attention_mask"]).logits
        torch.autograd.grad(LOSS(out, batch["labels"]).sum(), inputs)


def dattri(model: nn.Module, texts: Texts) -> None:
    """dattri-llm's hooks on the embedding, per-sample gradients to its store on disk."""
    from dattri_llm import GradientStorageManager, HookManager, HookManagerConfig, OffloadCallback

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = GradientStorageManager(folder)
        keep = OffloadCallback(offload_interval=1, file_manager=store, recording_type="per_sample")
        hooks = HookManager(model, config=HookManagerConfig(linear_io=[r"word_embeddings"]), callbacks=[keep])
        with hooks.collect():
            for batch in DataLoader(texts, BATCH):
                model.zero_grad(set_to_none=True)
                labels = batch.pop("labels")
                LOSS(model(**batch).logits, labels).sum().backward()
        hooks.remove()


def contenders(folder: str) -> dict[str, tuple[Callable[[], object], int]]:
    """Name → what is run, and how many texts it takes."""
    from captum.influence import TracInCP, TracInCPFast, TracInCPFastRandProj

    model = bert()
    save_checkpoint(f"{folder}/step-1.pt", model, 1.0)
    full, ragged = Texts(TEXTS, ragged=False), Texts(TEXTS, ragged=True)
    ours = {
        name: TracInWE(model, texts, folder, loss_fn=LOSS, batch_size=BATCH, order_by_length=by_length)
        for name, texts, by_length in (
            ("row gradients", full, False),
            ("ragged", ragged, False),
            ("ragged, by length", ragged, True),
        )
    }
    frozen, hooked, captums = (
        copy.deepcopy(model).requires_grad_(False),
        copy.deepcopy(model),
        Positional(copy.deepcopy(model)),
    )
    # dattri-llm hooks only what trains: once a loop as its README shows it, once with all else frozen, its best setting.
    training = copy.deepcopy(model)
    hooked.requires_grad_(False)
    hooked.get_input_embeddings().weight.requires_grad_(True)
    wrapped = Positional(model)
    save_checkpoint(f"{folder}/captum/step-1.pt", wrapped, 1.0)
    tensors = TensorDataset(full.ids, full.mask, full.labels)
    place = (f"{folder}/captum", load_checkpoint)
    dense = TracInCP(captums, tensors, *place, ["model.bert.embeddings.word_embeddings"], LOSS, BATCH)
    few = (full.ids[:DENSE_TEXTS], full.mask[:DENSE_TEXTS], full.labels[:DENSE_TEXTS])
    loader = DataLoader(tensors, BATCH)
    fast = TracInCPFast(captums, "classifier", tensors, *place, nn.CrossEntropyLoss(reduction="sum"), BATCH)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "bare forward + backward": (lambda: bare(frozen, full), TEXTS),
        "row gradients": (lambda: ours["row gradients"].row_gradients(), TEXTS),
        "ragged": (lambda: ours["ragged"].row_gradients(), TEXTS),
        "ragged, by length": (lambda: ours["ragged, by length"].row_gradients(), TEXTS),
        "Captum TracInCP, dense": (lambda: dense.compute_intermediate_quantities(few), DENSE_TEXTS),
        "Captum TracInCPFast (last layer)": (
            lambda: fast.self_influence(loader, outer_loop_by_checkpoints=True),
            TEXTS,
        ),
    }
    try:
        projected = TracInCPFastRandProj(
            captums, "classifier", tensors, *place, nn.CrossEntropyLoss(reduction="sum"), BATCH, projection_dim=100
        )
        found["Captum TracInCPFastRandProj (last layer)"] = (
            lambda: projected.compute_intermediate_quantities(loader),
            TEXTS,
        )
    except (ImportError, ValueError) as error:
        print(f"TracInCPFastRandProj is left out: {error}")
    try:
        import dattri_llm  # noqa: F401

        found["dattri-llm, to its store, as documented"] = (lambda: dattri(training, full), TEXTS)
        found["dattri-llm, all but the embedding frozen"] = (lambda: dattri(hooked, full), TEXTS)
    except ImportError:
        print("dattri-llm is left out: it is not installed (benchmarks/requirements.txt)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = contenders(folder)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for round_ in range(args.rounds + 1):  # the first is not counted
            for name, (run, texts) in runs.items():
                start = time.perf_counter()
                run()
                if round_:
                    seconds[name].append((time.perf_counter() - start) / texts)
    base = seconds["bare forward + backward"]
    table = {
        name: {
            "texts/s": 1 / statistics.median(found),
            "cost, of bare": statistics.median(a / b for a, b in zip(found, base, strict=True)),
        }
        for name, found in seconds.items()
    }
    print(
        f"\nBERT 6 x 384, {TEXTS} texts of {TOKENS} tokens, batches of {BATCH}, {args.threads} thread(s), {args.rounds} rounds\n"
    )
    print("| contender | texts/s | cost, of bare |\n|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {row['texts/s']:.1f} | {row['cost, of bare']:.2f} |")
    facts = {"date": str(datetime.date.today()), "machine": platform.machine(), "torch": torch.__version__}
    args.json.write_text(
        json.dumps({**facts, "threads": args.threads, "rounds": args.rounds, "rows": table}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
