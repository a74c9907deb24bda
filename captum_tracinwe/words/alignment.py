"""Where the tokens of a slow tokenizer stand in their text: it is found by decoding them."""

from __future__ import annotations

import unicodedata
from typing import Any

from captum_tracinwe.words.characters import Span

__all__ = ["aligned"]

# One code point takes at most 4 bytes; a family emoji is put together from single code points.
_MAX_TOKENS_PER_CHARACTER = 8


def aligned(
    text: str, gap: Span, ids: tuple[int, ...], names: tuple[str, ...], special: list[int], tokenizer: Any
) -> list[Span | None]:
    """The characters of each position; None for a special token.

    Args:
        text (str): one text, or two with what stands between them at ``gap``.
        gap (Span): nothing is looked for there.
        ids, names (tuple): ``(T,)``, the tokens.
        special (list of int): ``(T,)``, 1 where a token is special.
        tokenizer (slow tokenizer): joins tokens to text.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    positions = [p for p, is_special in enumerate(special) if not is_special or ids[p] == unknown]
    groups = _decoded_groups(positions, ids, names, unknown, tokenizer)
    spans: list[Span | None] = [None] * len(ids)
    for (members, _), span in zip(groups, _align(text, [piece for _, piece in groups], gap), strict=True):
        for position in members:
            spans[position] = span
    return spans


def _decoded_groups(
    positions: list[int], ids: tuple[int, ...], names: tuple[str, ...], unknown: int | None, tokenizer: Any
) -> list[tuple[list[int], str | None]]:
    """Positions with the text they decode to, joined where several make one character; None: unknown."""
    groups: list[tuple[list[int], str | None]] = []
    open_group: list[int] = []
    for position in positions:
        if ids[position] == unknown:
            groups += [(open_group, None)] if open_group else []
            groups.append(([position], None))
            open_group = []
            continue
        open_group.append(position)
        piece = str(tokenizer.convert_tokens_to_string([names[p] for p in open_group])).strip().removeprefix("##")
        complete = piece != "" and "�" not in piece
        if (
            names[position] == " " and len(open_group) == 1
        ):  # a byte of its own, as ByT5 has it: no part of the next word
            groups.append(([position], None))
            open_group = []
            continue
        if complete or len(open_group) == _MAX_TOKENS_PER_CHARACTER:
            groups.append((open_group, piece if complete else None))
            open_group = []
    return groups + ([(open_group, None)] if open_group else [])


def _folded(text: str) -> tuple[str, list[int]]:
    """Lower case, no accents, compatibility forms, as tokenizers may make it; and where it came from."""
    characters, origin = [], []
    for index, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character.lower()):
            if not unicodedata.category(part).startswith("M"):
                characters.append(part)
                origin.append(index)
    return "".join(characters), [*origin, len(text)]


def _align(text: str, pieces: list[str | None], gap: Span) -> list[Span]:
    """Find pieces in the text one by one; what is not found gets the words between its neighbours."""
    folded, origin = _folded(text)
    spans: list[Span] = [(0, 0)] * len(pieces)
    waiting: list[int] = []
    cursor = 0

    def skip(index: int) -> int:
        while index < len(folded) and (folded[index].isspace() or gap[0] <= origin[index] < gap[1]):
            index += 1
        return index

    def settle(end: int, at_end: bool) -> None:
        words = _runs(text, origin[cursor], origin[end])
        each = len(words) == len(waiting) or (at_end and len(words) > len(waiting))
        for order, number in enumerate(waiting):
            whole = (words[0][0], words[-1][1]) if words else (origin[cursor], origin[cursor])
            spans[number] = words[order] if each else whole
        waiting.clear()

    for number, piece in enumerate(pieces):
        cursor = skip(cursor)
        wanted = _folded(piece)[0].strip() if piece else ""
        found = cursor if wanted and folded.startswith(wanted, cursor) else -1
        if wanted and found < 0 and waiting:
            found = folded.find(wanted, cursor)
        if found < 0:
            waiting.append(number)
            continue
        settle(found, at_end=False)
        cursor = found + len(wanted)
        spans[number] = (origin[found], origin[cursor - 1] + 1)
    cursor = skip(cursor)
    settle(len(folded), at_end=True)
    return spans


def _runs(text: str, start: int, end: int) -> list[Span]:
    """The parts of ``text[start:end]`` between blanks."""
    runs: list[Span] = []
    for index in range(start, end):
        if text[index].isspace():
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
