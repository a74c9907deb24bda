"""`captum-tracinwe cache`: what gradients are kept for later questions, and how they are removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from captum_tracinwe.index.cache import Kept, cache_folder, clear_cache, kept_in_cache
from captum_tracinwe.index.estimate import amount
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.words.legible import visible

__all__ = ["COLUMNS", "clear", "from_cache", "rows", "show"]

#: Of the table of what is kept; "used" is in UTC.
COLUMNS = ("path", "bytes", "used", "model", "examples", "checkpoints", "data", "model_folder")


def show(folder: Path | None, say: Callable[[str], None] = print) -> list[Kept]:
    """List what is there, last used first; what is listed."""
    found = kept_in_cache(folder)
    where = visible(str(cache_folder(folder)))
    if not found:
        say(f"Nothing is kept in {where}.")
        return found
    for one in found:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        say(f"{used}  {amount(one.bytes):>8}  {visible(_what(one))}  {one.path.name[:8]}")
    say(
        f"{_total(found)} in {where}. --clear removes them, --max-size 5GB those that were not used for longest; they are "
        f"computed anew when they are asked for."
    )
    return found


def _what(one: Kept) -> str:
    """What gradients are of: the data and the model as a person knows them, if they were said; then what the files tell."""
    named = [one.about.get("data", ""), one.about.get("model", "") and f"asked by {one.about['model']}"]
    facts = (
        f"{one.model}, {one.examples:,} texts, {counted(one.checkpoints, 'checkpoint')}"
        if one.model
        else "not finished"
    )
    return ": ".join(part for part in (", ".join(filter(None, named)), facts) if part)


def from_cache(one: Kept) -> str:
    """What is said where gradients are there already."""
    return f"Gradients from the cache ({amount(one.bytes)}, {visible(str(one.path))})."


def clear(folder: Path | None, say: Callable[[str], None] = print, max_bytes: int = 0) -> list[Kept]:
    """Remove what nobody uses, or of it what was not used for longest until ``max_bytes`` are left; what was removed."""
    removed, stay = clear_cache(folder, max_bytes)
    where = visible(str(cache_folder(folder)))
    say(f"Removed {_total(removed)} from {where}." if removed else f"Nothing was removed from {where}.")
    if stay:
        say(f"{_total(stay)} stay: a process uses them now.")
    return removed


def rows(kept: Sequence[Kept]) -> list[dict[str, Any]]:
    """Rows of :data:`COLUMNS`."""
    return [
        {
            "path": str(one.path),
            "bytes": one.bytes,
            "used": datetime.fromtimestamp(one.used, timezone.utc).isoformat(timespec="seconds"),
            "model": one.model,
            "examples": one.examples,
            "checkpoints": one.checkpoints,
            "data": one.about.get("data", ""),
            "model_folder": one.about.get("model", ""),
        }
        for one in kept
    ]


def _total(kept: Sequence[Kept]) -> str:
    return f"{amount(sum(one.bytes for one in kept))} ({counted(len(kept), 'training run')})"
