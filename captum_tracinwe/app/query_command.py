"""`captum-tracinwe query`: which training texts of an index taught a classifier its answers to the texts of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.app.asked_index import AskedIndex
from captum_tracinwe.app.commands import Source, labels_indexed, refusals
from captum_tracinwe.app.data import InputError
from captum_tracinwe.app.files import read_texts
from captum_tracinwe.app.given_model import head_of, labelled, numbered_by
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.index.stored_source import StoredSource
from captum_tracinwe.visualization import word_influence_html, word_influence_text, write_html
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import visible

__all__ = ["Answered", "query"]


@dataclass(frozen=True)
class Answered:
    """What an index answered.

    Args:
        pairs (list): ``[test][rank]``, by index of the test file and of the index.
        test_lines, train_lines (mapping): the line of either file by index.
        train_labels (mapping): label by training index, as the training file writes it.
        read (mapping): how many training texts there are, how many were verified per question, and bytes that were read.
    """

    pairs: list[list[WordInfluence]]
    test_lines: dict[int, int]
    train_lines: dict[int, int]
    train_labels: dict[int, str]
    read: dict[str, float]


def query(
    source: Source,
    index: Path | str,
    test: Path,
    *,
    k: int = 5,
    opponents: bool = False,
    limit: int = 5,
    predicted: bool = False,
    train: Path | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> Answered:
    """Print the k proponents (opponents) of the first ``limit`` texts of a file, with the words that carry them.

    Args:
        train (path, optional): the training file, to show its texts.
        predicted (bool): ask about the model's own answers, not the labels of the file.
        out (path, optional): write a page of the same, too.

    Raises:
        InputError: a file, the model, the checkpoints or the index cannot be used; a label that the index does not know.
    """
    with refusals():
        opened = GradientIndex.open(index)
        rows = read_texts(test, source.reading)[:limit]
        classes = numbered_by(head_of(source.model), rows, test, labels_indexed(opened) or None)
        chosen = labelled(rows, classes, test)
        asked = AskedIndex.of(source, opened, classes, chosen.pairs, train, say)
        answers = asked.logits(chosen.texts).argmax(1).tolist() if predicted else None
        batches = asked.batches(chosen.texts, chosen.labels if answers is None else answers)
        indices, told, read = _best(asked, batches, k, not opponents)
        pairs = asked.tracin.word_influence(batches, indices)
        known = asked.with_texts(pairs, asked.tokenized(chosen.texts, chosen.labels, answers))
    lines = asked.lines
    named = [
        [dataclasses.replace(pair, test_index=line, train_index=lines[pair.train_index]) for pair in own]
        for line, own in zip(chosen.lines, known, strict=True)
    ]
    if out is not None:
        title = f"Which training texts taught the model these answers? {test.name}, by lines"
        try:
            write_html(out, word_influence_html(named, title=title))
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written ({error.strerror or error}).") from error
    say(word_influence_text(named))
    say(f"\nNumbers are lines of the two files. {told}")
    if not asked.shown:
        say("To read the training texts, add --train FILE: the file that the index was built from.")
    if out is not None:
        say(f"Page: {visible(str(out))}")
    return Answered(known, dict(enumerate(chosen.lines)), lines, asked.written, read)


def _best(asked: AskedIndex, batches: Any, k: int, proponents: bool) -> tuple[Tensor, str, dict[str, float]]:
    """The k best training examples of each question, and what was read to know them, said and as numbers."""
    index, tracin = asked.index, asked.tracin
    if not asked.source.plain:
        found = tracin.influence(batches, k, proponents)
        assert not isinstance(found, Tensor)
        read: dict[str, float] = {"examples": len(index), "verified": len(index), "gradient_bytes": index.payload_bytes}
        return found.indices, f"All {len(index):,} training texts were scored.", read
    source = tracin.source
    assert isinstance(source, StoredSource)
    best = source.search(tracin.question(batches), k, proponents)
    stats = best.stats
    read = {
        "examples": stats.examples,
        "verified": stats.verified,
        "bytes_read": stats.bytes_read,
        "gradient_bytes": stats.payload_bytes,
    }
    told = (
        f"Of {stats.examples:,} training texts {stats.verified:,.0f} were verified per question. That read "
        f"{stats.bytes_read / 1e6:,.2f} MB of the index, where the gradients of all training texts are "
        f"{stats.payload_bytes / 1e6:,.2f} MB."
    )
    return best.indices, told, read
