"""A server at an address, until it is told to end."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from captum_tracinwe.app.data import InputError
from captum_tracinwe.app.serving.api import Answers, make_app
from captum_tracinwe.app.serving.connections import connection_of
from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.turns import Turns

__all__ = ["address_of", "bound", "is_local", "serve"]

#: Names by which a machine calls itself.
LOCAL = ("localhost", "127.0.0.1", "[::1]")
# Seconds that answers have which are under way when the server is to end.
LAST = 5


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Args:
        host (str): a name or number of this machine.
        port (int): 0: one that is free.

    Raises:
        InputError: there is no such address here, or another program has it.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host {host} --port {port}: no server can listen there ({reason}). Expected an address of this machine, and a "
            f"port that is free; --port 0 takes any."
        ) from error


def is_local(listening: socket.socket) -> bool:
    """Whether programs on this machine alone can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def address_of(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(answers: Answers, limits: Limits, listening: socket.socket, host: str) -> None:
    """Answer until Ctrl-C, or until the process is told to end.

    Args:
        answers (Answers): what answers.
        limits (Limits): of a question, and of all together.
        listening (socket): see :func:`bound`; closed at the end.
        host (str): the name under which that address was asked for.

    Raises:
        ImportError: FastAPI or uvicorn is not installed.
    """
    connection = connection_of(limits)  # which says if uvicorn is missing
    import uvicorn

    names = None
    if is_local(listening):
        number = listening.getsockname()[0]
        names = {*LOCAL, host.lower(), f"[{number}]" if ":" in number else number}
    turns: Turns[bytes] = Turns(limits.waiting)
    config = uvicorn.Config(
        make_app(answers, turns, limits, names),
        loop="asyncio",
        http=connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",  # what a client sends is not logged; errors of our own are told by the guard
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=128,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=LAST,
        h11_max_incomplete_event_size=1 << 14,
    )

    class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn's types are not asked for
        """One that leaves signals to whoever runs it."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(config)
    try:
        with _ended_by_ctrl_c(server):
            server.run(sockets=[listening])
    finally:
        listening.close()
        turns.close(LAST)


@contextlib.contextmanager
def _ended_by_ctrl_c(server: Any) -> Iterator[None]:
    """Ctrl-C lets answers that are under way go out, within some seconds; a second one does not wait for them.

    Whether it counts is for the handler before to say: a command that a script put in the background does not hear it, and one
    that is asked to end (SIGTERM, SIGHUP) takes that for Ctrl-C.
    """
    before, came = signal.getsignal(signal.SIGINT), False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        try:
            before(number, frame)  # type: ignore[operator,misc]  # seen to be callable
        except KeyboardInterrupt:
            server.force_exit, server.should_exit, came = came, True, True

    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
