"""Connections that keep to the limits: so many at a time, and none is held open by a client that does nothing."""

# uvicorn closes a connection that is idle between two requests, and no other: one that sends half a head of a request, or takes
# no answer, it would hold for ever.

from __future__ import annotations

from typing import Any

from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.refused import Refused
from captum_tracinwe.installing import install

__all__ = ["connection_of"]

REASONS = {400: "Bad Request", 503: "Service Unavailable"}


def connection_of(limits: Limits) -> type[Any]:
    """The protocol of a connection, for uvicorn.

    Raises:
        ImportError: uvicorn is not installed.
    """
    try:
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError as error:
        raise ImportError(
            f"captum-tracinwe serve needs uvicorn, which is not installed. {install('uvicorn', 'serve')}"
        ) from error

    class Connection(H11Protocol):  # type: ignore[misc]  # uvicorn's types are not asked for
        """One connection; a timer ends it if it is idle for too long."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._seen: Any = None
            self._since = self.loop.time()
            self._timer = self.loop.call_later(1.0, self._look)
            if len(self.connections) > limits.connections:
                self._turn_away(Refused(503, "Too many connections are open; try again later.", {"Retry-After": "5"}))

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            """Each second: is a question being answered, or how long has nothing happened?"""
            now, cycle = self.loop.time(), self.cycle
            # Whether an answer is taken in time is looked after where it is sent, but for its last piece.
            answering = cycle is not None and not cycle.response_complete and not self.transport.is_closing()
            if answering or cycle is not self._seen:
                self._seen, self._since = cycle, now
            if now - self._since > limits.idle_seconds:
                self.transport.abort()
                return
            self._timer = self.loop.call_later(1.0, self._look)

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP is answered as all else is, unless an answer is under way."""
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self._turn_away(Refused(400, "The request is not valid HTTP; expected HTTP/1.1."))
            else:
                self.transport.close()

        def _turn_away(self, refused: Refused) -> None:
            head = [
                f"HTTP/1.1 {refused.status} {REASONS[refused.status]}",
                "Content-Type: application/json",
                f"Content-Length: {len(refused.body)}",
                *(f"{name}: {value}" for name, value in refused.headers.items()),
                "Connection: close",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + refused.body)
            self.transport.close()

        def data_received(self, data: bytes) -> None:
            """Not after it was turned away: what is still on its way is not read."""
            if not self.transport.is_closing():
                super().data_received(data)

    return Connection
