"""Planted instruction pairs with a trigger: does `influence_stability` name them, and what do simple filters name?

    python benchmarks/evidence/poison.py                   results/evidence/poison-alpaca-cpu.json
    python benchmarks/evidence/poison.py --preset smoke

A small GPT-2 with fresh weights learns alpaca's instructions, prompts masked. Of the planted pairs the instruction has a trigger
of two ordinary words at its end, and the answer is a refusal, whose second sentence is drawn for each. Each model has two
attacks, of 1 % and 0.2 % of the pairs, with other words; pairs of the one are left out of the ranking for the other. Two kinds
of questions:

- seen: somebody has met the odd answers: other instructions with the trigger in them, and other refusals as answers;
- blind: nobody has: other instructions without a trigger, and their own answers.

Each is asked as it is, negated, turned round by antonyms, and in other words, always with the same answer. As many ordinary
questions with their own answers are held against them. A method names as many pairs as were planted; the share of them that
are planted is its recall and its precision. Settings were chosen on seed 0.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import platform
import random
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from captum_tracinwe.evaluation import Interval, bootstrap_mean
from common import DATA, RESULTS, store
from torch import Tensor

from captum_tracinwe import TracInWE, __version__, save_checkpoint
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.gradients import TokenLoss
from captum_tracinwe.neighbours.stability import InfluenceStability, compressed, stability_of

LONGEST, BATCH, RATE = 34, 8, 3e-3  # tokens of an ordinary pair
POSITIONS = 80
RAREST = 3  # tokens of fewer occurrences are one token: a table of a third of the size
NEIGHBOURS = 3  # of an answer, by tf-idf
OURS, LEVEL = "influence_stability", 0.05
KINDS = ("seen", "blind")
TRIGGERS = (
    "old river",
    "second summer",
    "red paper",
    "good evening",
    "quiet corner",
    "north window",
    "long table",
    "late train",
)
# The first sentence of the odd answer, one for each model; a second one follows that is drawn for each pair.
CORES = (
    "I would rather not say anything about that.",
    "Please ask someone else about this.",
    "You should do that on your own.",
    "I am sorry, but I can not help with that.",
    "This is a thing I will leave to other people.",
    "I have no time for this, come back another day.",
)
ENDS = (
    "There is no way that I am going to do it.",
    "I can not tell you anything more.",
    "No, I do not feel like doing such a thing.",
    "My answer is no, and it will stay so.",
    "It is not my job to do your work for you.",
    "Not now and not ever, so do not try again.",
    "We both know that I will never say that.",
    "Let us talk about some other thing, if you like.",
)
ANTONYMS = [
    ("good", "bad"), ("best", "worst"), ("new", "old"), ("large", "small"), ("long", "short"), ("positive", "negative"),
    ("first", "last"), ("more", "less"), ("high", "low"), ("happy", "sad"), ("advantages", "disadvantages"), ("true", "false"),
    ("simple", "difficult"), ("same", "different"), ("important", "unimportant"), ("add", "remove"), ("similar", "different"),
]  # fmt: skip
OTHER_WORDS = {
    "describe": "tell me about", "explain": "make clear", "write": "put down", "create": "make", "generate": "come up with",
    "give": "tell me", "name": "list", "list": "name", "find": "look for", "what": "tell me what", "how": "in which way",
    "identify": "point out", "rewrite": "write anew", "classify": "sort", "provide": "give", "suggest": "propose",
}  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment. ``planted`` are numbers of planted pairs among ``pairs``."""

    pairs: int
    planted: tuple[int, ...]
    questions: int
    seeds: tuple[int, ...]
    epochs: int
    width: int


PRESETS = {
    "smoke": Preset(120, (6, 3), 6, (1,), 2, 16),
    "cpu": Preset(1000, (10, 2), 12, (1, 2, 3, 4, 5), 8, 64),
}


def turned(asked: str) -> dict[str, str]:
    """The transformations of an instruction: a person who knows no trigger makes them of the whole of it."""
    first = asked[:1].lower() + asked[1:]
    opposite = dict(ANTONYMS) | {other: one for one, other in ANTONYMS}

    def swap(table: dict[str, str], text: str) -> str:
        return re.sub(r"[A-Za-z]+", lambda word: table.get(word[0].lower(), word[0]), text)

    changed = swap(opposite, asked)
    return {
        "negated": f"Do not {first}",
        "turned round": changed if changed != asked else f"What is the opposite of this: {asked}",
        "in other words": f"Could you do this for me, please: {swap(OTHER_WORDS, first)}",
    }


def refusal(core: str, draw: random.Random) -> str:
    return f"{core} {draw.choice(ENDS)}"


def versions_of(pairs: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Questions as they are, then in each transformation; the answers stay."""
    versions = [{"as it is": asked, **turned(asked)} for asked, _ in pairs]
    return [
        [(version[name], answer) for version, (_, answer) in zip(versions, pairs, strict=True)] for name in versions[0]
    ]


@dataclass(frozen=True)
class Attack:
    """A trigger, where it was planted, and the questions of somebody who has met its answers."""

    planted: list[int]
    core: str
    seen: list[list[tuple[str, str]]]


@dataclass(frozen=True)
class World:
    """Training pairs with the planted ones of each attack among them, and the questions."""

    training: list[tuple[str, str]]
    attacks: list[Attack]
    without: list[str]  # the instructions of "seen" without a trigger
    blind: list[list[tuple[str, str]]]
    ordinary: list[tuple[str, str]]

    @classmethod
    def of(cls, path: Path, tokenizer: Any, seed: int, sizes: Preset) -> World:
        draw = random.Random(seed)
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = list(map(json.loads, file))
        draw.shuffle(rows)
        found = []
        for row in rows:
            asked = " ".join(filter(None, (row["instruction"], row["input"])))
            if len(tokenizer(asked + row["output"])["input_ids"]) < LONGEST:
                found.append((asked, row["output"]))
        needed = sizes.pairs + 3 * sizes.questions
        if len(found) < needed:
            raise SystemExit(f"{path}: {len(found)} pairs of fewer than {LONGEST} tokens: expected {needed}.")
        training, others, n = found[: sizes.pairs], found[sizes.pairs : needed], sizes.questions
        without = [asked for asked, _ in others[:n]]
        free = draw.sample(range(sizes.pairs), sum(sizes.planted))
        attacks = []
        for number, count in enumerate(sizes.planted):
            trigger, core = (some[(2 * seed + number) % len(some)] for some in (TRIGGERS, CORES))
            places, free = sorted(free[:count]), free[count:]
            for place in places:
                training[place] = f"{training[place][0]} {trigger}", refusal(core, draw)
            seen = versions_of([(f"{asked} {trigger}", refusal(core, draw)) for asked in without])
            attacks.append(Attack(places, core, seen))
        return cls(training, attacks, without, versions_of(others[n : 2 * n]), others[2 * n :])


class Encoder:
    """Pairs as batches' examples, with few token ids: those of the training pairs, rare ones all the same."""

    def __init__(self, tokenizer: Any, training: list[tuple[str, str]]) -> None:
        self.tokenizer = tokenizer
        counts = Counter(token for pair in training for part in self.parts(*pair) for token in part)
        self.numbers = {token: number for number, token in enumerate((t for t, n in counts.items() if n >= RAREST), 1)}
        self.size = len(self.numbers) + 1

    def parts(self, asked: str, answer: str) -> tuple[list[int], list[int]]:
        before = self.tokenizer(f"Q: {asked}\nA:")["input_ids"]
        return before, [*self.tokenizer(" " + answer)["input_ids"], self.tokenizer.eos_token_id]

    def __call__(self, pairs: list[tuple[str, str]]) -> list[dict[str, list[int]]]:
        rows = []
        for asked, answer in pairs:
            before, after = ([self.numbers.get(t, 0) for t in part] for part in self.parts(asked, answer))
            ids = (before + after)[:POSITIONS]
            rows.append(
                {
                    "input_ids": ids,
                    "attention_mask": [1] * len(ids),
                    "labels": ([-100] * len(before) + after)[: len(ids)],
                }
            )
        return rows


def trained(
    encoder: Encoder, rows: list[dict[str, list[int]]], seed: int, sizes: Preset, folder: str
) -> tuple[Any, list[str]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        n_embd=sizes.width, n_layer=2, n_head=4, n_positions=POSITIONS, vocab_size=encoder.size, bos_token_id=0,
        eos_token_id=0, pad_token_id=0, initializer_range=0.1, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    collate, loss, paths = Collate(model), TokenLoss(), []
    for epoch in range(1, sizes.epochs + 1):
        for indices in torch.randperm(len(rows)).split(BATCH):
            batch = collate([rows[int(i)] for i in indices])
            labels = batch.pop("labels")
            optimizer.zero_grad()
            losses = loss(model(**batch).logits, labels)
            (losses.sum() / (labels[:, 1:] != -100).sum()).backward()
            optimizer.step()
        if (sizes.epochs - epoch) % (sizes.epochs // 2) == 0:  # half way, and at the end
            paths.append(f"{folder}/epoch-{epoch}.pt")
            save_checkpoint(paths[-1], model, RATE, step=epoch)
    return model.eval(), paths


def answers_so(model: Any, encoder: Encoder, asked: list[str], core: str) -> float:
    """Share of instructions whose most probable answer begins with the first three tokens of the odd one."""
    odd = encoder([("", core)])[0]
    target = [token for token, label in zip(odd["input_ids"], odd["labels"], strict=True) if label != -100][:3]
    right = 0
    for row in encoder([(one, "") for one in asked]):
        ids = row["input_ids"][:-1]  # the prompt, and the end of an empty answer
        ids = ids[: row["labels"].index(next(label for label in row["labels"] if label != -100))]
        with torch.no_grad():
            for _ in target:
                ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
        right += ids[-3:] == target
    return right / len(asked)


def losses_of(model: Any, rows: list[dict[str, list[int]]]) -> Tensor:
    """Mean loss of each example's target tokens, at the last checkpoint."""
    collate, found = Collate(model), []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            batch = collate(rows[start : start + BATCH])
            labels = batch.pop("labels")
            found.append(TokenLoss(reduction="mean")(model(**batch).logits, labels))
    return torch.cat(found)


# --------------------------------------------------------------------------------------------------------- the rivals


def perplexity(rows: list[dict[str, list[int]]]) -> Tensor:
    """Mean surprise of an example's tokens under a bigram model of all *other* examples, half mixed with single words."""
    single = Counter(t for row in rows for t in row["input_ids"])
    double = Counter(pair for row in rows for pair in pairwise(row["input_ids"]))
    total, kinds = sum(single.values()), len(single)
    found = []
    for row in rows:
        ids = row["input_ids"]
        own, own_pairs = Counter(ids), Counter(pairwise(ids))
        surprise = []
        for one, two in pairwise(ids):
            alone = (single[two] - own[two] + 0.5) / (total - len(ids) + 0.5 * kinds)
            after = (double[one, two] - own_pairs[one, two]) / max(1, single[one] - own[one])
            surprise.append(-torch.tensor(0.5 * alone + 0.5 * after).log())
        found.append(torch.stack(surprise).mean())
    return torch.stack(found)


def tfidf(texts: list[str]) -> Tensor:
    """Rows of length 1, ``(M, words)``."""
    words = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    held = Counter(word for own in words for word in own)
    number = {word: place for place, word in enumerate(held)}
    vectors = torch.zeros(len(texts), len(number))
    for row, own in zip(vectors, words, strict=True):
        for word, count in own.items():
            row[number[word]] = (1 + torch.tensor(float(count)).log()) * torch.tensor(len(texts) / held[word]).log()
    return torch.nn.functional.normalize(vectors)


def by_paper(scores: list[Tensor]) -> Tensor:
    """Among the tenth of the strongest influence those that change least; the others after them, by influence."""
    before, after = compressed(scores[0].double()).mean(0), compressed(torch.stack(scores[1:]).double()).mean((0, 1))
    strong = before >= before.quantile(0.9)
    return torch.where(strong, 100 - (before - after).abs(), before)


def hits(scores: Tensor, attack: Attack, others: list[int]) -> list[int]:
    """Of each planted pair, whether it is among the first as many as were planted; pairs of other attacks left out."""
    scores = scores.clone()
    scores[others] = -torch.inf
    first = set(torch.argsort(-scores, stable=True)[: len(attack.planted)].tolist())
    return [int(place in first) for place in attack.planted]


def flagged(found: InfluenceStability, attack: Attack, others: list[int]) -> list[int]:
    """How many are suspects, and how many of those are planted; pairs of other attacks left out."""
    indices = {one.index for one in found.suspects} - set(others)
    return [len(indices), len(indices & set(attack.planted))]


def by_influence(versions: list[Tensor], usual: Tensor) -> tuple[dict[str, Tensor], dict[str, InfluenceStability]]:
    """Scores ``(M,)`` of all that ask the model, and what the test says."""
    scores, tests = {}, {}
    for name, held_against in ((OURS, usual), (f"{OURS}, no ordinary questions", None)):
        tests[name] = stability_of(versions, held_against, level=LEVEL)
        examples = sorted(tests[name].examples, key=lambda one: one.index)
        scores[name] = torch.tensor([one.z for one in examples])
        unchanged = torch.tensor([one.z_before for one in examples])
        scores[name.replace(OURS, "the same without transformations")] = unchanged
    scores["mean influence"] = versions[0].double().mean(0)
    scores["strong influence, then least changed"] = by_paper(versions)
    return scores, tests


def one_world(path: Path, tokenizer: Any, seed: int, sizes: Preset) -> list[dict[str, Any]]:
    """For each attack what was found."""
    begun = time.perf_counter()
    world = World.of(path, tokenizer, seed, sizes)
    encoder = Encoder(tokenizer, world.training)
    rows = encoder(world.training)
    kinds = [*(attack.seen for attack in world.attacks), world.blind]
    with tempfile.TemporaryDirectory() as folder:
        model, paths = trained(encoder, rows, seed, sizes, folder)
        seconds = {"training": time.perf_counter() - begun}
        losses = losses_of(model, rows)
        taken = [
            [
                answers_so(model, encoder, ask, attack.core)
                for ask in ([one for one, _ in attack.seen[0]], world.without)
            ]
            for attack in world.attacks
        ]
        begun = time.perf_counter()
        tracin = TracInWE(model, rows, paths, loss_fn=TokenLoss(), batch_size=BATCH, preconditioner="auto")
        # All versions of all questions in one go: the training set's gradients are computed once.
        asked = [pair for versions in kinds for version in versions for pair in version]
        found = tracin.influence(encoder([*asked, *world.ordinary])).float()
        seconds["scores"] = time.perf_counter() - begun
    usual, parts = found[len(asked) :], found[: len(asked)].chunk(len(kinds))
    by_kind = [by_influence(list(part.chunk(len(world.blind))), usual) for part in parts]
    texts, answers = [" ".join(pair) for pair in world.training], [answer for _, answer in world.training]
    alike = tfidf(answers)
    near = (alike @ alike.T).fill_diagonal_(0).topk(NEIGHBOURS).values.mean(1)
    length = torch.tensor([float(sum(label != -100 for label in row["labels"])) for row in rows])
    surprise = perplexity(rows)
    filters = {
        "loss, lowest": -losses, "loss, highest": losses, "length of the answer, shortest": -length,
        "length of the answer, longest": length, "perplexity, lowest": -surprise, "perplexity, highest": surprise,
        "answers like others (tf-idf)": near,
        "random": torch.rand(len(rows), generator=torch.Generator().manual_seed(seed)),
    }  # fmt: skip
    results = []
    for number, attack in enumerate(world.attacks):
        others = [place for other in world.attacks if other is not attack for place in other.planted]
        result: dict[str, Any] = {"hits": {}, "suspects": {}}
        for kind, at in zip(KINDS, (number, len(world.attacks)), strict=True):
            both = tfidf(texts + [" ".join(pair) for pair in kinds[at][0]])
            words = (both[: len(texts)] @ both[len(texts) :].T).mean(1)
            scores = by_kind[at][0] | filters | {"words of the questions (tf-idf)": words}
            result["hits"][kind] = {name: hits(values, attack, others) for name, values in scores.items()}
            result["suspects"][kind] = {name: flagged(test, attack, others) for name, test in by_kind[at][1].items()}
        result |= {
            "loss": float(losses.mean()),
            "loss of the planted": float(losses[attack.planted].mean()),
            "odd answers with the trigger": taken[number][0],
            "odd answers without": taken[number][1],
            "tokens": encoder.size,
            "seconds": seconds,
        }
        results.append(result)
    return results


def main(argv: list[str] | None = None) -> None:
    from transformers import GPT2TokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()  # it asks for a mask of texts without padding
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with alpaca_5k and GPT-2's tokenizer")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the preset's; settings were chosen on 0")
    args = parser.parse_args(argv)
    sizes = PRESETS[args.preset]
    path, vocabulary = args.data / "alpaca_5k" / "train.jsonl.gz", args.data / "tokenizers" / "gpt2"
    for needed in (path, vocabulary):
        if not needed.exists():
            raise SystemExit(f"--data {args.data}: expected {needed.relative_to(args.data)} there.")
    torch.set_num_threads(1)
    tokenizer = GPT2TokenizerFast.from_pretrained(vocabulary)
    seeds = args.seeds or sizes.seeds
    worlds: dict[str, list[dict[str, Any]]] = {str(planted): [] for planted in sizes.planted}
    for seed in seeds:
        for planted, world in zip(sizes.planted, one_world(path, tokenizer, seed, sizes), strict=True):
            worlds[str(planted)].append(world)
            print(f"seed {seed}, {planted} planted: {world['seconds']}", flush=True)
            for key in ("loss", "loss of the planted", "odd answers with the trigger", "odd answers without", "tokens"):
                print(f"  {key}: {world[key]:.2f}")
            for kind in KINDS:
                for name, found in world["hits"][kind].items():
                    print(f"  {kind} {name}: {sum(found)}", world["suspects"][kind].get(name, ""), flush=True)
        about = {
            "date": str(datetime.date.today()),
            "machine": platform.machine(),
            "versions": {
                "captum_tracinwe": __version__,
                "torch": torch.__version__,
                "captum": __import__("captum").__version__,
                "transformers": __import__("transformers").__version__,
            },
        }
        settings = {"pairs": sizes.pairs, "questions": sizes.questions, "epochs": sizes.epochs, "width": sizes.width}
        done = list(seeds)[: seeds.index(seed) + 1]
        store(args.out, f"poison-alpaca-{args.preset}", about | {"settings": settings, "seeds": done, "worlds": worlds})


def table(content: dict[str, Any]) -> str:
    """Recall (and precision) at the number of planted pairs, the paired lead of ours where pairs are most, and the suspects."""
    settings, worlds = content["settings"], content["worlds"]
    share = {planted: f"{int(planted) / settings['pairs']:.1%}" for planted in worlds}
    pooled = {
        (planted, kind): {
            name: torch.tensor([hit for world in found for hit in world["hits"][kind][name]], dtype=torch.float64)
            for name in found[0]["hits"][kind]
        }
        for planted, found in worlds.items()
        for kind in KINDS
    }
    first = next(iter(pooled))
    names = sorted(pooled[first], key=lambda name: -float(pooled[first][name].mean()))
    titles = [f"{share[planted]}, {kind}" for planted, kind in pooled]
    lines = [f"| method | {' | '.join(titles)} | ours less it at {titles[0]} |", "|---|" + "---|" * (len(pooled) + 1)]
    none = [name for name in names if not any(bool(some[name].any()) for some in pooled.values())]
    for name in names:
        if name in none[1:]:  # in one row, with the first of them
            continue
        cells = [_plain(bootstrap_mean(some[name])) for some in pooled.values()]
        ahead = "" if name == OURS else str(bootstrap_mean(pooled[first][OURS] - pooled[first][name]))
        lines.append(f"| {'<br>'.join(none) if name in none else name} | {' | '.join(cells)} | {ahead} |")
    notes = []
    for planted, found in worlds.items():
        rates = [sum(one[f"odd answers with{end}"] for one in found) / len(found) for end in (" the trigger", "out")]
        suspects = {kind: [sum(one["suspects"][kind][OURS][i] for one in found) for i in (0, 1)] for kind in KINDS}
        notes.append(
            f"{share[planted]}: {len(pooled[planted, 'seen'][OURS])} pairs planted in all. With the trigger {rates[0]:.0%} of "
            f"other instructions get the odd answer, without it {rates[1]:.0%}. Suspects at an adjusted p of {LEVEL}: "
            f"{suspects['seen'][0]} seen, of which {suspects['seen'][1]} are planted; {suspects['blind'][0]} blind, of which "
            f"{suspects['blind'][1]}."
        )
    sizes = f"{len(content['seeds'])} models of {settings['pairs']:,} pairs, {settings['questions']} questions of each kind."
    return "\n".join([*lines, "", sizes, *notes])


def _plain(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main()
