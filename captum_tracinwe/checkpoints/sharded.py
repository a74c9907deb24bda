"""Checkpoints of torch.distributed (DCP), as FSDP saves them: read on one machine, by plain reads, without running code."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch
from torch import Tensor

from captum_tracinwe.checkpoints.reading import MOST_DESCRIPTION, Unread, first_line, opened, read_torch

__all__ = ["METADATA", "Sharded", "opened_shards"]

#: The file that says which part of which tensor is where.
METADATA = ".metadata"
# Rates, steps and groups have some KB; what is larger is not read.
MOST_PLAIN = 1 << 20
# Each part of a tensor is a file of torch.save of its own, of 1 KB at least, and takes some 300 bytes to describe.
MOST_OF_DATA = 2


@dataclass(frozen=True)
class Sharded:
    """An open DCP checkpoint.

    Args:
        content (dict): as it was saved, nested; tensors on the device "meta", plain values as they are.
        tensors (callable): one of the dicts in ``content`` → the same with the tensors' numbers.
        count (int): how many tensors there are.
    """

    content: dict[str, Any]
    tensors: Callable[[Mapping[str, Any]], dict[str, Any]]
    count: int


@contextmanager
def opened_shards(directory: Path) -> Iterator[Sharded]:
    """A DCP checkpoint, its files open and seen to be whole.

    Raises:
        ValueError: a file is missing, cut or rewritten meanwhile; or it holds more than tensors and plain values, or in
            another form than torch writes by itself, so that it has to be converted by the user.
    """
    path = directory / METADATA
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    with opened([path]) as (described,):
        try:
            length = os.fstat(described.fileno()).st_size
            if length > MOST_DESCRIPTION + size // MOST_OF_DATA:
                raise ValueError(f"it has {length:,} bytes, out of proportion to the tensors beside it")
            tensors, plain, stored, ways = _metadata(described)
        except Exception as error:  # damaged pickles raise whatever their bytes happen to ask for
            raise Unread(
                f"The checkpoint {str(directory)!r} of torch.distributed cannot be read: of its {METADATA}, {first_line(error)}. "
                f"Expected what torch writes by itself. If you know where it is from, convert it with `python -m "
                f"torch.distributed.checkpoint.format_utils dcp_to_torch {directory} {directory}.pt`, and pass that file."
            ) from error
        names = sorted({place.file for place in stored.values()})
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise Unread(
                f"The checkpoint {str(directory)!r} is not whole: expected the files {', '.join(names[:8])}, missing "
                f"{', '.join(missing[:8])}. Each machine of a run may have written its own: bring them together here."
            )
        with opened([directory / name for name in names]) as files:
            by_name = dict(zip(names, files, strict=True))
            for place in stored.values():
                if place.offset + place.length > os.fstat(by_name[place.file].fileno()).st_size:
                    raise ValueError(
                        f"The checkpoint {str(directory)!r} is not whole: {place.file} is shorter than {METADATA} says."
                    )

            def piece(place: _Place) -> Any:
                file = by_name[place.file]
                file.seek(place.offset)
                return read_torch(io.BytesIO(file.read(place.length)), directory / place.file)

            leaves: dict[str, Any] = {name: tensor.empty() for name, tensor in tensors.items()}
            for name in plain:
                at = stored.get((name, ()))
                if at is not None and at.length <= MOST_PLAIN:
                    try:
                        leaves[name] = piece(at)
                    except ValueError:  # an object of the trainer's: nothing that is looked for
                        continue
            of_leaf = {id(leaf): name for name, leaf in leaves.items() if name in tensors}

            def numbers(state: Mapping[str, Any]) -> dict[str, Any]:
                return {
                    key: tensors[of_leaf[id(value)]].read(of_leaf[id(value)], stored, piece)
                    if id(value) in of_leaf
                    else value
                    for key, value in state.items()
                }

            yield Sharded(_nested(leaves, ways), numbers, len(tensors))


@dataclass(frozen=True)
class _Place:
    """Where a part lies."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class _Stored:
    """A tensor by its description: its parts by their offsets."""

    dtype: torch.dtype
    size: tuple[int, ...]
    parts: dict[tuple[int, ...], tuple[int, ...]]

    def empty(self) -> Tensor:
        return torch.empty(self.size, dtype=self.dtype, device="meta")

    def read(self, name: str, stored: Mapping[Any, _Place], piece: Callable[[_Place], Any]) -> Tensor:
        """Its numbers, from its parts."""
        places = [(at, size, stored.get((name, at)) or stored.get((name, ()))) for at, size in self.parts.items()]
        width = self.dtype.itemsize
        # Before memory is taken: the parts have to be there, and to make up the whole.
        told = sum(torch.Size(size).numel() for _, size, _ in places)
        if told != torch.Size(self.size).numel() or any(
            place is None or place.length < torch.Size(size).numel() * width for _, size, place in places
        ):
            raise ValueError(
                f"The parts of {name!r} do not make up a tensor of {self.size}: the checkpoint is damaged."
            )
        whole = torch.zeros(self.size, dtype=self.dtype)
        for at, size, place in places:
            part = piece(place) if place is not None else None
            if not isinstance(part, Tensor) or part.shape != torch.Size(size) or part.dtype != self.dtype:
                raise ValueError(f"A part of {name!r} is not what {METADATA} says: the checkpoint is damaged.")
            whole[tuple(slice(begin, begin + extent) for begin, extent in zip(at, size, strict=True))] = part
        return whole


# ---------------------------------------------------------------------------------------------------------- metadata


class _Inert:
    """In place of a class of torch's: holds what the pickle says of it, and does nothing."""

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.given = state


class _Reader(pickle.Unpickler):
    """A pickle whose classes are stand-ins that do nothing. Types of numbers and sizes are the only things of torch's."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "pathlib" or (module, name) == ("torch.serialization", "_get_layout"):
            return type(name, (_Inert,), {})
        if module.startswith("torch.distributed.checkpoint."):
            return type(name, (_Inert,), {})
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _metadata(file: BinaryIO) -> tuple[dict[str, _Stored], list[str], dict[tuple[str, tuple[int, ...]], _Place], Any]:
    """What a ``.metadata`` says: the tensors, the names of plain values, where each part is, and each name's way in the nest."""
    file.seek(0)
    told = _Reader(file).load()
    tensors: dict[str, _Stored] = {}
    plain: list[str] = []
    for name, entry in told.state_dict_metadata.items():
        if not isinstance(name, str):
            raise ValueError("a name is no text")
        if type(entry).__name__ == "TensorStorageMetadata":
            dtype = entry.properties.given[0]
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{name[:100]!r} has no type of numbers")
            parts = {_extents(chunk.offsets): _extents(chunk.sizes) for chunk in entry.chunks}
            tensors[name] = _Stored(dtype, _extents(entry.size), parts)
        else:
            plain.append(name)
    stored: dict[tuple[str, tuple[int, ...]], _Place] = {}
    for index, place in told.storage_data.items():
        if getattr(place, "transform_descriptors", None):
            raise ValueError("its parts are compressed by an extension")
        name = place.relative_path
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name or name.startswith(".."):
            raise ValueError("a part lies outside the directory")
        offset, length = _extents((place.offset, place.length))
        at = getattr(index, "offset", None)
        stored[index.fqn, () if at is None else _extents(at)] = _Place(name, offset, length)
    return tensors, plain, stored, getattr(told, "planner_data", None)


def _extents(numbers: Any) -> tuple[int, ...]:
    found = tuple(numbers)
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in found) or len(found) > 64:
        raise ValueError("a size or a place is no number")
    return found


def _nested(leaves: Mapping[str, Any], ways: Any) -> dict[str, Any]:
    """The dicts that were saved, of which torch flattens the names. Lists become dicts, whose keys are numbers."""
    found: dict[Any, Any] = {}
    for name, leaf in leaves.items():
        way = ways.get(name) if isinstance(ways, dict) else None
        way = way if isinstance(way, tuple) and way else (name,)
        inner = found
        for key in way[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ValueError(f"The name {name!r} leads into a value: the checkpoint is damaged.")
        inner[way[-1]] = leaf
    return found
