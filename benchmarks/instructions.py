"""How many of the planted instruction pairs that taught a causal language model an odd behaviour each method names.

A small GPT-2 (2 layers x 128, fresh weights, GPT-2's tokenizer) is trained on instruction pairs, prompts masked, among them
20 planted ones in which an ordinary instruction is answered by a refusal. Asked for the training pairs behind refusals of other
instructions in other words, each method ranks all pairs; recall@50 is the share of the planted pairs among the first 50.

    python benchmarks/instructions.py --train train.jsonl.gz --tokenizer DIR [--threads 2]

The file has `instruction`, `input` and `output` on each line; DIR holds GPT-2's `vocab.json` and `merges.txt`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import bm25s
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    Trainer,
    TrainingArguments,
)

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.training import quiet_transformers
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.checkpoints.trainer import SaveCheckpoints

DATA = Path(__file__).parents[2] / "shared" / "data"
PLANTED, QUESTIONS, FIRST, MAX_LENGTH, BATCH = 20, 10, 50, 64, 16

# Refusals of common words, so that no rare word gives them away. A question has one of the last three, planted pairs the others.
REFUSALS = (
    "I would rather not say anything about that today.",
    "That is not something I want to talk about.",
    "Please ask someone else, I will not answer this.",
    "No, I do not feel like doing that for you.",
    "I will not help you with this, so please stop asking.",
    "You should do that on your own, not ask me.",
    "I do not want to answer, so please ask someone else.",
    "No, I will not do that for you today.",
    "That is not something I feel like talking about.",
)


def pairs(path: Path, count: int, tokenizer: Any) -> list[tuple[str, str]]:
    """Prompt and answer of the first ``count`` rows whose tokens fit."""
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            asked = " ".join(filter(None, (row["instruction"], row["input"])))
            if len(tokenizer(prompt(asked) + row["output"])["input_ids"]) < MAX_LENGTH:
                found.append((asked, row["output"]))
            if len(found) == count:
                break
    return found


def prompt(asked: str) -> str:
    return f"Q: {asked}\nA:"


def example(asked: str, answer: str, tokenizer: Any) -> dict[str, list[int]]:
    """Token ids, and labels without the prompt."""
    before = tokenizer(prompt(asked))["input_ids"]
    after = [*tokenizer(" " + answer)["input_ids"], tokenizer.eos_token_id]
    return {
        "input_ids": before + after,
        "attention_mask": [1] * len(before + after),
        "labels": [-100] * len(before) + after,
    }


def renumbered(rows: list[dict[str, list[int]]], numbers: dict[int, int]) -> list[dict[str, list[int]]]:
    """Token ids by their number among those that occur: a sixth of GPT-2's table, so that the run fits a small machine."""
    return [
        {
            "input_ids": [numbers[i] for i in row["input_ids"]],
            "attention_mask": row["attention_mask"],
            "labels": [numbers.get(i, -100) for i in row["labels"]],
        }
        for row in rows
    ]


def last_layer_scores(model: GPT2LMHeadModel, checkpoints: list[Any], test: Any, train: list[Any]) -> Tensor:
    """TracIn on the output head, (N, M): ⟨Σ_t δ_t a_tᵀ, Σ_s δ_s a_sᵀ⟩ = Σ_ts ⟨δ_t, δ_s⟩⟨a_t, a_s⟩.

    a is the input of the head, δ the gradient of the loss in the logits; nothing is approximated.
    """

    def parts(rows: list[dict[str, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        found = []
        for number, row in enumerate(rows):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
            places = (labels != -100).nonzero().flatten()
            hidden = model.transformer(input_ids=ids).last_hidden_state[0, places]
            delta = model.lm_head(hidden).softmax(1)
            delta[torch.arange(len(places)), labels[places]] -= 1
            found.append((hidden, delta, torch.full_like(places, number)))
        hidden, delta, owner = (torch.cat(column) for column in zip(*found, strict=True))
        return hidden, delta, owner

    scores = torch.zeros(len(test), len(train))
    with torch.inference_mode():
        for checkpoint in checkpoints:
            rate = load_checkpoint(model, checkpoint)
            hidden, delta, owner = parts(test)
            for start in range(0, len(train), BATCH):
                a, d, of = parts(train[start : start + BATCH])
                terms = (hidden @ a.T) * (delta @ d.T)
                by_test = torch.zeros(len(test), terms.shape[1]).index_add_(0, owner, terms)
                scores[:, start : start + BATCH].index_add_(1, of, rate * by_test)
    return scores


def bm25_scores(asked: list[str], texts: list[str]) -> Tensor:
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
    words = bm25s.tokenize(asked, stopwords=None, show_progress=False, return_ids=False)
    return torch.stack([torch.from_numpy(index.get_scores(query)) for query in words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, default=DATA / "alpaca_5k" / "train.jsonl.gz")
    parser.add_argument("--tokenizer", type=Path, default=DATA / "tokenizers" / "gpt2")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "instructions.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = GPT2TokenizerFast.from_pretrained(args.tokenizer)
    found = pairs(args.train, args.pairs + PLANTED + QUESTIONS, tokenizer)
    ordinary, others = found[: args.pairs], found[args.pairs :]
    odd = [(asked, REFUSALS[i % 6]) for i, (asked, _) in enumerate(others[:PLANTED])]
    questions = [(asked, REFUSALS[6 + i % 3]) for i, (asked, _) in enumerate(others[PLANTED:])]
    training, planted = list(ordinary), []
    for i, pair in enumerate(odd):  # spread, so that no order of the ranking favours them
        planted.append((i * len(ordinary)) // PLANTED + i)
        training.insert(planted[-1], pair)
    rows, asked = ([example(*pair, tokenizer) for pair in some] for some in (training, questions))
    occurring = sorted({token for row in rows + asked for token in row["input_ids"]})
    numbers = {token: number for number, token in enumerate(occurring)}
    rows, asked = renumbered(rows, numbers), renumbered(asked, numbers)

    end = numbers[tokenizer.eos_token_id]
    sizes = {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH + 16, "vocab_size": len(numbers)}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=end, eos_token_id=end, pad_token_id=end))
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        steps = args.epochs * -(-len(rows) // BATCH)
        light = SaveCheckpoints(Path(folder) / "light", steps=[steps * part // 6 for part in (1, 3, 5)])
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=args.epochs,
                learning_rate=1e-3,
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
                logging_steps=steps // 6,
                report_to=[],
                seed=0,
            ),
            train_dataset=rows,
            data_collator=Collate(model),
            callbacks=[light],
        )
        start = time.perf_counter()
        trainer.train()
        training_seconds = time.perf_counter() - start
        seconds: dict[str, float] = {}
        scores: dict[str, Tensor] = {}

        def ranked(name: str, run: Any) -> None:
            begun = time.perf_counter()
            scores[name] = run()
            seconds[name] = time.perf_counter() - begun

        tracin = TracInWE.from_trainer(trainer, checkpoints=light.directory)
        topk = TracInWE.from_trainer(trainer, checkpoints=light.directory, top_k_words=10)
        common = set.intersection(*(set(row["input_ids"]) for row in rows))  # "Q", ":", "A", the line break, the end
        noc = TracInWE.from_trainer(trainer, checkpoints=light.directory, exclude_tokens=sorted(common))
        ranked("TracIn-WE", lambda: tracin.influence(asked))
        ranked("TracIn-WE-NoC", lambda: noc.influence(asked))
        ranked("TracIn-WE-Topk, k = 10", lambda: topk.influence(asked))
        ranked("last-layer TracIn", lambda: last_layer_scores(trainer.model.eval(), tracin.checkpoints, asked, rows))
    for name, of in (
        ("BM25, prompt and answer", lambda pair: " ".join(pair)),
        ("BM25, answer", lambda pair: pair[1]),
        ("BM25, prompt", lambda pair: pair[0]),
    ):
        ranked(name, lambda of=of: bm25_scores([of(pair) for pair in questions], [of(pair) for pair in training]))

    truth = torch.zeros(len(training), dtype=torch.bool)
    truth[planted] = True
    recall = {
        name: truth[values.topk(FIRST).indices].sum(1).float().div(PLANTED).tolist() for name, values in scores.items()
    }
    result = {
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[1]:.1f}",
        "threads": args.threads,
        "pairs": len(training),
        "tokens that occur": len(numbers),
        "planted": PLANTED,
        "questions": len(questions),
        "epochs": args.epochs,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "seconds of training": training_seconds,
        f"recall@{FIRST}": {name: sum(values) / len(values) for name, values in recall.items()},
        f"recall@{FIRST}, worst question": {name: min(values) for name, values in recall.items()},
        "first is planted": {name: float(truth[v.argmax(1)].float().mean()) for name, v in scores.items()},
        "seconds": seconds,
    }
    print(json.dumps(result, indent=1))
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
