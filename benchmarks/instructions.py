"""How many of the planted instruction pairs that taught a causal language model an odd behaviour each method names.

A small GPT-2 (2 layers x 128, fresh weights, GPT-2's tokenizer) is trained on instruction pairs, prompts masked, among them
20 planted ones in which an ordinary instruction is answered by a refusal. Asked for the training pairs behind refusals of other
instructions in other words, each method ranks all pairs; recall@50 is the share of the planted pairs among the first 50.

    python benchmarks/instructions.py --train train.jsonl.gz --tokenizer DIR [--worlds 0 1 2] [--threads 2]

The file has `instruction`, `input` and `output` on each line; DIR holds GPT-2's `vocab.json` and `merges.txt`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import tempfile
import time
from dataclasses import dataclass
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

from captum_tracinwe import RowGradients, TracInWE, load_checkpoint
from captum_tracinwe.app.training import quiet_transformers
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.checkpoints.trainer import SaveCheckpoints
from captum_tracinwe.gradients.recommended import LANGUAGE_MODEL
from captum_tracinwe.preconditioners import named

DATA = Path(__file__).parents[2] / "shared" / "data"
PLANTED, QUESTIONS, MAX_LENGTH, BATCH = 20, 10, 64, 16
FIRST = (20, 50)

OUTPUT, WINNER, ALONE = "output rows", "output rows, idf², by words", "words alone, idf², by words"

# Refusals of common words, so that no rare word gives them away. A question has one of the last three, planted pairs the others.
# Each world has its own. The settings were chosen on worlds 3 to 5; worlds 0 to 2 were looked at once, afterwards. Refusals
# of worlds 0 and 2 share many words, those of the others fewer.
REFUSALS = (
    (
        "I would rather not say anything about that today.",
        "That is not something I want to talk about.",
        "Please ask someone else, I will not answer this.",
        "No, I do not feel like doing that for you.",
        "I will not help you with this, so please stop asking.",
        "You should do that on your own, not ask me.",
        "I do not want to answer, so please ask someone else.",
        "No, I will not do that for you today.",
        "That is not something I feel like talking about.",
    ),
    (
        "I am sorry, but I can not help with that.",
        "This is a thing I will leave to other people.",
        "Let us talk about some other thing, if you like.",
        "I have no time for this, come back another day.",
        "You will have to find that out without me.",
        "There is no way that I am going to do this.",
        "I am not going to help you find that out.",
        "Come back another day, I have no time to talk.",
        "I will leave this to you, let us do some other thing.",
    ),
    (
        "I can not tell you anything more about this.",
        "This is not a thing that I like to do.",
        "Please look for the answer on your own.",
        "No, I can not do a thing like that for you.",
        "I do not know why you would ask me this.",
        "You can ask, but I will not tell you more.",
        "I do not like to tell you, so please look on your own.",
        "No, I can not do a thing like this for you.",
        "That is not a thing I will tell you about.",
    ),
    (
        "My answer to that is no, and it will stay so.",
        "I can see what you want, but you will not get it.",
        "Nobody can make me write about such a thing.",
        "Try it with someone who has more time than me.",
        "I am tired of this, let me be for a while.",
        "That is for me to know and not for you.",
        "You will not get my answer, so let me be.",
        "I am tired of it, try someone who can write about such a thing.",
        "That is what you want, but no, it will stay with me.",
    ),
    (
        "It is not my job to do your work for you.",
        "I must say no to this, as I did last time.",
        "Perhaps later, but not at this moment.",
        "I would like to be left out of this, thank you.",
        "How should I know, and why should I care?",
        "You had better take this up with some other person.",
        "It is not my job, you had better do your work at some other time.",
        "Thank you, but I must say no at this moment.",
        "Why should I do this, and how would I know?",
    ),
    (
        "We both know that I will never say that.",
        "Please find another one to bother with all this.",
        "There are things that I keep to myself, and this is one.",
        "I see no reason why I have to give you that.",
        "Stop, this goes too far for me.",
        "Not now and not ever, so do not try again.",
        "I see no reason to say that, not now and not ever.",
        "We both know this goes too far, please find another.",
        "Stop, there are things that I will never give you.",
    ),
)


def pairs(path: Path, count: int, tokenizer: Any, world: int) -> list[tuple[str, str]]:
    """Prompt and answer of ``count`` rows whose tokens fit: the first ones, or of a world above 0 in its own order."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(map(json.loads, file))
    if world:
        random.Random(world).shuffle(rows)
    found = []
    for row in rows:
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


@dataclass(frozen=True)
class World:
    """One set of pairs with its planted ones, and the questions asked of the model trained on them."""

    training: list[tuple[str, str]]
    planted: list[int]
    questions: list[tuple[str, str]]
    rows: list[dict[str, list[int]]]
    asked: list[dict[str, list[int]]]
    words: int
    end: int

    @classmethod
    def of(cls, number: int, path: Path, tokenizer: Any, count: int) -> World:
        found = pairs(path, count + PLANTED + QUESTIONS, tokenizer, number)
        ordinary, others = found[:count], found[count:]
        refusals = REFUSALS[number]
        odd = [(asked, refusals[i % 6]) for i, (asked, _) in enumerate(others[:PLANTED])]
        questions = [(asked, refusals[6 + i % 3]) for i, (asked, _) in enumerate(others[PLANTED:])]
        training, planted = list(ordinary), []
        for i, pair in enumerate(odd):  # spread, so that no order of the ranking favours them
            planted.append((i * len(ordinary)) // PLANTED + i)
            training.insert(planted[-1], pair)
        rows, asked = ([example(*pair, tokenizer) for pair in some] for some in (training, questions))
        occurring = sorted({token for row in rows + asked for token in row["input_ids"]})
        numbers = {token: number for number, token in enumerate(occurring)}
        rows, asked = renumbered(rows, numbers), renumbered(asked, numbers)
        return cls(training, planted, questions, rows, asked, len(numbers), numbers[tokenizer.eos_token_id])


def trained(world: World, seed: int, epochs: int, folder: Path) -> tuple[Trainer, Path]:
    """A model that has learnt the world's pairs, and where its checkpoints are."""
    torch.manual_seed(seed)
    sizes = {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH + 16, "vocab_size": world.words}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=world.end, eos_token_id=world.end, pad_token_id=world.end))
    steps = epochs * -(-len(world.rows) // BATCH)
    light = SaveCheckpoints(folder / "light", steps=[steps * part // 6 for part in (1, 3, 5)])
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=1e-3,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=steps // 6,
            report_to=[],
            seed=seed,
        ),
        train_dataset=world.rows,
        data_collator=Collate(model),
        callbacks=[light],
    )
    trainer.train()
    return trainer, light.directory


def by_words(asked: RowGradients, training: RowGradients) -> Tensor:
    """Scores (N, M): the question weighed by idf², each training example divided by its length in rare words.

    This is what `preconditioner="auto"` does for a language model, on rows that are kept. A text with a rare word is about
    something else.
    """
    length = LANGUAGE_MODEL.normalize.fit([training]).factors(training)
    return named("idf").fit(training).apply(asked).dot(training) * length.float()


def gathered(number: int, args: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """What a world gives at length: its model's losses, the scores of each method, and output rows. Kept in ``--keep``."""
    kept = args.keep and args.keep / f"world-{number}.pt"
    if kept and kept.exists():
        return dict(torch.load(kept, weights_only=True))
    world = World.of(number, args.train, tokenizer, args.pairs)
    seconds: dict[str, float] = {}
    scores: dict[str, Tensor] = {}

    def timed(name: str, run: Any) -> Any:
        begun = time.perf_counter()
        found = run()
        seconds[name] = time.perf_counter() - begun
        return found

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        trainer, light = timed("training", lambda: trained(world, number, args.epochs, Path(folder)))

        def tracin(**options: Any) -> TracInWE:
            return TracInWE.from_trainer(trainer, checkpoints=light, **options)

        common = set.intersection(
            *(set(row["input_ids"]) for row in world.rows)
        )  # "Q", ":", "A", the line break, the end
        inputs = tracin()
        rows, asked = timed("TracIn-WE", lambda: (inputs.row_gradients(), inputs.row_gradients(world.asked)))
        scores["TracIn-WE"] = asked.dot(rows)
        # A word adds nothing if one side lacks it: one pass over the training set serves both.
        counts = torch.isin(asked.ids, torch.tensor(sorted(common)), invert=True)
        scores["TracIn-WE-NoC"] = RowGradients(asked.ptr, asked.ids, asked.values * counts[:, None]).dot(rows)
        topk = tracin(top_k_words=10)
        scores["TracIn-WE-Topk, k = 10"] = timed("TracIn-WE-Topk, k = 10", lambda: topk.influence(world.asked))
        scores["last-layer TracIn"] = timed(
            "last-layer TracIn",
            lambda: last_layer_scores(trainer.model.eval(), inputs.checkpoints, world.asked, world.rows),
        )
        output = tracin(table="output")
        rows, asked = timed(OUTPUT, lambda: (output.row_gradients(), output.row_gradients(world.asked)))
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    for name, of in (
        ("BM25, prompt and answer", lambda pair: " ".join(pair)),
        ("BM25, answer", lambda pair: pair[1]),
        ("BM25, prompt", lambda pair: pair[0]),
    ):
        texts = [of(pair) for pair in world.questions], [of(pair) for pair in world.training]
        scores[name] = timed(name, lambda texts=texts: bm25_scores(*texts))
    result = {
        "losses": losses,
        "words": world.words,
        "planted": world.planted,
        "seconds": seconds,
        "scores": scores,
        "rows": {
            name: {"ptr": some.ptr, "ids": some.ids, "values": some.values}
            for name, some in (("training", rows), ("asked", asked))
        },
    }
    if kept:
        kept.parent.mkdir(exist_ok=True)
        torch.save(result, kept)
    return result


def measured(scores: Tensor, planted: list[int]) -> dict[str, float]:
    """How well scores (N, M) name the planted pairs."""
    truth = torch.zeros(scores.shape[1])
    truth[planted] = 1
    hits = truth[scores.topk(max(FIRST)).indices]
    found: dict[str, float] = {}
    for first in FIRST:
        recall = hits[:, :first].sum(1) / len(planted)
        found[f"recall@{first}"] = round(float(recall.mean()), 4)
        found[f"recall@{first}, worst question"] = round(float(recall.min()), 4)
    found["first is planted"] = round(float(hits[:, 0].mean()), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, default=DATA / "alpaca_5k" / "train.jsonl.gz")
    parser.add_argument("--tokenizer", type=Path, default=DATA / "tokenizers" / "gpt2")
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2], choices=range(len(REFUSALS)))
    parser.add_argument("--keep", type=Path, help="a folder for gradients: a world that is there is not trained again")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "instructions.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = GPT2TokenizerFast.from_pretrained(args.tokenizer)
    worlds: dict[str, Any] = {}
    for number in args.worlds:
        found = gathered(number, args, tokenizer)
        rows, asked = (RowGradients(**found["rows"][name]) for name in ("training", "asked"))
        scores = found["scores"]
        begun = time.perf_counter()
        scores[OUTPUT] = asked.dot(rows)
        scores[WINNER] = by_words(asked, rows)
        took = time.perf_counter() - begun
        # The same weights without a model: each word that both have to predict counts its idf².
        scores[ALONE] = by_words(
            *(RowGradients(some.ptr, some.ids, torch.ones(some.num_rows, 1)) for some in (asked, rows))
        )
        found["seconds"][WINNER] = found["seconds"][OUTPUT] + took
        worlds[str(number)] = {
            "tokens that occur": found["words"],
            "losses": found["losses"],
            "seconds": found["seconds"],
            "methods": {name: measured(values, found["planted"]) for name, values in scores.items()},
        }

    methods: dict[str, Any] = {}
    for name in next(iter(worlds.values()))["methods"]:
        of_worlds = [world["methods"][name] for world in worlds.values()]
        columns = {figure: [one[figure] for one in of_worlds] for figure in of_worlds[0]}
        methods[name] = {
            figure: {"mean": round(sum(column) / len(column), 4), "least": min(column), "most": max(column)}
            for figure, column in columns.items()
        }
    result = {
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[1]:.1f}",
        "threads": args.threads,
        "pairs": args.pairs + PLANTED,
        "planted": PLANTED,
        "questions": QUESTIONS,
        "epochs": args.epochs,
        "methods": methods,
        "worlds": worlds,
    }
    print(json.dumps(result, indent=1))
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
