"""`captum-tracinwe browse`: a page of training texts with those that they influenced, from an index alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from captum_tracinwe.app import training
from captum_tracinwe.app.commands import Source, labels_indexed, refusals, refuse_other_words, tracin_of, training_texts
from captum_tracinwe.app.data import InputError, LabelledTexts
from captum_tracinwe.app.files import read_texts
from captum_tracinwe.app.given_model import head_of, kept_tokens, numbered_by
from captum_tracinwe.app.same_texts import refuse_other_texts
from captum_tracinwe.index import GradientIndex, pushed_by
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.visualization import pushed_html, write_html
from captum_tracinwe.visualization.common import counted
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.texts import tokenize

__all__ = ["Browsed", "browse"]


@dataclass(frozen=True)
class Browsed:
    """What stands on the page.

    Args:
        pushed (dict): of a training index the pairs with those that it pushed; ``test_index`` is theirs.
        lines (dict): the line of the training file by training index.
    """

    pushed: dict[int, list[WordInfluence]]
    lines: dict[int, int]


def browse(
    source: Source,
    index: Path | str,
    train: Path,
    out: Path,
    *,
    texts: int = 20,
    lines: Sequence[int] | None = None,
    k: int = 5,
    say: Callable[[str], None] = print,
) -> Browsed:
    """Write the page of the ``texts`` training texts of largest self-influence, or of those of some lines.

    Raises:
        InputError: a file, the model, the checkpoints or the index cannot be used; no text stands in a line.
    """
    with refusals():
        opened = GradientIndex.open(index)
        rows = read_texts(train, source.reading)
        classes = numbered_by(head_of(source.model), rows, train, labels_indexed(opened) or None)
        labelled = training_texts(source, train, opened, classes)
        model, tokenizer = training.load_model(source.model, classes.names)
        length = kept_tokens(source.max_length, tokenizer, model.config, say, labelled.pairs)
        encoded = training.EncodedTexts(labelled.texts, labelled.labels, tokenizer, length)
        refuse_other_texts(opened, encoded, labelled.places, train)
        tracin = tracin_of(source, model, tokenizer, None, index=opened)
        chosen = _largest(tracin, opened, texts) if lines is None else _of_lines(labelled, opened, lines, train)
        one = training.EncodedTexts(labelled.texts[:1], labelled.labels[:1], tokenizer, length)
        found = dict(zip(chosen, pushed_by(tracin, chosen, training.batches(one, 1), k), strict=True))
        named = sorted({*chosen, *(pair.test_index for pairs in found.values() for pair in pairs)})
        kept = labelled.take(named)
        names = [kept.names[label] for label in kept.labels]
        told = dict(zip(named, tokenize(kept.texts, tokenizer, labels=names, max_length=length), strict=True))
        refuse_other_words(opened, told, [f"--train {train}, {place}" for place in kept.places])
        pushed = {
            by: [pair.with_texts(told[pair.test_index], told[by]) for pair in pairs] for by, pairs in found.items()
        }
    page = pushed_html(
        pushed,
        told,
        place=lambda at: f"Line {labelled.lines[at]}",
        title=f"Whom did these texts of {train.name} influence?",
    )
    try:
        write_html(out, page)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror or error}).") from error
    say(
        f"{counted(len(chosen), 'training text')} of {len(opened):,}, each with those that it pushed most, from the index alone."
    )
    say(f"Page: {visible(str(out))}")
    return Browsed(pushed, dict(zip(named, kept.lines, strict=True)))


def _largest(tracin: TracInWE, index: GradientIndex, count: int) -> list[int]:
    """The training indices of largest self-influence, largest first."""
    own = tracin.self_influence()
    best = torch.argsort(own, descending=True, stable=True)[: min(count, len(index))]
    return [int(at) for at in best]


def _of_lines(texts: LabelledTexts, index: GradientIndex, lines: Sequence[int], train: Path) -> list[int]:
    at = {line: place for place, line in enumerate(texts.lines)}
    missing = next((line for line in lines if line not in at), None)
    if missing is not None:
        raise InputError(
            f"--lines {missing}: no text begins or ends there in {train}; expected lines from {texts.lines[0]} to "
            f"{texts.lines[-1]} in which a text ends."
        )
    there = set(index.numbers.tolist())
    gone = next((line for line in lines if at[line] not in there), None)
    if gone is not None:
        raise InputError(f"--lines {gone}: that text is no longer in the index; expected one that was not deleted.")
    return list(dict.fromkeys(at[line] for line in lines))
