"""What recipes are made of: texts, collators, and what hands examples over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from generated_models import CLASSES, VOCABULARY, Family
from torch.utils.data import DataLoader, Dataset, IterableDataset

PAD, FIRST, LONGEST = 0, 2, 9
FILL = {"input_ids": PAD, "labels": -100}


def texts(family: Family, count: int, seed: int, types: bool) -> list[dict[str, Any]]:
    """Examples as a data set has them, lists of their own lengths; all begin with one token, so that every pair shares a word."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in torch.randint(3, LONGEST + 1, (count,), generator=generator).tolist():
        ids = [FIRST, *torch.randint(2, VOCABULARY, (length - 1,), generator=generator).tolist()]
        example: dict[str, Any] = {"input_ids": ids}
        if family.masked and not family.own:
            example["attention_mask"] = [1] * length
        if types:
            example["token_type_ids"] = [3] * (length // 2) + [4] * (length - length // 2)
        answer = int(torch.randint(0, CLASSES, (), generator=generator))
        found.append({**example, "labels": answer if family.kind == "class" else list(ids)})
    return found


def alone(examples: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
    """Each example as a batch of one, without padding."""
    return [{name: torch.tensor([value]) for name, value in example.items()} for example in examples]


# ----------------------------------------------------------------------------------------------------------- collators


@dataclass(frozen=True)
class Padded:
    """A batch filled up on a side, to the longest of its texts or to a fixed length; optionally with the places of words."""

    side: str
    length: int = 0
    places: bool = False

    def __call__(self, examples):
        longest = max(self.length, *(len(one["input_ids"]) for one in examples))
        batch = {}
        for name in examples[0]:
            values = [one[name] for one in examples]
            batch[name] = torch.tensor(
                values
                if isinstance(values[0], int)
                else [self._filled(one, longest, FILL.get(name, 0)) for one in values]
            )
        if self.places:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        return batch

    def _filled(self, values, longest, fill):
        fill = [fill] * (longest - len(values))
        return [*fill, *values] if self.side == "left" else [*values, *fill]


def popping(pad):
    """Takes the labels out of the user's own examples."""

    def collate(examples):
        labels = [one.pop("labels") for one in examples]
        return pad([{**one, "labels": label} for one, label in zip(examples, labels, strict=True)])

    return collate


def sorting(pad):
    """From long to short, as `pack_padded_sequence` once wanted it."""
    return lambda examples: pad(sorted(examples, key=lambda one: -len(one["input_ids"])))


def doubling(pad):
    """Each text twice in a row, as SimCSE has it."""
    return lambda examples: pad([one for one in examples for _ in range(2)])


def dropping(pad):
    """Another word of each text is replaced each time."""

    def collate(examples):
        batch = pad(examples)
        places = torch.rand(batch["input_ids"].shape).masked_fill(batch["input_ids"] == PAD, -1).argmax(1)
        batch["input_ids"][torch.arange(len(examples)), places] = 1
        return batch

    return collate


def flattening(_):
    """All texts in one row, with places that begin anew, as transformers' own does."""
    from transformers import DataCollatorWithFlattening

    return DataCollatorWithFlattening(return_tensors="pt")


# Name → kinds of trouble, what makes it of a padding collator.
COLLATORS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "ours": ("", lambda pad: None),
    "pads": ("", lambda pad: pad),
    "pads to one length": ("", lambda pad: Padded(pad.side, 12, pad.places)),
    "pads and numbers words": ("", lambda pad: Padded(pad.side, 0, True)),
    "pops labels": ("M", popping),
    "sorts": ("O", sorting),
    "doubles": ("C", doubling),
    "replaces words": ("P", dropping),
    "flattens": ("C", flattening),
}

# ------------------------------------------------------------------------------------------------------------- loaders


class Listed(Dataset):
    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


class Augmented(Listed):
    """Another word of the text is replaced at each reading."""

    def __getitem__(self, index):
        example = dict(self.examples[index])
        ids = list(example["input_ids"])
        ids[int(torch.randint(len(ids), ()))] = int(torch.randint(2, VOCABULARY, ()))
        return example | {"input_ids": ids}


class Streamed(IterableDataset):
    def __init__(self, examples, shuffles=False):
        self.examples, self.shuffles = examples, shuffles

    def __iter__(self):
        count = len(self.examples)
        order = torch.randperm(count).tolist() if self.shuffles else range(count)
        return (self.examples[index] for index in order)


def _transformed(examples):
    """A `datasets.Dataset` whose transform draws anew at each reading."""
    import datasets

    def draw(columns):
        augmented = Augmented([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
        rows = [augmented[index] for index in range(len(augmented))]
        return {name: [row[name] for row in rows] for name in columns}

    found = datasets.Dataset.from_list(examples)
    found.set_transform(draw)
    return found


def _of_datasets(examples):
    import datasets

    return datasets.Dataset.from_list(examples)


def _by_length(examples, size):
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]["input_ids"]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _loader(data, kinds="", **options):
    """A DataLoader of the user's own, with the collator in it."""

    def make(examples, size, collate):
        return DataLoader(data(examples), size, collate_fn=collate, **options)

    return kinds, make, True


def _by_sampler(name, kinds, order):
    def make(examples, size, collate):
        given = order(examples, size)
        sizes = {} if name == "batch_sampler" else {"batch_size": size}
        return DataLoader(Listed(examples), collate_fn=collate, **{name: given}, **sizes)

    return kinds, make, True


def _data(make, kinds=""):
    return kinds, lambda examples, size, collate: make(examples), False


# Name → kinds of trouble, what is handed over of (examples, batch size, collator), and whether it has the collator with it.
LOADERS: dict[str, tuple[str, Callable[[Any, int, Any], Any], bool]] = {
    "data set": _data(Listed),
    "loader": _loader(Listed),
    "datasets": _data(_of_datasets),
    "stream": _loader(Streamed),
    "shuffling": _loader(Listed, "D", shuffle=True),
    "shuffling stream": _loader(lambda examples: Streamed(examples, True), "D"),
    "sampler": _by_sampler("sampler", "T", lambda examples, _: list(range(len(examples)))[::-1]),
    "batches by length": _by_sampler("batch_sampler", "T", _by_length),
    "augments": _data(Augmented, "P"),
    "set_transform": _data(_transformed, "P"),
}
