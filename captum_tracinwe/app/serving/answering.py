"""An index with its model, as what answers the questions of a server: as data or as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import torch

from captum_tracinwe.app.asked_index import AskedIndex
from captum_tracinwe.app.commands import refusals
from captum_tracinwe.app.data import InputError
from captum_tracinwe.app.files.rows import Text, in_one
from captum_tracinwe.app.installed import version_of
from captum_tracinwe.app.serving.asking import Question, Reader, form_of
from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.refused import Refused
from captum_tracinwe.explanation.tables import VERSION
from captum_tracinwe.explanation.taught import taught_by
from captum_tracinwe.tabular import json_text
from captum_tracinwe.visualization.asking_page import AskingForm, Said, asking_html
from captum_tracinwe.visualization.common import TestGroup, group
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import shortened
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["IndexAnswers"]

# Of the classes of an answer the page names so many, the most probable ones.
NAMED = 4
#: Of the words of a pair that an answer has as data.
WORD = ("word", "share", "special", "token_ids", "train_spans", "test_spans")


@dataclass(frozen=True)
class _Answer:
    """What is known of one text: the class that was asked about, the probability of each, and who taught it."""

    text: Text
    read: TokenizedText
    given: int | None
    asked: int
    answer: int
    probabilities: list[float]
    pairs: list[WordInfluence]


@dataclass(frozen=True, eq=False)
class IndexAnswers:
    """Answers of an index.

    Args:
        asked (AskedIndex): the index with its model.
        limits (Limits): of a question.
    """

    asked: AskedIndex
    limits: Limits

    @cached_property
    def reader(self) -> Reader:
        """How a question is read."""
        return Reader(self.asked.classes, len(self.asked.source.reading.text_columns) == 2, self.limits)

    def about(self) -> dict[str, Any]:
        """What is asked here, and within which limits; no path of this machine."""
        manifest, classes = self.asked.index.manifest, self.asked.classes
        checkpoints = [
            {"name": PurePath(one.name).name, "learning_rate": one.learning_rate} for one in manifest.source.checkpoints
        ]
        return {
            **_head(),
            "index": {
                "examples": len(self.asked.index),
                "model": manifest.source.model,
                "table": manifest.source.table,
                "checkpoints": checkpoints,
            },
            "classes": [{"number": number, "name": name} for number, name in enumerate(classes.names)],
            "labels": classes.numbers,
            "pairs": self.reader.pairs,
            "train_texts": self.asked.shown is not None,
            "max_length": self.asked.length,
            "limits": self.limits.told,
        }

    def data(self, question: Question) -> bytes:
        """The answer as JSON in UTF-8: an object for one text, ``answers`` for several."""
        found = [self._row(one) for one in self._answers(question)]
        content = {**_head(), "answers": found} if question.several else {**_head(), **found[0]}
        return json_text(content).encode() + b"\n"

    def page(self, question: Question) -> bytes:
        """The answer to a question of one text as a page, with the form that asked it."""
        (one,) = self._answers(question)
        names = self.asked.classes.names
        first = sorted(range(len(names)), key=lambda number: (-one.probabilities[number], number))[:NAMED]
        lines = self.asked.lines
        part = next(iter(group(one.pairs)), TestGroup(0, one.read, (), (), ()))
        said = Said(
            part, names[one.answer], names[one.asked], [(names[number], one.probabilities[number]) for number in first]
        )
        parts = (one.text,) if isinstance(one.text, str) else one.text
        form = dataclasses.replace(self._form, texts=parts, label=one.given, k=question.k)
        return asking_html(form, said, train_place=lambda index: f"Line {lines[index]:,} of the training file").encode()

    def empty_page(self, refused: str = "", body: bytes = b"") -> bytes:
        """The page without an answer; with what is wrong, and what the form held, as far as it can be read."""
        form = self._form
        try:
            given = form_of(body) if body else {}
            form = dataclasses.replace(form, texts=(given.get("text", ""), given.get("second", "")))
        except Refused:
            pass
        return asking_html(form, refused=refused).encode()

    @cached_property
    def _form(self) -> AskingForm:
        return AskingForm(
            self.asked.classes.names,
            len(self.asked.index),
            self.limits.k,
            self.limits.characters,
            self.reader.pairs,
            self.asked.shown is not None,
            k=min(AskingForm.k, self.limits.k),
        )

    def _answers(self, question: Question) -> list[_Answer]:
        """What is known of each text; the gradients of all of them are computed once."""
        asked, texts = self.asked, question.texts
        with refusals():
            unread = next((text for text in asked.tokenized(texts, question.labels) if not text.token_ids), None)
            if unread is not None:
                raise Refused(
                    422,
                    f"{shortened(unread.text)} has no token for the model; expected a text of which it reads something.",
                )
            logits = asked.logits(texts)
            if not bool(
                torch.isfinite(logits).all()
            ):  # the first class would then be named, and its probability is no JSON
                raise InputError(
                    f"--model {asked.source.model}: its answer is not finite; expected one that was trained to the end."
                )
            own = logits.argmax(1).tolist()
            labels = [said if label is None else label for label, said in zip(question.labels, own, strict=True)]
            pairs = taught_by(asked.tracin, asked.batches(texts, labels), question.k)
            read = asked.tokenized(texts, question.labels, own)
            told = asked.with_texts(pairs, read)
        probabilities = torch.softmax(logits.double(), 1).tolist()
        return [
            _Answer(text, as_read, given, label, said, numbers, [self._cut(pair) for pair in of_text])
            for text, as_read, given, label, said, numbers, of_text in zip(
                texts, read, question.labels, labels, own, probabilities, told, strict=True
            )
        ]

    def _cut(self, pair: WordInfluence) -> WordInfluence:
        """With no more of a long training text than a question may have; all that the model read of it stays."""
        text = pair.train_text
        if text is None or len(text.text) <= self.limits.characters:
            return pair
        end = max([self.limits.characters, *(span[1] for span in text.spans if span is not None)])
        return dataclasses.replace(pair, train_text=dataclasses.replace(text, text=text.text[:end]))

    def _row(self, one: _Answer) -> dict[str, Any]:
        names = self.asked.classes.names
        return {
            "text": in_one(one.text),
            "unread": one.read.unread,
            "label": names[one.asked],
            "probability": one.probabilities[one.asked],
            "prediction": names[one.answer],
            "probabilities": [
                {"label": name, "probability": value} for name, value in zip(names, one.probabilities, strict=True)
            ],
            "proponents": self._side([pair for pair in one.pairs if pair.score > 0]),
            "opponents": self._side([pair for pair in one.pairs if pair.score < 0]),
        }

    def _side(self, pairs: Sequence[WordInfluence]) -> list[dict[str, Any]]:
        return [
            {
                "rank": rank,
                "train_index": pair.train_index,
                "train_line": self.asked.lines[pair.train_index],
                "train_label": self.asked.written[pair.train_index],
                "train_text": None if pair.train_text is None else pair.train_text.text,
                "score": pair.score,
                "words": [{name: row[name] for name in WORD} for row in pair.rows()],
            }
            for rank, pair in enumerate(pairs, 1)
        ]


def _head() -> dict[str, Any]:
    return {"schema_version": VERSION, "command": "serve", "package_version": version_of("captum-tracinwe")}
