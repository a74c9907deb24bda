"""Updates of embedding rows by training example, in memory or on disk: which rows each moved, and what moved them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.neighbours.asked import as_list
from captum_tracinwe.neighbours.rollback_files import read_parts, read_rows, write_parts
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.whole_files import as_path

__all__ = ["Updates", "fingerprint", "written"]


def fingerprint(table: Tensor) -> str:
    """By which a table is known again, to the last bit."""
    plain = table.detach().cpu().contiguous()
    return hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode() + _bytes_of(plain)).hexdigest()


def _bytes_of(plain: Tensor) -> bytes:
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Updates:
    r"""How each training example moved the rows of the word embedding, over all steps of a training.

    Made by :class:`KeepUpdates`. ``moved - shared`` is what no example can be credited with (:attr:`rest`).

    Args:
        name (str): of the embedding in its model.
        steps (int): of the optimiser.
        moved (Tensor): ``(V, D)``, the table after training less the table before it.
        shared (Tensor): ``(V, D)``, the sum of all examples' updates.
        final (str): by which the table after training is known again.
        ends (tuple of int): the parts' examples: part i holds those from ``ends[i - 1]`` to ``ends[i] - 1``.
        parts (tuple): ``RowGradients``, or the files that hold them.

    Example:
        >>> import torch
        >>> from captum_tracinwe.neighbours import KeepUpdates
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> keeper, optimizer = KeepUpdates(model, examples=2), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with keeper.batch([0, 1]):
        ...     out = model(torch.tensor([[1, 2, 3], [4, 5, 3]]))
        ...     torch.nn.functional.cross_entropy(out, torch.tensor([0, 1])).backward()
        >>> with keeper.step():
        ...     _ = optimizer.step()
        >>> updates = keeper.updates()
        >>> updates.of([1]).ids.tolist()  # the rows that example 1 moved
        [3, 4, 5]
        >>> bool(updates.rest.abs().max() < 1e-6)  # plain SGD moves no other row
        True
    """

    name: str
    steps: int
    moved: Tensor
    shared: Tensor
    final: str
    ends: tuple[int, ...]
    parts: tuple[RowGradients | Path, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __repr__(self) -> str:
        return (
            f"Updates({self.name!r}, {len(self):,} training examples, {self.steps:,} steps, "
            f"rest={self.rest_share():.0%} of all movement)"
        )

    @property
    def rest(self) -> Tensor:
        """What moved the table and belongs to no example, ``(V, D)``: momentum and weight decay of rows that no text of the
        batch held."""
        return self.moved - self.shared

    def rest_share(self) -> float:
        """Σ over rows of the length of :attr:`rest`, in parts of the same sum with that of ``shared``; 0 where nothing moved."""
        rest, shared = (float(part.double().norm(dim=1).sum()) for part in (self.rest, self.shared))
        return rest / (rest + shared) if rest + shared else 0.0

    def blocks(self) -> Iterator[tuple[int, RowGradients]]:
        """All examples, part by part: the first one's index, and the rows."""
        for start, part in zip((0, *self.ends), self.parts, strict=False):
            yield start, part if isinstance(part, RowGradients) else read_rows(part)

    def of(self, examples: Sequence[int] | Tensor | NDArray[Any]) -> RowGradients:
        """The rows of chosen examples, in the order given.

        Raises:
            TypeError: no list of indices.
            IndexError: one that is no training example.
        """
        given: Any = examples
        numbers = None if isinstance(given, (set, frozenset)) else as_list(given)
        if numbers is None:
            raise TypeError(f"Updates.of: expected a list of training examples, got {given!r:.60}.")
        wrong = [one for one in numbers if not is_whole(one) or not 0 <= one < len(self)]
        if wrong:
            raise IndexError(f"Updates.of: expected training examples from 0 to {len(self) - 1}, got {wrong[0]!r:.40}.")
        found: list[RowGradients] = []
        for one in numbers:
            place = next(i for i, end in enumerate(self.ends) if one < end)
            start, part = (0, *self.ends)[place], self.parts[place]
            inside = int(one) - start
            found.append(part.part(inside, inside + 1) if isinstance(part, RowGradients) else read_rows(part, inside))
        empty = self.moved.new_zeros(0, self.moved.shape[1])
        nothing = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return RowGradients.cat(found) if found else RowGradients.sound(*nothing, empty)

    def save(self, path: str | Path) -> None:
        """Write all into a new directory, which is there whole or not at all.

        Raises:
            FileExistsError: it is there already and not empty.
        """
        parts = (rows for _, rows in self.blocks())
        about = self.name, self.steps, self.final
        write_parts(as_path(path, "Updates.save", "path"), about, self.moved, self.shared, parts)

    @classmethod
    def open(cls, path: str | Path) -> Updates:
        """Read what :meth:`save`, or a :class:`KeepUpdates` with a directory, wrote; rows stay on disk until they are asked for.

        Raises:
            FileNotFoundError: there is nothing of the kind.
            ValueError: a file is damaged or missing; the message names it.
        """
        about, moved, shared, ends, files = read_parts(as_path(path, "Updates.open", "path"))
        return cls(*about[:2], moved, shared, about[2], ends, files)


def written(path: Path, about: tuple[str, int, str], moved: Tensor, parts: Iterator[RowGradients]) -> Updates:
    """Write updates part by part, and open them; ``shared`` is added up on the way."""
    shared = torch.zeros(moved.shape, dtype=torch.float64)

    def passed() -> Iterator[RowGradients]:
        for rows in parts:
            shared.index_add_(0, rows.ids, rows.values.double())
            yield rows

    write_parts(path, about, moved, shared, passed())
    return Updates.open(path)
