"""An index with the model that it is of, ready to be asked about texts: what `query` and `serve` have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_tracinwe.app import training
from captum_tracinwe.app.commands import LINE, WRITTEN, Source, refuse_other_words, tracin_of, training_texts
from captum_tracinwe.app.data import LabelledTexts
from captum_tracinwe.app.files.rows import Text
from captum_tracinwe.app.given_model import Classes, kept_tokens
from captum_tracinwe.app.same_texts import refuse_other_texts
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.texts import TokenizedText, tokenize

__all__ = ["AskedIndex"]


@dataclass(frozen=True, eq=False)
class AskedIndex:
    """An index, its model, and the training texts where their file is at hand.

    Args:
        source (Source): the model, and how its texts are read.
        index (GradientIndex): what is asked.
        tracin (TracInWE): over it.
        model, tokenizer: of the source.
        classes (Classes): what labels stand for.
        length (int): how many tokens of a text are kept.
        train (path, optional): the training file.
        shown (LabelledTexts, optional): its texts.
    """

    source: Source
    index: GradientIndex
    tracin: TracInWE
    model: Any
    tokenizer: Any
    classes: Classes
    length: int
    train: Path | None = None
    shown: LabelledTexts | None = None

    @classmethod
    def of(
        cls,
        source: Source,
        index: GradientIndex,
        classes: Classes,
        pairs: bool,
        train: Path | None,
        say: Callable[[str], None],
    ) -> AskedIndex:
        """Load the model, once, and the training texts, all of which are compared with those of the index.

        Args:
            pairs (bool): each text is a pair.
            train (path, optional): the training file, to show its texts.

        Raises:
            InputError: the model, its checkpoints or the file cannot be used, or are not those of the index.
        """
        model, tokenizer = training.load_model(source.model, classes.names)
        length = kept_tokens(source.max_length, tokenizer, model.config, say, pairs)
        tracin = tracin_of(source, model, tokenizer, None, index=index)
        shown = None
        if train is not None:
            shown = training_texts(source, train, index, classes)
            encoded = training.EncodedTexts(shown.texts, shown.labels, tokenizer, length)
            refuse_other_texts(index, encoded, shown.places, train)
        return cls(source, index, tracin, model, tokenizer, classes, length, train, shown)

    def logits(self, texts: Sequence[Text]) -> Tensor:
        """What the model, as it is, answers: ``(N, classes)``."""
        return training.logits_of(self.model, self._encoded(texts, [0] * len(texts)))

    def batches(self, texts: Sequence[Text], labels: Sequence[int]) -> Any:
        """Texts with class numbers, as the model reads them."""
        return training.batches(self._encoded(texts, labels), self.source.batch_size, collate=self._collate)

    @cached_property
    def _collate(self) -> Callable[[Sequence[dict[str, Any]]], training.Batch]:
        """One for all questions: of each collator a TracInWE tries its batches, and remembers what it found."""
        pairs = len(self.source.reading.text_columns) == 2
        return self._encoded([("a", "a") if pairs else "a"], [0]).collate

    def _encoded(self, texts: Sequence[Text], labels: Sequence[int]) -> training.EncodedTexts:
        return training.EncodedTexts(texts, labels, self.tokenizer, self.length)

    def tokenized(
        self, texts: Sequence[Text], labels: Sequence[int | None], answers: Sequence[int] | None = None
    ) -> list[TokenizedText]:
        """N test texts as the model reads them.

        Args:
            texts, labels (sequence): N of each; labels are class numbers, None: not given.
            answers (sequence of int, optional): the model's own, to be shown.
        """
        names = self.classes.names
        named = [None if label is None else names[label] for label in labels]
        given = None if answers is None else [names[answer] for answer in answers]
        return tokenize(texts, self.tokenizer, labels=named, predictions=given, max_length=self.length)

    def with_texts(
        self, pairs: Sequence[Sequence[WordInfluence]], tests: Sequence[TokenizedText]
    ) -> list[list[WordInfluence]]:
        """Pairs ``[test][rank]`` that know their texts: N test texts, and training texts where their file is at hand.

        Raises:
            InputError: a training text lacks a word whose gradient the index has for it.
        """
        taught = self._taught(sorted({pair.train_index for own in pairs for pair in own}))
        called = {} if self.shown else self._token_names(pairs)  # a text that is shown names its own
        return [
            [
                dataclasses.replace(pair, test_text=text, train_text=taught.get(pair.train_index), token_names=called)
                for pair in own
            ]
            for text, own in zip(tests, pairs, strict=True)
        ]

    def _taught(self, indices: Sequence[int]) -> dict[int, TokenizedText]:
        """Training texts by index, as the model reads them; none where their file is not at hand."""
        if self.shown is None:
            return {}
        kept = self.shown.take(indices)
        labels = [kept.names[label] for label in kept.labels]
        tokenized = tokenize(kept.texts, self.tokenizer, labels=labels, max_length=self.length)
        found = dict(zip(indices, tokenized, strict=True))
        refuse_other_words(self.index, found, [f"--train {self.train}, {place}" for place in kept.places])
        return found

    def _token_names(self, pairs: Sequence[Sequence[WordInfluence]]) -> dict[int, str]:
        """How a person reads each token of the pairs, also of training texts that are not at hand."""
        ids = {token_id for own in pairs for pair in own for token_id in pair.token_ids.tolist()}
        tokenizer = self.tokenizer
        return {one: str(tokenizer.decode([one])).strip() or str(tokenizer.convert_ids_to_tokens(one)) for one in ids}

    @cached_property
    def lines(self) -> dict[int, int]:
        """The line of the training file by training index."""
        return self._column(LINE)

    @cached_property
    def written(self) -> dict[int, str]:
        """The label as the training file writes it, by training index."""
        return self._column(WRITTEN)

    def _column(self, name: str) -> dict[int, Any]:
        return {
            number: value
            for segment in self.index.segments
            for number, value in zip(segment.numbers.tolist(), segment.columns[name], strict=True)
        }
