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

__all__ = ["COLUMNS", "clear", "rows", "show"]

#: Of the table of what is kept; "used" is in UTC.
COLUMNS = ("path", "bytes", "used", "model", "examples", "checkpoints")


def show(folder: Path | None, say: Callable[[str], None] = print) -> list[Kept]:
    """List what is there, last used first; what is listed."""
    found = kept_in_cache(folder)
    where = visible(str(cache_folder(folder)))
    if not found:
        say(f"Nothing is kept in {where}.")
        return found
    for one in found:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        what = f"{one.model}, {one.examples:,} texts, {counted(one.checkpoints, 'checkpoint')}"
        say(f"{used}  {amount(one.bytes):>8}  {visible(what) if one.model else 'not finished'}  {one.path.name[:8]}")
    say(f"{_total(found)} in {where}. --clear removes them; they are computed anew when they are asked for.")
    return found


def clear(folder: Path | None, say: Callable[[str], None] = print) -> list[Kept]:
    """Remove what nobody uses; what was removed."""
    removed, stay = clear_cache(folder)
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
        }
        for one in kept
    ]


def _total(kept: Sequence[Kept]) -> str:
    return f"{amount(sum(one.bytes for one in kept))} ({counted(len(kept), 'training run')})"
