"""Files of an index in memory by mapping: none that was cut since, and only so many at a time."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Protocol

import torch

from captum_tracinwe.index.files.disk import IndexDamaged, present

__all__ = ["Mapped", "Recent"]

# Seconds for which a look holds: the reads of one question from one segment.
TRUSTED = 0.01


class Mapped:
    """A file's bytes, uint8, mapped: whoever removes its name does not take it away.

    Args:
        path (Path), size (int): of the file.

    Raises:
        IndexDamaged: it is missing, has another size, or is no file.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self._name, self._size = path, str(path), size
        with present(path, size) as file:
            found = os.fstat(file.fileno())
        self._file, self._looked = (found.st_dev, found.st_ino), 0.0
        try:
            self.bytes = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        except RuntimeError as error:  # it became shorter, or there is no room for one more map
            raise IndexDamaged(f"{str(path)!r} cannot be mapped: {str(error).splitlines()[0]}") from None

    def check(self) -> None:
        """Raise IndexDamaged where somebody has cut the file: touching what is gone would end the process by SIGBUS.

        The file is looked at by its name, 1.7 µs, so that none needs to stay open: a limit of 1,024 open files is common. A
        file whose name is gone, or another's, cannot be cut by that name any more. What is cut while it is being read, or
        within ``TRUSTED`` of the last look, still ends the process; copies of all that is read would cost every search.
        """
        now = time.monotonic()
        if now - self._looked < TRUSTED:
            return
        try:
            found = os.stat(self._name, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise IndexDamaged(f"{str(self.path)!r} can no longer be looked at ({error.strerror}).") from None
        if found.st_size < self._size and (found.st_dev, found.st_ino) == self._file:
            raise IndexDamaged(
                f"{str(self.path)!r} is damaged: it was cut to {found.st_size} bytes since it was opened, {self._size} were "
                f"written. No score was made of it; restore the file, or build the index anew."
            )
        self._looked = now


class Maps(Protocol):
    """Something that holds maps and can do without them for a while."""

    used: int

    def unmap(self) -> None:
        """Let them go."""


class Recent:
    """Those that hold maps: the ones that were used longest ago let theirs go when there are more than ``most``.

    A process may have 65,530 maps (Linux, ``vm.max_map_count``), and a segment takes three.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._count = itertools.count()
        self._lock = threading.Lock()
        self._holders: list[weakref.ref[Maps]] = []

    def has_room(self) -> bool:
        """Whether one more would send nobody away."""
        with self._lock:
            if len(self._holders) >= self.most:
                self._drop_dead()
            return len(self._holders) < self.most

    def use(self, holder: Maps) -> None:
        """Note that it is used now."""
        holder.used = next(self._count)

    def add(self, holder: Maps) -> None:
        """Note that it has mapped its files."""
        self.use(holder)
        with self._lock:
            self._holders.append(weakref.ref(holder))
            if len(self._holders) <= self.most:
                return
            self._drop_dead()
            living = [one for one in (ref() for ref in self._holders) if one is not None]
            living.sort(key=lambda one: one.used)
            surplus = max(0, len(living) - self.most)
            # An eighth more at a time, so that this is not done for each.
            gone = living[: surplus + self.most // 8] if surplus else []
            for one in gone:
                one.unmap()
            self._holders = [weakref.ref(one) for one in living[len(gone) :]]

    def _drop_dead(self) -> None:
        self._holders = [ref for ref in self._holders if ref() is not None]
