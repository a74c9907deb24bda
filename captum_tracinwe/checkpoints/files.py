"""Which files a checkpoint is made of: finding checkpoints on disk, their weights and shards, and seeing that all is there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from captum_tracinwe.checkpoints.adapters import ADAPTER_FILES
from captum_tracinwe.checkpoints.folders import (
    WEIGHTS,
    gathered_file,
    is_in_parts,
    is_of_training,
    is_unread,
    refuse_unread,
    shards_folder,
)
from captum_tracinwe.checkpoints.metadata import read_json
from captum_tracinwe.checkpoints.once import each_once, say_repeated
from captum_tracinwe.checkpoints.reading import check_file, opened
from captum_tracinwe.checkpoints.run_states import different_runs
from captum_tracinwe.checkpoints.sharded import opened_shards

__all__ = ["WEIGHT_FILES", "check_whole", "exists", "find_checkpoints", "has_weights", "weight_files"]

#: What transformers, accelerate and PEFT write into a checkpoint directory, preferred first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    *ADAPTER_FILES,
)

# What a desktop leaves in every directory; that of others is hidden.
OF_DESKTOP = ("thumbs.db", "desktop.ini")
# And DeepSpeed, beside its folders.
OF_DEEPSPEED = ("latest",)
# So deep, and in so many folders, is looked for checkpoints where there are none.
DEEPEST, MOST_FOLDERS = 3, 200
NO_WEIGHTS = (".txt", ".py", ".json", ".jsonl", ".md", ".csv", ".log", ".yaml", ".yml", ".html", ".png")


def find_checkpoints(checkpoints: str | Path | Iterable[Any]) -> list[Any]:
    """A list of checkpoints in natural order (``step-9`` before ``step-10``) from a directory, a file, or a list of paths.

    Of a directory: its ``checkpoint-*`` subdirectories if it has any, as transformers' Trainer makes them; else the
    directory itself, if it holds one model's weights; else every entry that may be a checkpoint (no hidden file, no text,
    no directory without weights, no optimiser's state). What is there twice, as a link, a copy or in a second format, counts
    once, and a warning says so. Of another iterable: its items, sorted if all are paths; they may be anything that the loader
    takes. One that is listed twice counts twice, with a warning.

    Raises:
        ValueError: there are none, or a Trainer's directory holds those of several runs.
    """
    found: list[Any]
    if isinstance(checkpoints, (str, Path)):
        place = Path(checkpoints)
        exists(place)
        entries = list(place.iterdir()) if place.is_dir() else []
        of_trainer = [entry for entry in entries if entry.is_dir() and re.fullmatch(r"checkpoint-\d+", entry.name)]
        if of_trainer:
            found = _natural(map(str, of_trainer))
            mixed = different_runs(of_trainer)
            if mixed is not None:
                raise ValueError(mixed)
        elif place.is_file() or has_weights(place) or is_in_parts(place):
            found = [str(place)]
        else:
            found = _natural(str(entry) for entry in entries if _may_be_checkpoint(entry))
        found = each_once(found, weight_files)
    else:
        if checkpoints is not None and not isinstance(checkpoints, Iterable):
            raise TypeError(f"`checkpoints` should be a directory or a list of paths, got {checkpoints!r}.")
        found = list(checkpoints) if checkpoints is not None else []
        if found and all(isinstance(item, (str, Path)) for item in found):
            found = _natural(found)
        say_repeated(found)
    if not found:
        where, way = f"got {checkpoints!r}", "Save some along training with captum_tracinwe.save_checkpoint."
        if isinstance(checkpoints, (str, Path)):
            place = Path(checkpoints)
            what = "a directory without checkpoints" if place.is_dir() else "neither a file nor a directory"
            where = f"{str(checkpoints)!r} is {what}"
            within = _folders_within(place)
            if within:
                where += " of its own"
                way = f"There are some in {_listed(within)}: pass {'that' if len(within) == 1 else 'one of these'} instead."
        raise ValueError(
            f"Invalid checkpoints provided for TracIn class: {checkpoints}! Expected a directory with checkpoints, or a list "
            f"of at least one path; {where}. {way}"
        )
    return found


def check_whole(path: Path) -> int:
    """See that a checkpoint directory has all its weights, without reading them; about how many tensors they are.

    Raises:
        ValueError: no file of weights, a shard missing, or a file that is cut.
    """
    folder = None if has_weights(path, sharded=False) else shards_folder(path)
    if folder is not None:
        with opened_shards(folder) as shards:
            return shards.count
    paths = weight_files(path)
    with opened(paths) as files:
        return sum(check_file(file, path) for file, path in zip(files, paths, strict=True))


def exists(place: Path) -> bool:
    """Whether a path leads to anything.

    Raises:
        ValueError: it cannot lead anywhere.
    """
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a null character
        raise ValueError(
            f"The checkpoint {str(place)[:80]!r}{'…' * (len(str(place)) > 80)} cannot be looked for "
            f"({getattr(error, 'strerror', None) or error}): expected the path of a file or a directory with weights."
        ) from error
    return True


def has_weights(place: Path, sharded: bool = True) -> bool:
    """Whether a directory holds the weights of one model; without ``sharded`` in files that transformers reads."""
    return any((place / name).is_file() for name in WEIGHT_FILES) or (
        sharded and (shards_folder(place) is not None or gathered_file(place) is not None)
    )


class _Index(msgspec.Struct):
    """Which file holds each weight. A name with a way in it would lead out of the directory."""

    weight_map: Annotated[
        dict[str, Annotated[str, msgspec.Meta(pattern=r"^[^./\\\x00][^/\\\x00]*$", max_length=255)]],
        msgspec.Meta(min_length=1),
    ]


def weight_files(path: Path) -> list[Path]:
    """The files that hold a checkpoint directory's weights: one, or its shards.

    Raises:
        ValueError: there are none, or not all.
    """
    name = next((name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if name is None:
        gathered = gathered_file(path)
        if gathered is not None:
            return [gathered]
        refuse_unread(path)
        raise ValueError(
            f"The directory {str(path)!r} is not a checkpoint: expected one of {', '.join(WEIGHT_FILES)} in it."
        )
    if not name.endswith(".index.json"):
        return [path / name]
    try:
        shards = sorted(set(read_json(path / name, _Index).weight_map.values()))
    except ValueError as error:
        raise ValueError(
            f"The index {str(path / name)!r} cannot be read ({error}): expected a JSON `weight_map` from weights to the plain "
            f"names of files beside it. Save the model anew with save_pretrained."
        ) from error
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise ValueError(
            f"The checkpoint {str(path)!r} is not whole: expected the shards {_listed(shards)}, missing {_listed(missing)}."
        )
    return [path / shard for shard in shards]


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _may_be_checkpoint(entry: Path) -> bool:
    if entry.name.startswith(".") or entry.name.lower() in (*OF_DESKTOP, *OF_DEEPSPEED):
        return False
    if entry.is_dir():
        return has_weights(entry) or is_unread(entry)
    return entry.suffix not in NO_WEIGHTS and not is_of_training(entry)


def _folders_within(place: Path) -> list[str]:
    """The folders in one that would do in its place: `checkpoints` of accelerate, `version_0/checkpoints` of Lightning."""
    within = [place]
    for _ in range(DEEPEST):
        within = [entry for one in within for entry in _entries(one) if entry.is_dir()][:MOST_FOLDERS]
        fit = [one for one in within if any(map(_is_surely_one, _entries(one)))]
        if fit:
            return _natural(map(str, fit))
    return []


def _entries(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:  # no folder, or not ours to read
        return []


def _is_surely_one(entry: Path) -> bool:
    return _may_be_checkpoint(entry) and (entry.is_dir() or entry.suffix in WEIGHTS)


def _natural(paths: Iterable[Any]) -> list[Any]:
    """Sorted so that numbers within names count as numbers."""

    def key(path: Any) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]

    return sorted(paths, key=key)
