"""Checkpoints that a folder has twice, as links, copies or in a second format: one of them counts, and which one is said."""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from captum_tracinwe.checkpoints.folders import WEIGHTS, shards_folder
from captum_tracinwe.checkpoints.reading import opened, read_torch, tensor_places
from captum_tracinwe.checkpoints.run_states import STATE, names_of
from captum_tracinwe.checkpoints.states import states_within

__all__ = ["each_once", "say_repeated"]

# A number of its own, as a step's in Adam's state, is no weight.
SCALAR = 8
# So much is read at three places of each tensor before all of it is: of two steps some differ.
SAMPLE = 4096
CHUNK = 1 << 20
STEPS = ("global_step", "step", "iteration", "iter_num")
RATES = ("learning_rate", "lr")
WHY = {"is_file": "the same file", "is_step": "the same step", "is_weights": "the same weights"}
AVERAGED = re.compile(r"(^|[-_. ])(ema|swa|averaged|polyak)([-_. \d]|$)", re.IGNORECASE)


def each_once(found: Sequence[str], files_of: Callable[[Path], list[Path]]) -> list[str]:
    """Those of a folder's checkpoints that are no other one under another name; what is left out is said in a warning.

    Two are one if they are one file, have one name but for the format, or hold the same weights; where one of them has no number
    in its name, as ``last.ckpt``, also by the step that stands in both. Names that differ in their numbers alone are two steps.

    Args:
        found (list of str): their paths.
        files_of (callable): a checkpoint's directory → the files with its weights.
    """
    seen = [_Seen(path, files_of) for path in found]
    kinds = {(one.words, one.path.suffix) for one in seen}
    kept: list[_Seen] = []
    twice: list[str] = []
    for one in sorted(seen, key=lambda one: one.worth) if len(kinds) > 1 else seen:
        ways = (one.is_file, one.is_step, one.is_weights) if len(kinds) > 1 else (one.is_file,)
        twin = next(((other, WHY[way.__name__]) for way in ways for other in kept if way(other)), None)
        if twin is None:
            kept.append(one)
        else:
            twice.append(f"{one.path.name} ({twin[1]} as {twin[0].path.name})")
    place = str(Path(found[0]).parent) if found else ""
    if twice:
        warnings.warn(
            f"The directory {place!r} has checkpoints twice: {', '.join(twice[:8])}{', ...' * (len(twice) > 8)}. Each counts "
            f"once, by the second name. Remove one of two, or pass checkpoints=[...] with all paths that are to count.",
            stacklevel=7,
        )
    averaged = [one.path for one in kept if one.is_average]
    if averaged and len(averaged) < len(kept):
        warnings.warn(
            f"The directory {place!r} has averaged weights by their names ({names_of(averaged)}) beside those of steps, and both "
            f"count: the same steps have part twice. Pass checkpoints=[...] without one or the other.",
            stacklevel=7,
        )
    return [path for path, one in zip(found, seen, strict=True) if one in kept]


def say_repeated(listed: Sequence[Any]) -> None:
    """Warn where a list names a checkpoint twice, which then counts twice."""
    paths = Counter(os.path.realpath(path) for path in listed if isinstance(path, (str, Path)))
    repeated = [Path(path) for path, times in paths.items() if times > 1]
    if repeated:
        warnings.warn(
            f"The list of checkpoints has {names_of(repeated)} more than once, and counts it as often. Pass each path once if "
            f"that is not meant.",
            stacklevel=7,
        )


class _Seen:
    """A checkpoint, as far as it has to be looked at."""

    def __init__(self, path: str, files_of: Callable[[Path], list[Path]]) -> None:
        self.path, self._files_of = Path(path), files_of
        self.name = self.path.stem if self.path.suffix in WEIGHTS else self.path.name
        self.words, self.is_average = re.sub(r"\d+", "#", self.name), AVERAGED.search(self.name) is not None

    def is_file(self, other: _Seen) -> bool:
        return self._place is not None and self._place == other._place

    def is_step(self, other: _Seen) -> bool:
        unnumbered = "#" not in self.words or "#" not in other.words
        return self.name == other.name or (unnumbered and bool(self._step) and self._step == other._step)

    def is_weights(self, other: _Seen) -> bool:
        """Whether the tensors of one are among those of the other, where an optimiser's may be, too."""
        if self.words == other.words or not self._sampled or not other._sampled:
            return False
        some, others = self._sampled, other._sampled
        return (some <= others and self._whole <= other._whole) or (others <= some and other._whole <= self._whole)

    @property
    def worth(self) -> tuple[bool, bool, bool, bool]:
        """What is kept of two comes first: one that tells its rate, is no average, has a number, is no link."""
        return not self._tells_rate, self.is_average, "#" not in self.words, self.path.is_symlink()

    @cached_property
    def _place(self) -> tuple[int, int] | str | None:
        """Where it lies; None where a link leads nowhere."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(self.path)

    @cached_property
    def _content(self) -> Mapping[Any, Any]:
        """What a file of torch holds, tensors without their numbers."""
        if self.path.is_dir() or self.path.suffix == ".safetensors":
            return {}
        try:
            with opened([self.path]) as (file,):
                found = read_torch(file, self.path, values=False)
        except ValueError:  # said where it is loaded
            return {}
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def _step(self) -> dict[str, int]:
        return {name: self._content[name] for name in STEPS if isinstance(self._content.get(name), int)}

    @cached_property
    def _tells_rate(self) -> bool:
        if self.path.is_dir():
            told = ("optimizer.*", "scheduler.*", STATE)
            return any(next(self.path.glob(pattern), None) for pattern in told)
        if self.path.suffix == ".safetensors":
            return any("learning_rate" in notes for _, notes in self._places)
        return any(name in self._content for name in RATES) or any(states_within(self._content))

    @cached_property
    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        folder = shards_folder(self.path)
        try:
            return sorted(folder.glob("*.distcp")) if folder is not None else self._files_of(self.path)
        except ValueError:
            return []

    @cached_property
    def _places(self) -> list[tuple[list[tuple[int, int]], Mapping[str, str]]]:
        """Of each file where its tensors lie, and its notes; none where that cannot be told."""
        try:
            found: list[tuple[list[tuple[int, int]], Mapping[str, str]]] = []
            for path in self._files:
                with open(path, "rb") as file:
                    found.append(tensor_places(file, path))
            return found
        except (OSError, ValueError):
            return []

    @cached_property
    def _sampled(self) -> Counter[tuple[int, int]]:
        """The tensors by their sizes and some of their bytes."""
        return self._by(lambda size: [(0, SAMPLE), (size // 2, SAMPLE), (max(0, size - SAMPLE), SAMPLE)])

    @cached_property
    def _whole(self) -> Counter[tuple[int, int]]:
        """The same by all their bytes."""
        return self._by(lambda size: [(at, CHUNK) for at in range(0, size, CHUNK)])

    def _by(self, parts: Callable[[int], list[tuple[int, int]]]) -> Counter[tuple[int, int]]:
        found: Counter[tuple[int, int]] = Counter()
        for path, (places, _) in zip(self._files, self._places, strict=False):
            with open(path, "rb") as file:
                found.update((size, _sum_of(file, begin, size, parts(size))) for begin, size in places if size > SCALAR)
        return found


def _sum_of(file: BinaryIO, begin: int, size: int, parts: Sequence[tuple[int, int]]) -> int:
    total = 0
    for at, length in parts:
        file.seek(begin + at)
        total = zlib.crc32(file.read(min(length, size - at)), total)
    return total
