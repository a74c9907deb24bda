"""The web application: what is asked at which address, and how the answer goes out. FastAPI is asked for here alone."""

# No `from __future__ import annotations`: FastAPI looks at the annotations of its endpoints, which are imported where they stand.
import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, Protocol

from captum_tracinwe.app.serving.asking import Question, Reader
from captum_tracinwe.app.serving.bodies import Left, body_of, kind_of
from captum_tracinwe.app.serving.guard import FAILED, Guard, told
from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.refused import Refused
from captum_tracinwe.app.serving.turns import Turns
from captum_tracinwe.installing import install
from captum_tracinwe.tabular import json_text
from captum_tracinwe.words.legible import shortened

__all__ = ["Answers", "check_web", "make_app"]

PIECE = 1 << 16
ADDRESSES = "/, /explain, /about and /health"
FORM = "application/x-www-form-urlencoded"


class Answers(Protocol):
    """What answers questions; one at a time."""

    @property
    def reader(self) -> Reader:
        """How a question is read."""

    def about(self) -> dict[str, Any]:
        """What is asked here, and within which limits."""

    def data(self, question: Question) -> bytes:
        """The answer as JSON."""

    def page(self, question: Question) -> bytes:
        """The answer as a page."""

    def empty_page(self, refused: str = "", body: bytes = b"") -> bytes:
        """The page without an answer; with what is wrong with a form."""


def make_app(answers: Answers, turns: Turns[bytes], limits: Limits, names: Collection[str] | None = None) -> Guard:
    """An application of ASGI that hands questions to ``answers``, in their turn.

    Args:
        answers (Answers): an index with its model, say.
        turns (Turns): the line of questions.
        limits (Limits): of a question, and of all together.
        names (collection of str, optional): by which this machine may be called, see :class:`Guard`.

    Raises:
        ImportError: FastAPI is not installed.
    """
    check_web()
    from fastapi import FastAPI, Request, Response
    from starlette.exceptions import HTTPException

    unsent = 0
    about = json_text(answers.about()).encode() + b"\n"

    class Sent(Response):  # type: ignore[misc]  # FastAPI's types are not asked for
        """An answer that goes out in pieces, as its client takes them; what is not taken yet is counted, and not for ever."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            nonlocal unsent
            body = bytes(self.body)
            unsent += len(body)
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                for start in range(0, max(1, len(body)), PIECE):
                    more = start + PIECE < len(body)
                    message = {"type": "http.response.body", "body": body[start : start + PIECE], "more_body": more}
                    await asyncio.wait_for(send(message), limits.idle_seconds)
            except asyncio.TimeoutError:
                raise Left from None
            finally:
                unsent -= len(body)

    async def in_turn(request: Request, make: Callable[[], bytes]) -> bytes:
        """The answer, or why there is none: too many wait, it takes too long, or whoever asked has gone."""
        if unsent >= limits.unsent_bytes:
            raise Refused(
                503, "Answers wait for clients that do not take them; ask again later.", {"Retry-After": "10"}
            )
        future = turns.ask(make)
        said = asyncio.ensure_future(asyncio.wrap_future(future))
        gone = asyncio.ensure_future(request.receive())  # all of the body is there: next comes that the client has left
        try:
            await asyncio.wait({said, gone}, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                return said.result()
            if gone.done():
                raise Left
            raise Refused(
                504,
                f"The answer was not there after {limits.seconds} s, waiting for its turn included, and is given up. Ask about "
                f"fewer or shorter texts, or start the server with a larger --seconds.",
            )
        finally:
            gone.cancel()
            if not said.done():
                turns.leave(future)
                said.add_done_callback(_looked_at)  # it may still fail, and nobody waits for it
                said.cancel()

    async def ask(request: Request) -> Response:
        if request.method != "POST":
            return Sent(answers.empty_page(), media_type="text/html")
        body = b""
        try:
            kind_of(request.headers, FORM)
            body = await body_of(request.receive, request.headers, limits)
            question = answers.reader.of_form(body)
            return Sent(await in_turn(request, _guarded(lambda: answers.page(question))), media_type="text/html")
        except Refused as error:
            page = answers.empty_page(error.message, body)
            return Sent(page, error.status, headers=error.headers, media_type="text/html")

    async def explain(request: Request) -> Response:
        kind_of(request.headers, "application/json")
        question = answers.reader.of_json(await body_of(request.receive, request.headers, limits))
        return Sent(await in_turn(request, _guarded(lambda: answers.data(question))), media_type="application/json")

    async def tell_about(request: Request) -> Response:
        return Sent(about, media_type="application/json")

    async def health(request: Request) -> Response:
        state = {"status": "ok", "waiting": turns.waiting, "running": turns.running}
        return Sent(json_text(state).encode() + b"\n", media_type="application/json")

    async def refused(request: Request, error: Any) -> Response:
        return Sent(error.body, error.status, headers=error.headers, media_type="application/json")

    async def failed(request: Request, error: Any) -> Response:
        return await refused(request, Refused(500, FAILED))  # the guard tells what it was

    async def elsewhere(request: Request, error: Any) -> Response:
        if error.status_code == 405:
            asked = f"{shortened(request.method, quoted=False)} {request.url.path}"
            allowed = ", ".join(sorted(error.headers["Allow"].split(", ")))  # Starlette has them in a set
            said = f"{asked} is not answered; expected {allowed} there."
        else:
            said = f"There is no {shortened(request.url.path)} here; expected one of {ADDRESSES}."
        return await refused(request, Refused(error.status_code, said, error.headers))

    # No page of FastAPI's own: it would load scripts from elsewhere. No redirection: it would go where the header Host says.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_api_route("/", ask, methods=["GET", "HEAD", "POST"])
    app.add_api_route("/explain", explain, methods=["POST"])
    app.add_api_route("/about", tell_about, methods=["GET", "HEAD"])
    app.add_api_route("/health", health, methods=["GET", "HEAD"])
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, elsewhere)
    app.add_exception_handler(Exception, failed)
    return Guard(app, names)


def check_web() -> None:
    """Raise ImportError where FastAPI is not installed."""
    try:
        import fastapi  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"captum-tracinwe serve needs FastAPI, which is not installed. {install('fastapi', 'serve')}"
        ) from error


def _guarded(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """An answer whose errors are told where the server was started, and to nobody else."""

    def run() -> bytes:
        try:
            return make()
        except Refused:
            raise
        except Exception as error:
            told(error)
            raise Refused(500, FAILED) from None

    return run


def _looked_at(future: "asyncio.Future[bytes]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
