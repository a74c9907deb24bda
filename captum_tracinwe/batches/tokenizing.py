"""Raw texts → batches, by a tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.two_labels import check_labels

__all__ = ["TokenizeTexts", "no_tokens", "not_a_label"]


class _Unnamed(str):
    """A name that nobody has given."""

    __slots__ = ()


_DEFAULT_LABEL = _Unnamed("label")


class TokenizeTexts:
    """Make a batch of raw texts: ``TracInWE(..., collate_fn=TokenizeTexts(tokenizer, max_length=64))``.

    Examples are mappings, or tuples (text, label), where a pair of texts is a tuple itself.

    Args:
        tokenizer: of transformers; it pads to the longest text of the batch.
        text (str or tuple of str): the column, or those of both sentences of a pair.
        label (str or None): the column of the labels, numbers; None for a language model, whose labels are its own tokens,
            −100 at padding. Default: "label", where an example has no other "labels".
        max_length (int, optional): texts are cut to that many tokens. It should be the length of training.
        apart (bool): each of an example's texts by itself, of any number, for a model that reads one text and a loss of several
            (pairs, triplets): columns ``sentence1_input_ids``, ``sentence2_input_ids`` and so on. With ``label=None`` there are
            no labels.

    Raises:
        ValueError: a column is missing, a text without tokens has a label, or the tokenizer has no padding token.
        TypeError: it is no tokenizer; an example that is no text with its label.

    Example:
        >>> from captum_tracinwe.training import words_tokenizer
        >>> collate = TokenizeTexts(words_tokenizer(["a dog runs"]))
        >>> batch = collate([{"text": "A dog runs", "label": 2}])
        >>> batch["input_ids"].shape, batch["labels"].tolist()  # [CLS] and [SEP] besides
        (torch.Size([1, 5]), [2])
    """

    #: Examples are as they were afterwards.
    leaves_examples = True

    def __init__(
        self,
        tokenizer: Any,
        text: str | tuple[str, ...] = "text",
        label: str | None = _DEFAULT_LABEL,
        max_length: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        if isinstance(tokenizer, type) or not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
            raise TypeError(
                f"TokenizeTexts: expected a tokenizer of transformers, got {tokenizer!r:.60}. Make one, for instance by "
                f"AutoTokenizer.from_pretrained(...)."
            )
        columns = (text,) if isinstance(text, str) else text
        most = 99 if apart else 2
        if not isinstance(columns, (tuple, list)) or not 0 < len(columns) <= most or not all(map(_is_name, columns)):
            raise TypeError(
                f"TokenizeTexts: expected `text` as the name of a column, or of two of them, got {text!r:.60}. Of more "
                f"texts pass apart=True."
            )
        if label is not None and not _is_name(label):
            raise TypeError(f"TokenizeTexts: expected `label` as the name of a column, or None, got {label!r:.60}.")
        if max_length is not None and (not is_whole(max_length) or max_length < 1):
            raise ValueError(
                f"TokenizeTexts: expected `max_length` as a whole number of at least 1, or None, got {max_length!r:.60}."
            )
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "TokenizeTexts: the tokenizer has no padding token: expected one, for texts of different lengths. Set "
                "tokenizer.pad_token = tokenizer.eos_token."
            )
        self.tokenizer, self.label, self.max_length = tokenizer, label if label is None else str(label), max_length
        self.label_chosen = not isinstance(label, _Unnamed)
        self.columns = tuple(columns)
        self.apart = apart

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch for ``model(**batch)``, with ``labels``."""
        parts = [self._parts(example) for example in examples]
        if len({len(text) for text, _ in parts}) > 1:
            raise ValueError("TokenizeTexts: single texts and pairs of texts in one batch: expected either throughout.")
        texts = [list(column) for column in zip(*(text for text, _ in parts), strict=True)]
        labels = [label for _, label in parts]
        if self.apart:
            names = self.columns if len(self.columns) == len(texts) else [f"text{n}" for n in range(1, len(texts) + 1)]
            each = [self._tokenized(column) for column in texts]
            batch = {
                f"{name}_{key}": value for name, one in zip(names, each, strict=True) for key, value in one.items()
            }
        else:
            each = [self._tokenized(*texts)]
            batch = each[0]
        masks = [one["attention_mask"] != 0 for one in each]
        if "attention_mask" not in getattr(self.tokenizer, "model_input_names", ["attention_mask"]):
            batch = {key: value for key, value in batch.items() if not key.endswith("attention_mask")}
        if self.label is None:  # a text without tokens has no target, which is told where it is asked about
            return batch if self.apart else {**batch, "labels": batch["input_ids"].masked_fill(~masks[0], -100)}
        for mask, column in zip(masks, texts, strict=False):
            empty = next((text for text, some in zip(column, mask.any(1), strict=True) if not some), None)
            if empty is not None:
                raise no_tokens(f"TokenizeTexts: the text {empty!r:.60} has no token")
        try:
            return {**batch, "labels": torch.as_tensor(labels)}
        except (TypeError, ValueError, RuntimeError) as error:
            unfit = next((y for y in labels if y is None or isinstance(y, str)), labels)
            raise TypeError(
                f"TokenizeTexts: {not_a_label(self.label, unfit)} For a language model pass label=None."
            ) from error

    def _tokenized(self, *texts: list[str]) -> dict[str, Any]:
        """Of single texts or of pairs, with the mask that tells words from padding."""
        cut = {"truncation": self.max_length is not None, "max_length": self.max_length}
        made = dict(self.tokenizer(*texts, padding=True, return_attention_mask=True, return_tensors="pt", **cut))
        if made["attention_mask"].shape[1]:
            return made
        fills = {"input_ids": self.tokenizer.pad_token_id}  # no model takes a batch without a position
        return {key: torch.full((len(value), 1), fills.get(key, 0)) for key, value in made.items()}

    def _parts(self, example: Any) -> tuple[tuple[str, ...], Any]:
        if not isinstance(example, Mapping):
            text, label = example, None
            if self.label is not None and not isinstance(example, str):
                if not isinstance(example, (tuple, list)) or len(example) != 2:
                    raise TypeError(
                        f"TokenizeTexts: an example is {example!r:.60}: expected a mapping, or (text, label), where a pair of "
                        f"texts is a tuple itself, ((first, second), label). For texts without labels pass label=None."
                    )
                text, label = example
            return _texts((text,) if isinstance(text, str) else text), label
        missing = [name for name in (*self.columns, self.label) if name is not None and name not in example]
        if missing:
            raise ValueError(
                f"TokenizeTexts: an example has the columns {', '.join(map(repr, example))}: expected {missing[0]!r}. Name "
                f"columns by TokenizeTexts(tokenizer, text=..., label=...)."
            )
        if not self.label_chosen:
            check_labels(example, " Or say which by TokenizeTexts(tokenizer, label='labels').")
        texts = _texts([example[name] for name in self.columns])
        return texts, None if self.label is None else example[self.label]


def _texts(values: Any) -> tuple[str, ...]:
    """The text of an example, or its pair of texts."""
    if not isinstance(values, (tuple, list)) or not all(isinstance(value, str) for value in values):
        raise TypeError(
            f"TokenizeTexts: an example has {values!r:.60} for its text: expected a text, or two of them. Leave out examples "
            f"without one."
        )
    # A lone surrogate (half a character, from a broken decoding) is no text: tokenizers refuse it.
    return tuple(value.encode("utf-8", "replace").decode() for value in values)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def no_tokens(fact: str) -> ValueError:
    """The error to raise of a text that is empty, or of which the tokenizer leaves nothing."""
    return ValueError(
        f"{fact}: expected at least one token. Leave out empty texts, in the training set and in `inputs`."
    )


def not_a_label(name: str, value: Any) -> str:
    """In words: a label that is missing, or a name."""
    return (
        f"The column {name!r} of an example holds {value!r:.60} for a label: expected a number. Leave out examples without a "
        f"label, and number names as in training, for instance by model.config.label2id."
    )
