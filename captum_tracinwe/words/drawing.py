"""How results show themselves without knowing who draws: a room enters its functions here, when something is first drawn."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["drawn_as", "drawn_by", "html_of", "text_of"]

Result = TypeVar("Result")
_rooms: list[str] = []
_html: dict[type, Callable[[Any], str]] = {}
_text: dict[type, Callable[[Any], str]] = {}


def drawn_by(module: str) -> None:
    """Name a module that calls :func:`drawn_as`; it is imported when the first result is drawn."""
    _rooms.append(module)


def drawn_as(kind: type[Result], html: Callable[[Result], str], text: Callable[[Result], str] | None = None) -> None:
    """Enter how results of a kind are drawn: as HTML in a notebook, and, if given, as text where they are printed."""
    _html[kind] = html
    if text is not None:
        _text[kind] = text


def html_of(result: object) -> str | None:
    """The HTML of a result; None, for which a notebook shows its ``repr``, where nobody draws its kind."""
    _enter()
    draw = _html.get(type(result))
    return None if draw is None else draw(result)


def text_of(result: object) -> str:
    """The text of a result; its ``repr`` where nobody draws its kind."""
    _enter()
    return _text.get(type(result), repr)(result)


def _enter() -> None:
    while _rooms:
        import_module(_rooms[-1])
        _rooms.pop()
