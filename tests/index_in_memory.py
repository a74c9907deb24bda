"""What an index should hold, as plain lists in memory: the model that the machine and the kills compare one with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from captum_tracinwe import RowGradients

VOCABULARY = 7
VALUES = [0.0, 1.0, -1.0, 0.5, 3.0, -0.1, 1e-3, 1e-20]


@dataclass(frozen=True, eq=False)
class Example:
    """One training example: its tokens, its rows as stored, its metadata."""

    ids: tuple[int, ...]
    values: np.ndarray
    metadata: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Content:
    """All training examples that were ever there, and the numbers of those that are gone."""

    examples: tuple[Example, ...] = ()
    gone: frozenset[int] = frozenset()

    @property
    def live(self) -> list[int]:
        return [i for i in range(len(self.examples)) if i not in self.gone]

    def plus(self, examples) -> Content:
        return replace(self, examples=(*self.examples, *examples))

    def without(self, numbers) -> Content:
        return replace(self, gone=self.gone | set(numbers))

    def joined(self, other: Content) -> Content:
        return Content(self.examples + other.examples, self.gone | {len(self.examples) + i for i in other.gone})

    def dense(self) -> np.ndarray:
        """``(M, V · C · D)`` in float64."""
        return np.stack([dense(one.ids, one.values) for one in self.examples]) if self.examples else np.empty((0, 0))


def dense(ids, values) -> np.ndarray:
    table = np.zeros((VOCABULARY_OF_ALL, values.shape[1]))
    table[list(ids)] = values
    return table.ravel()


#: Of the toy model's table, the largest there is.
VOCABULARY_OF_ALL = 30


def rows_of(seed: int, count: int, width: int, values=VALUES) -> RowGradients:
    """Few tokens and few values, so that duplicates, ties, zeros and empty examples are common."""
    generator = np.random.default_rng(seed)
    tokens, cells = [], []
    for _ in range(count):
        if tokens and generator.random() < 0.2:
            own = int(generator.integers(len(tokens)))
            tokens.append(tokens[own])
            cells.append(cells[own])
            continue
        tokens.append(np.sort(generator.choice(VOCABULARY, generator.integers(0, 5), replace=False)))
        cells.append(generator.choice(values, (len(tokens[-1]), width)))
    ptr = torch.tensor([0, *(len(own) for own in tokens)]).cumsum(0)
    ids = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *tokens]))
    made = torch.from_numpy(np.concatenate([np.empty((0, width)), *cells])).float()
    return RowGradients(ptr, ids, made)


def stored(values: torch.Tensor, dtype: str, scale: float) -> torch.Tensor:
    """What an index of that dtype gives back."""
    if dtype == "float16":
        return torch.from_numpy((values.numpy() * np.float32(scale)).astype(np.float16).astype(np.float32) / scale)
    return values.to(getattr(torch, dtype)).float()


def examples_of(rows: RowGradients, metadata=None, dtype: str = "float32", scale: float = 1.0) -> list[Example]:
    """Rows as a list of examples."""
    values, ends = stored(rows.values, dtype, scale).numpy(), rows.ptr.tolist()
    columns = metadata or {}
    return [
        Example(tuple(rows.ids[a:b].tolist()), values[a:b], {name: column[i] for name, column in columns.items()})
        for i, (a, b) in enumerate(itertools.pairwise(ends))
    ]


def difference(index, content: Content, numbers=None) -> str:
    """What of an open index is not as the model says, in words; empty where all is. ``numbers``: of a part-built one."""
    if index.total != len(content.examples):
        return f"total is {index.total}, not {len(content.examples)}"
    live = content.live if numbers is None else numbers
    if index.numbers.tolist() != live or len(index) != len(live):
        return f"there are {index.numbers.tolist()}, not {live}"
    rows = index.rows()
    for number, found in zip(live, examples_of(rows), strict=True):
        wanted = content.examples[number]
        if found.ids != wanted.ids or not np.array_equal(found.values, wanted.values):
            return f"the rows of example {number} are others"
    return ""
