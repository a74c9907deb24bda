"""Claim: the memory of a causal language model's batch is what the documentation says it is, up to 2,048 tokens and beyond.

    extra bytes ≈ B · T · (2 · V + c · L · D) · 4        in float32, with attention that does not keep its T x T weights

for B texts of T tokens, a vocabulary of V, L layers of width D. Two blocks of V numbers per token (the logits, and
their gradient) and what each layer keeps for the backward: c numbers of its width per token. Extra memory: the most anonymous
memory held while `influence` runs, beyond what was held before, as in drop_in.py.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

# c of the formula: what the layers of a model type keep, in numbers of their width per token. Rounded up from the measurement.
KEPT = {"gpt2": 34, "llama": 34}
BASE = {"B": 1, "T": 2048, "V": 50257, "L": 2, "D": 128, "H": 2}
CASES = [
    {},
    {"L": 6},
    {"D": 256, "H": 4},
    {"V": 20000},
    {"T": 1024},
    {"B": 2, "T": 1024},
    {"V": 151936, "L": 4, "D": 256, "H": 4},
]


def formula(kind: str, B: int, T: int, V: int, L: int, D: int, H: int) -> int:
    """Bytes, as the documentation has it."""
    return B * T * (2 * V + KEPT[kind] * L * D) * 4


def made(kind: str, T: int, V: int, L: int, D: int, H: int) -> Any:
    import transformers

    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":
        sizes = {"n_embd": D, "n_layer": L, "n_head": H, "n_positions": T}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends, vocab_size=V))
    sizes = {"hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H, "intermediate_size": 4 * D}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, **ends, vocab_size=V, max_position_embeddings=T)
    )


def extra(kind: str, case: dict[str, int]) -> int:
    """Bytes that `influence` of one batch takes, its own training set: the two sides are the same pass twice."""
    from drop_in import Peak

    from captum_tracinwe import TracInWE, save_checkpoint
    from captum_tracinwe.gradients.token_losses import TokenLoss

    torch.manual_seed(0)
    model = made(kind, **{name: case[name] for name in ("T", "V", "L", "D", "H")})
    ids = torch.randint(1, case["V"], (case["B"], case["T"]))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    rows = [{name: values[i] for name, values in batch.items()} for i in range(case["B"])]
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(f"{folder}/step-1.pt", model, 0.1)
        tracin = TracInWE(model, rows, folder, loss_fn=TokenLoss(), batch_size=case["B"])
        tracin.row_gradients({name: values[:1, :8] for name, values in batch.items()})  # what a first call loads
        peak = Peak()
        peak.start()
        tracin.influence(batch)
        return peak.stop()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    args = parser.parse_args()
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # freed memory goes back to the system at once
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    results = []
    print("| model | B | T | V | L | D | measured, MB | formula, MB | ratio |\n|---|---|---|---|---|---|---|---|---|")
    for kind in KEPT:
        for changes in CASES:
            case = {**BASE, **changes}
            measured, stated = extra(kind, case), formula(kind, **case)
            results.append({"model": kind, **case, "measured": measured, "formula": stated})
            sizes = " | ".join(str(case[name]) for name in "BTVLD")
            print(
                f"| {kind} | {sizes} | {measured / 1e6:.0f} | {stated / 1e6:.0f} | {measured / stated:.2f} |",
                flush=True,
            )
    found = {
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
        "machine": platform.machine(),
        "cases": results,
    }
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
