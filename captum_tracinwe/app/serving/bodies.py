"""The body of a request, counted while it comes in: what a client says of its length is not relied on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.refused import Refused

__all__ = ["Left", "body_of", "kind_of"]

# Of a body that is too large so many times its limit is read and thrown away, for a second at most: a client that is still
# sending would not see why it is refused.
OVER = 8
PATIENCE = 1.0


class Left(Exception):
    """The client has gone; nobody waits for an answer."""


def kind_of(headers: Mapping[str, str], expected: str) -> None:
    """See that a body is of the ``expected`` kind, and is sent as it is.

    Raises:
        Refused: 415.
    """
    kind, *rest = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    plain = kind == expected and all(part in ("", "charset=utf-8", 'charset="utf-8"') for part in rest)
    if not plain:
        raise Refused(415, f"The Content-Type is another; expected {expected}, in UTF-8.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, "The body has a Content-Encoding; expected one that is sent as it is.")


async def body_of(receive: Callable[[], Awaitable[Any]], headers: Mapping[str, str], limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refused: it is larger than the limit (413), or is not there in time (408).
        Left: the client has gone.
    """
    most = limits.body_bytes
    declared = headers.get("content-length", "0")
    body = bytearray()
    try:
        if not (declared.isascii() and declared.isdigit() and len(declared) < 19 and int(declared) <= most):
            raise _TooLarge
        await asyncio.wait_for(_read(receive, body, most), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Refused(
            408, f"The body was not there after {limits.body_seconds} s; expected all of it by then. Send it at once."
        ) from None
    except _TooLarge:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_thrown_away(receive, OVER * most), PATIENCE)
        raise Refused(
            413,
            f"The body has more than {most:,} bytes, the limit. Send less, or start the server with a larger --max-bytes.",
        ) from None
    return bytes(body)


class _TooLarge(Exception):
    """More bytes than the limit."""


async def _read(receive: Callable[[], Awaitable[Any]], body: bytearray, most: int) -> None:
    more = True
    while more:
        piece, more = await _piece(receive)
        body += piece
        if len(body) > most:
            body.clear()
            raise _TooLarge


async def _thrown_away(receive: Callable[[], Awaitable[Any]], most: int) -> None:
    more, read = True, 0
    while more and read <= most:
        piece, more = await _piece(receive)
        read += len(piece)


async def _piece(receive: Callable[[], Awaitable[Any]]) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Left
    return message.get("body", b""), message.get("more_body", False)
