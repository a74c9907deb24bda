"""From examples of any form to a batch: columns the model takes, lists of any length, raw text and a tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, default_collate

from captum_tracinwe.batches.batch import LABEL_KEYS
from captum_tracinwe.batches.columns import WORDS, beside, columns_by_text
from captum_tracinwe.batches.copies import copied, on_copies
from captum_tracinwe.batches.padding import padded
from captum_tracinwe.batches.repeats import say_what_changes
from captum_tracinwe.batches.wrapped import unwrap

__all__ = ["Collate", "TokenizeTexts", "collate_of"]


class Collate:
    """Make a batch of examples: what :class:`captum_tracinwe.TracInWE` does with a data set unless told otherwise.

    Of examples that are mappings, the columns are kept that the model takes, as transformers' Trainer does, and those of
    labels; lists, arrays and tensors of different lengths are filled up on the right: labels with −100, words with the
    padding token, all else (``attention_mask``, ``token_type_ids``) with 0. Other examples go to torch's `default_collate`.
    An example may have several texts: choices, lists in a list, or columns of their own (``a_input_ids``, ``input_ids_2``).

    Args:
        model (Module): its ``forward`` says which columns.
        padding_idx (int, optional): that of the embedding; None: ``model.config.pad_token_id``, else 0.
        label_names (sequence of str): columns that are labels, besides ``labels`` and ``label``.
        collate_fn (callable, optional): makes the batch in place of the filling up, of the columns that are kept.

    Raises:
        ValueError: no column is kept; texts of different lengths where nothing would tell the model what is padding; other
            numbers of choices in one batch.
        TypeError: a column that holds no numbers.

    Example:
        >>> model = torch.nn.Sequential()
        >>> model.forward = lambda input_ids, attention_mask: None
        >>> collate = Collate(model)
        >>> collate([{"input_ids": [5, 6], "label": 1, "text": "a b"}, {"input_ids": [7], "label": 0}])["attention_mask"]
        tensor([[1, 1],
                [1, 0]])
    """

    #: Examples are as they were afterwards: another collator that is called by this one is handed copies.
    leaves_examples = True

    def __init__(
        self,
        model: Module,
        padding_idx: int | None = None,
        label_names: Sequence[str] = (),
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        model = unwrap(model)
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        parameters = inspect.signature(base.forward).parameters.values()
        self.taken = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        self.needs_mask = any(p.name == "attention_mask" and p.default is p.empty for p in parameters)
        of_transformers = hasattr(getattr(base, "config", None), "model_type")  # its **kwargs are not for columns
        self.takes_any = not of_transformers and any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.labels = {*LABEL_KEYS, *label_names}
        self.padding_idx, self.collate_fn = padding_idx, collate_fn
        pad = getattr(getattr(base, "config", None), "pad_token_id", None) if padding_idx is None else padding_idx
        self.pad = pad if isinstance(pad, int) else 0
        self.of_choices = "MultipleChoice" in type(base).__name__

    def __call__(self, examples: list[Any]) -> Any:
        """A batch of a list of examples."""
        if isinstance(examples[0], str) or (isinstance(examples[0], tuple) and isinstance(examples[0][0], str)):
            raise TypeError(
                f"The examples are raw text ({examples[0]!r:.60}): expected token ids, or "
                f"collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
            )
        if isinstance(examples[0], Mapping):
            examples = [self._kept(example) for example in examples]
        if self.collate_fn is not None:
            return self.collate_fn(copied(examples))
        return self._filled(examples) if isinstance(examples[0], Mapping) else default_collate(examples)

    def _kept(self, example: Mapping[str, Any]) -> dict[str, Any]:
        def wanted(key: str, value: Any) -> bool:
            return (
                key in self.taken or key in self.labels or (self.takes_any and not isinstance(value, (str, type(None))))
            )

        texts = columns_by_text(example, self.taken) if WORDS in self.taken else []
        of_texts = {name for own in texts for name in own.values()} if len(texts) > 1 else ()
        kept = {key: value for key, value in example.items() if key in of_texts or wanted(key, value)}
        if not kept.keys() - self.labels:
            raise ValueError(
                f"The examples have the columns {', '.join(map(repr, example))}, and the model takes "
                f"{', '.join(sorted(self.taken - self.labels))}: expected at least one of these. Rename a column, or for raw "
                f"text pass collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
            )
        return kept

    def _filled(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}  # of columns of words that were filled up: where the words are
        for key in examples[0]:
            values = [_value(key, example, key in self.labels) for example in examples]
            first = values[0]
            if isinstance(first, Tensor) and all(isinstance(v, Tensor) and v.shape == first.shape for v in values):
                batch[key] = torch.stack(values)  # type: ignore[arg-type]
                if WORDS in key and self.needs_mask:
                    masks[key] = torch.ones_like(batch[key])
                continue
            fill = self.pad if WORDS in key else -100 if key in self.labels else 0
            batch[key], mask = padded(values, fill)
            if WORDS in key:
                masks[key] = mask
                self._check_choices(key, values)
        for key, mask in masks.items():
            name = beside(key, "attention_mask")
            if name in batch or key.startswith("decoder_"):
                continue
            of_one_text = key not in self.taken and (self.takes_any or "attention_mask" in self.taken)
            if name in self.taken or of_one_text:
                batch[name] = mask
            elif self.padding_idx is None:
                lengths = mask.sum(-1)
                raise ValueError(
                    f"Texts of different lengths ({int(lengths.min())} to {int(lengths.max())}) in one batch, and neither the "
                    f"model takes an {name} nor the embedding has a padding_idx: expected one of them, or padding would count as "
                    f"words. Pass batch_size=1, or collate_fn=..."
                )
        return batch

    def _check_choices(self, key: str, values: list[Tensor | list[Any]]) -> None:
        """A choice that is padding alone would be one that the model may choose."""
        counts = sorted({len(value) for value in values})
        if self.of_choices and len(counts) > 1:
            raise ValueError(
                f"The column {key!r} has examples of {counts[0]} and of {counts[-1]} choices in one batch: expected as many for "
                f"each, for choices of padding would be choices too. Pass batch_size=1, or a DataLoader whose batches have "
                f"examples of one number of choices."
            )


def _value(key: str, example: Mapping[str, Any], is_label: bool) -> Tensor | list[Any]:
    """What an example has in a column as a tensor; texts of different lengths, as of choices, as a list of lists."""
    if key not in example:
        raise ValueError(
            f"An example lacks the column {key!r} that the first of its batch has: got {', '.join(example)}."
        )
    value = example[key]
    if _is_ragged(value):
        return list(value)
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        if is_label:
            raise TypeError(not_a_label(key, value)) from error
        raise TypeError(
            f"The column {key!r} holds {value!r:.60}, which is no number or list of numbers: expected token ids, or for raw text "
            f"collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
        ) from error


def _is_ragged(value: Any) -> bool:
    """Whether it is a list of lists of numbers, not all of one length."""
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(row, (list, tuple)) for row in value):
        return False
    numbers = all(isinstance(number, Real) for row in value for number in row)
    return numbers and len({len(row) for row in value}) > 1


def not_a_label(name: str, value: Any) -> str:
    """In words: a label that is missing, or a name."""
    return (
        f"The column {name!r} of an example holds {value!r:.60} for a label: expected a number. Leave out examples without a "
        f"label, and number names as in training, for instance by model.config.label2id."
    )


def collate_of(
    train_dataset: Dataset[Any] | DataLoader[Any],
    collate_fn: Callable[[list[Any]], Any] | None,
    model: Module,
    padding_idx: int | None,
    label_names: Sequence[str],
) -> Callable[[list[Any]], Any]:
    """What makes batches of examples: a DataLoader's own way, unless that is torch's or there is none; what is given; or ours."""
    if isinstance(train_dataset, DataLoader) and train_dataset.batch_sampler is not None:
        own = train_dataset.collate_fn
        collate_fn = None if own is default_collate else own
    collate = Collate(model, padding_idx, label_names) if collate_fn is None else on_copies(collate_fn)
    assert collate is not None
    say_what_changes(train_dataset, collate)
    return collate


class TokenizeTexts:
    """Make a batch of raw texts: ``TracInWE(..., collate_fn=TokenizeTexts(tokenizer, max_length=64))``.

    Examples are mappings, or tuples (text, label), where a pair of texts is a tuple itself.

    Args:
        tokenizer: of transformers; it pads to the longest text of the batch.
        text (str or tuple of str): the column, or those of both sentences of a pair.
        label (str or None): the column of the labels, numbers; None for a language model, whose labels are its own tokens,
            −100 at padding.
        max_length (int, optional): texts are cut to that many tokens. It should be the length of training.
        apart (bool): each of an example's texts by itself, of any number, for a model that reads one text and a loss of several
            (pairs, triplets): columns ``sentence1_input_ids``, ``sentence2_input_ids`` and so on. With ``label=None`` there are
            no labels.

    Raises:
        ValueError: a column is missing, or the tokenizer has no padding token.

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
        label: str | None = "label",
        max_length: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "TokenizeTexts: the tokenizer has no padding token: expected one, for texts of different lengths. Set "
                "tokenizer.pad_token = tokenizer.eos_token."
            )
        self.tokenizer, self.label, self.max_length = tokenizer, label, max_length
        self.columns = (text,) if isinstance(text, str) else tuple(text)
        self.apart = apart

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch for ``model(**batch)``, with ``labels``."""
        parts = [self._parts(example) for example in examples]
        texts = [list(column) for column in zip(*(text for text, _ in parts), strict=True)]
        labels = [label for _, label in parts]
        if self.apart:
            names = self.columns if len(self.columns) == len(texts) else [f"text{n}" for n in range(1, len(texts) + 1)]
            batch = {
                f"{name}_{key}": value
                for name, column in zip(names, texts, strict=True)
                for key, value in self._tokenized(column).items()
            }
        else:
            batch = self._tokenized(*texts)
        if self.label is None and self.apart:
            return batch
        if self.label is None:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        else:
            unfit = next((y for y in labels if y is None or isinstance(y, str)), 0)
            if unfit != 0:
                raise TypeError(
                    f"TokenizeTexts: {not_a_label(self.label, unfit)} For a language model pass label=None."
                )
        return {**batch, "labels": torch.as_tensor(labels)}

    def _tokenized(self, *texts: list[str]) -> dict[str, Any]:
        cut = {"truncation": self.max_length is not None, "max_length": self.max_length}
        return dict(self.tokenizer(*texts, padding=True, return_tensors="pt", **cut))

    def _parts(self, example: Any) -> tuple[tuple[str, ...], Any]:
        if not isinstance(example, Mapping):
            text, label = example if self.label is not None and not isinstance(example, str) else (example, None)
            return _texts((text,) if isinstance(text, str) else text), label
        missing = [name for name in (*self.columns, self.label) if name is not None and name not in example]
        if missing:
            raise ValueError(
                f"TokenizeTexts: an example has the columns {', '.join(map(repr, example))}: expected {missing[0]!r}. Name "
                f"columns by TokenizeTexts(tokenizer, text=..., label=...)."
            )
        texts = _texts([example[name] for name in self.columns])
        return texts, None if self.label is None else example[self.label]


def _texts(values: Any) -> tuple[str, ...]:
    """The text of an example, or its pair of texts."""
    if not isinstance(values, (tuple, list)) or not all(isinstance(value, str) for value in values):
        raise TypeError(
            f"TokenizeTexts: an example has {values!r:.60} for its text: expected a text, or two of them. Leave out examples "
            f"without one."
        )
    return tuple(values)
