"""What holds for every request: who may ask, what headers an answer has, and that no error says more than it should."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from captum_tracinwe.app.serving.bodies import Left
from captum_tracinwe.app.serving.refused import Refused
from captum_tracinwe.app.streams import tell
from captum_tracinwe.words.legible import as_line

__all__ = ["FAILED", "Guard", "told"]

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

#: All that a client learns of an error of the server's own.
FAILED = "The server failed at this question; what failed is said where it was started."
HEADERS = {
    # Styles stand in the elements, where the colour of a word is; nothing is loaded, nothing runs, a form leads back here.
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer a browser sends the page's own form with the origin "null"
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:\d{1,5})?", re.ASCII)


class Guard:
    """Around an application.

    Args:
        app: what answers.
        names (collection of str, optional): by which this machine may be called; None: by any. A page elsewhere whose name leads
            to this machine (DNS rebinding) calls it by that name.
    """

    def __init__(self, app: Asgi, names: Collection[str] | None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        request = _Request(scope, receive, send)
        try:
            self._check(scope)
            await self._app(scope, request.receive, request.send)
        except Left:
            return
        except Refused as error:
            await request.refuse(error)
        except Exception as error:
            told(error)
            await request.refuse(Refused(500, FAILED))

    def _check(self, scope: Mapping[str, Any]) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").strip().lower()
        called = _HOST.fullmatch(host)
        if called is None:
            raise Refused(400, "The header Host names no host; expected the address that the server said.")
        if self._names is not None and called[1].rstrip(".") not in self._names:
            raise Refused(421, "The header Host names another machine; expected the address that the server said.")
        if scope["method"] in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        foreign = origin is not None and origin.strip().lower().partition("://")[2] != host
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "The request comes from a page of another site; expected this server's own, or none.")


class _Request:
    """One request: what has come of its body, and whether its answer has begun."""

    def __init__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        self._whole = {b"content-length", b"transfer-encoding"}.isdisjoint(name for name, _ in scope["headers"])
        self._begun = False

    async def receive(self) -> Any:
        message = await self._receive()
        self._whole = self._whole or not message.get("more_body", False)
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            named = {name.decode("latin-1").lower() for name, _ in message.get("headers", [])}
            more = {name: value for name, value in HEADERS.items() if name not in named}
            if not self._whole:  # the rest of its body would be taken for the next request
                more["connection"] = "close"
            given = [(name.encode(), value.encode()) for name, value in more.items()]
            message = {**message, "headers": [*message.get("headers", []), *given]}
        await self._send(message)

    async def refuse(self, error: Refused) -> None:
        if self._begun:
            return
        body = error.body
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        given = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": given})
        await self.send({"type": "http.response.body", "body": body})


def told(error: BaseException) -> None:
    """Say an error of the server's own where it was started, on one line."""
    tell(f"captum-tracinwe serve: error: {type(error).__name__}: {as_line(str(error))}")
