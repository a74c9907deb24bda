"""Results as tidy tables: one row per observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from captum_tracinwe.tabular import frame

__all__ = ["tidy"]


def tidy(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A ``pandas.DataFrame``; where pandas is not installed, a list of dict."""
    return frame(rows)
