"""The cache folder: an index for each training run that was asked about, found again by what its gradients hang on."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.seen import shows_bars
from captum_tracinwe.index.build import build
from captum_tracinwe.index.cache_entries import (
    ABOUT,
    BUILDING,
    INDEX,
    LOCK,
    cache_folder,
    locked_entry,
    said_of_cache,
)
from captum_tracinwe.index.environment import Place
from captum_tracinwe.index.estimate import IndexEstimate, Options, amount
from captum_tracinwe.index.files.disk import IndexDamaged, sync_folder
from captum_tracinwe.index.files.manifest import Manifest
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.identity.fingerprints import fingerprints
from captum_tracinwe.index.identity.source import source_of
from captum_tracinwe.whole_files import write_all

__all__ = ["Kept", "cache_folder", "cached_index", "clear_cache", "kept_in_cache"]

_NAME = re.compile("[0-9a-f]{32}")
# Of so many examples the sample that is looked at before the others is one; the cache is read whole, and needs no good sketch.
SAMPLED = 16


@dataclass(frozen=True)
class Kept:
    """The gradients of one training run in the cache.

    Args:
        path (Path): its folder.
        bytes (int): of all files.
        used (float): when it was last asked for, seconds since 1970.
        model (str): the model's class; empty where it was not finished.
        examples, checkpoints (int): M and C.
        about (mapping): what a person knows it by, as it was given when it was asked for last: "data", "model".
    """

    path: Path
    bytes: int
    used: float
    model: str = ""
    examples: int = 0
    checkpoints: int = 0
    about: Mapping[str, str] = field(default_factory=dict)


def cached_index(
    training: LiveSource,
    folder: str | Path | None = None,
    *,
    memory_limit: int = 1 << 30,
    show_progress: bool | None = None,
    announce: Callable[[IndexEstimate], None] | None = None,
    about: Mapping[str, str] | None = None,
    found: Callable[[Kept], None] | None = None,
) -> GradientIndex:
    """The index of a training run, built in the cache folder if it is not there yet.

    It is known by the weights and rates of all checkpoints, the loss, the options that its rows hang on, and every training
    example, which are read for it. It is built under another name and gets its own when it is whole; of several processes that
    need it one builds it, and the others wait. As long as it is open, nothing removes it.

    Args:
        training (LiveSource): the training set through the model.
        folder (path, optional): see :func:`cache_folder`.
        memory_limit (int): as in :meth:`TracInWE.build_index`.
        show_progress (bool, optional): a bar, and what it will take; None: where a person looks.
        announce (callable, optional): told what it will take before it is done, in place of stderr.
        about (mapping, optional): what a person knows the run by: "data", "model".
        found (callable, optional): told what was there already, in place of stderr.

    Raises:
        ValueError: the loss holds something that cannot be recognised again.
        OSError: the folder cannot be written.
    """
    entry = cache_folder(folder) / _key(training)
    sample = max(16, min(256, (training.examples.readable or 0) // SAMPLED))
    options = Options(memory_limit=memory_limit, show_progress=show_progress, announce=announce, sample=sample)
    built = False
    with said_of_cache(entry.parent):
        while True:
            lock = locked_entry(entry, fcntl.LOCK_SH)
            index = _finished(entry)
            if index is not None:
                os.utime(entry / LOCK)
                weakref.finalize(index, lock.close)
                if about:
                    write_all({entry / ABOUT: json.dumps(dict(about)).encode()})
                break
            lock.close()
            try:
                alone = locked_entry(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # who waited for it here would wait as long as the other, who has built it, uses it
                time.sleep(0.05)
                continue
            with alone:
                if _finished(entry) is None:
                    _build(training, entry, options)
                    built = True
    if not built:
        _tell(_kept(entry), found, show_progress)
    return index


def _tell(kept: Kept, found: Callable[[Kept], None] | None, show_progress: bool | None) -> None:
    """Say that gradients are not computed, to whoever is told or looks."""
    if found is not None:
        found(kept)
    elif shows_bars(show_progress):
        print(f"Gradients from the cache ({amount(kept.bytes)}, {kept.path}).", file=sys.stderr)


def kept_in_cache(folder: str | Path | None = None) -> list[Kept]:
    """What the cache folder holds, last used first."""
    root = cache_folder(folder)
    found = []
    for entry in root.iterdir() if root.is_dir() else ():
        if not _NAME.fullmatch(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue  # somebody else's
        found.append(_kept(entry))
    return sorted(found, key=lambda one: (-one.used, one.path.name))


def _kept(entry: Path) -> Kept:
    """What there is to know of the folder of one run."""
    size = used = 0.0
    with contextlib.suppress(FileNotFoundError):
        used = (entry / LOCK).stat().st_mtime
    for place, _, files in os.walk(entry):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size
    about: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a note for people, which nothing hangs on
        about = {str(name): str(said) for name, said in json.loads((entry / ABOUT).read_bytes()).items()}
    try:
        manifest = Manifest.read(entry / INDEX)
    except (FileNotFoundError, IndexDamaged):
        return Kept(entry, int(size), used, about=about)
    source = manifest.source
    return Kept(entry, int(size), used, source.model, manifest.total, len(source.checkpoints), about)


def clear_cache(folder: str | Path | None = None, max_bytes: int = 0) -> tuple[list[Kept], list[Kept]]:
    """Remove what was not used for longest until no more than ``max_bytes`` are left; by default all.

    Returns:
        tuple: what was removed, and what would have been, and stays because a process uses or builds it.
    """
    removed: list[Kept] = []
    stay: list[Kept] = []
    with said_of_cache(cache_folder(folder)):
        kept = kept_in_cache(folder)
        left = sum(one.bytes for one in kept)
        for one in reversed(kept):
            if max_bytes and left <= max_bytes:
                break
            gone = _removed(one.path)
            (removed if gone else stay).append(one)
            left -= one.bytes * gone
    return removed[::-1], stay[::-1]


def _removed(entry: Path) -> bool:
    """Whether a folder could be removed: nobody uses it."""
    try:
        with locked_entry(entry, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(entry)
    except BlockingIOError:
        return False
    return True


def _key(training: LiveSource) -> str:
    """Of all that the gradients hang on; another version of this package may compute them otherwise."""
    ours = sys.modules[__name__.partition(".")[0]].__version__
    digest = hashlib.sha256()
    source = msgspec.to_builtins(source_of(training))
    digest.update(json.dumps([ours, source], sort_keys=True).encode())
    for batch in reading(training.examples.by_index(), "train_dataset"):
        for one in fingerprints(batch, training.live.label_names):
            digest.update(one.hash.encode())
    return digest.hexdigest()[:32]


def _finished(entry: Path) -> GradientIndex | None:
    """The index there; None: it is not there, or damaged: then it is built anew, for nobody else knows that it is there."""
    try:
        index = GradientIndex.open(entry / INDEX)
        index.verify()  # reads it once: what damage would stop in the midst of a question
    except (FileNotFoundError, IndexDamaged):
        return None
    return index if index.complete else None


def _build(training: LiveSource, entry: Path, options: Options) -> None:
    """Compute it under another name, by whoever holds the lock; what a killed process left there goes."""
    for left in (*entry.glob(f"{BUILDING}*"), entry / INDEX):
        if left.exists():
            shutil.rmtree(left)
    building = entry / f"{BUILDING}{secrets.token_hex(4)}"
    try:
        build(training, building, False, False, options, Place())
        os.rename(building, entry / INDEX)
        sync_folder(entry)
    finally:
        shutil.rmtree(building, ignore_errors=True)
