"""`captum-tracinwe serve`: load an index and its model once, and answer questions over HTTP."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from captum_tracinwe.app.asked_index import AskedIndex
from captum_tracinwe.app.commands import Source, labels_indexed, refusals
from captum_tracinwe.app.data import InputError
from captum_tracinwe.app.given_model import head_of, numbered_by
from captum_tracinwe.app.serving.answering import IndexAnswers
from captum_tracinwe.app.serving.api import check_web
from captum_tracinwe.app.serving.asking import Question
from captum_tracinwe.app.serving.connections import connection_of
from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.running import address_of, bound, is_local, serve
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.words.legible import visible

__all__ = ["Settings", "prepared_answers", "run"]


@dataclass(frozen=True)
class Settings:
    """What the options say.

    Args:
        source (Source): the model, and how its texts are read.
        index (path, or URL): what is asked.
        train (path, optional): the training file, to show its texts.
        host (str), port (int): where it listens; port 0: one that is free.
        limits (Limits): of a question, and of all together.
    """

    source: Source
    index: Path | str
    train: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)


def prepared_answers(settings: Settings, say: Callable[[str], None] = print) -> IndexAnswers:
    """What answers: index, model and training texts are loaded, and one question is asked, so that what does not fit is told now.

    Raises:
        InputError: the index, the model, its checkpoints or the training file cannot be used, or do not belong together.
    """
    source = settings.source
    with refusals():
        opened = GradientIndex.open(settings.index)
        if not len(opened):
            raise InputError(f"{settings.index}: no text in this index; expected one with training texts.")
        classes = numbered_by(head_of(source.model), [], settings.index, labels_indexed(opened))
        pairs = len(source.reading.text_columns) == 2
        asked = AskedIndex.of(source, opened, classes, pairs, settings.train, say)
        answers = IndexAnswers(asked, settings.limits)
        # What is learned of the index at the first question is learned here.
        answers.data(Question((("a", "a") if pairs else "a",), (None,), 1))
    return answers


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Load what answers, say where it can be asked, and answer until Ctrl-C.

    Raises:
        InputError: as :func:`prepared_answers`; FastAPI or uvicorn is not installed; nothing can listen at the address.
    """
    try:
        check_web()
        connection_of(settings.limits)
    except ImportError as error:
        raise InputError(str(error)) from error
    listening = bound(settings.host, settings.port)
    with listening:
        if not is_local(listening):
            warnings.warn(
                f"--host {settings.host}: every machine that reaches this one can ask, and read the training texts. There is no "
                f"password and no encryption: put a server in front that has both.",
                stacklevel=2,
            )
        answers = prepared_answers(settings, say)
        address = address_of(listening)
        texts = counted(len(answers.asked.index), "training text")
        say(f"{texts} in {visible(str(settings.index))}, ready to be asked: {address} (Ctrl-C ends it).")
        serve(answers, settings.limits, listening, settings.host)
