"""From examples of any form to a batch: columns the model takes, lists of any length, raw text and a tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, default_collate

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.batch import LABEL_KEYS
from captum_tracinwe.batches.copies import copied, on_copies
from captum_tracinwe.batches.repeats import say_what_changes
from captum_tracinwe.batches.wrapped import unwrap

__all__ = ["Collate", "TokenizeTexts", "collate_of"]


class Collate:
    """Make a batch of examples: what :class:`captum_tracinwe.TracInWE` does with a data set unless told otherwise.

    Of examples that are mappings, the columns are kept that the model takes, as transformers' Trainer does, and those of
    labels; lists, arrays and tensors of different lengths are filled up on the right: labels with −100, words with the
    padding token, all else (``attention_mask``, ``token_type_ids``) with 0. Other examples go to torch's `default_collate`.

    Args:
        model (Module): its ``forward`` says which columns.
        padding_idx (int, optional): that of the embedding; None: ``model.config.pad_token_id``, else 0.
        label_names (sequence of str): columns that are labels, besides ``labels`` and ``label``.
        collate_fn (callable, optional): makes the batch in place of the filling up, of the columns that are kept.

    Raises:
        ValueError: no column is kept; texts of different lengths where nothing would tell the model what is padding.
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
        of_transformers = hasattr(getattr(base, "config", None), "model_type")  # its **kwargs are not for columns
        self.takes_any = not of_transformers and any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.labels = {*LABEL_KEYS, *label_names}
        self.padding_idx, self.collate_fn = padding_idx, collate_fn
        pad = getattr(getattr(base, "config", None), "pad_token_id", None) if padding_idx is None else padding_idx
        self.pad = pad if isinstance(pad, int) else 0

    def __call__(self, examples: list[Any]) -> Any:
        """A batch of a list of examples."""
        if isinstance(examples[0], str) or (isinstance(examples[0], tuple) and isinstance(examples[0][0], str)):
            raise TypeError(
                f"The examples are raw text ({examples[0]!r:.60}): expected token ids, or "
                f"collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
            )
        is_mapping = isinstance(examples[0], Mapping)
        other = next((example for example in examples if isinstance(example, Mapping) != is_mapping), examples[0])
        if other is not examples[0]:
            first, kind = type(examples[0]).__name__, type(other).__name__
            raise TypeError(
                f"An example is a {kind} where the first of its batch is a {first}: expected examples alike."
            )
        if not is_mapping:
            return (
                self.collate_fn(copied(examples))
                if self.collate_fn is not None
                else default_collate(_with_ids(examples))
            )
        examples = [self._kept(example) for example in examples]
        return self.collate_fn(copied(examples)) if self.collate_fn is not None else self._filled(examples)

    def _kept(self, example: Mapping[str, Any]) -> dict[str, Any]:
        def wanted(key: str, value: Any) -> bool:
            return (
                key in self.taken or key in self.labels or (self.takes_any and not isinstance(value, (str, type(None))))
            )

        kept = {key: value for key, value in example.items() if wanted(key, value)}
        if not kept.keys() - self.labels:
            raise ValueError(
                f"The examples have the columns {', '.join(map(repr, example))}, and the model takes "
                f"{', '.join(sorted(self.taken - self.labels))}: expected at least one of these. Rename a column, or for raw "
                f"text pass collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
            )
        return kept

    def _filled(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        ragged = False
        lengths = [1] * len(examples)
        for key in examples[0]:
            values = [_tensor(key, example, key in self.labels) for example in examples]
            if len({value.dim() for value in values}) > 1:
                shapes = " and ".join(str(tuple(value.shape)) for value in values[:2])
                raise ValueError(
                    f"The column {key!r} has examples of shapes {shapes}: expected as many dimensions in each."
                )
            of_words = key.endswith("input_ids")
            fill = self.pad if of_words else -100 if key in self.labels and not values[0].is_floating_point() else 0
            if key == "input_ids":
                self._check_empty(examples, values)
            if all(value.shape == (0,) for value in values):
                values = [value.new_full((1,), fill) for value in values]  # no model takes a batch without a position
            if len({value.shape for value in values}) == 1:
                batch[key] = torch.stack(values)
                continue
            if key == "input_ids":
                ragged, lengths = True, [len(value) for value in values]
            batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
        if ragged and "attention_mask" not in batch:
            if "attention_mask" in self.taken:
                batch["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
            elif self.padding_idx is None:
                raise ValueError(
                    f"Texts of different lengths ({min(lengths)} to {max(lengths)}) in one batch, and neither the model takes "
                    f"an attention_mask nor the embedding has a padding_idx: expected one of them, or padding would count as "
                    f"words. Pass batch_size=1, or collate_fn=..."
                )
        return batch

    def _check_empty(self, examples: list[dict[str, Any]], ids: list[Tensor]) -> None:
        """A text without tokens has nothing to say of its class; as a language model's own labels, it has no target either."""
        for example, value in zip(examples, ids, strict=True):
            labels = [example[key] for key in self.labels if key in example]
            if value.shape == (0,) and not any(np.ndim(label) for label in labels):
                rest = ", ".join(f"{key}={value!r:.40}" for key, value in example.items() if key != "input_ids")
                raise no_tokens(f"An example has no token in 'input_ids' ({rest})")


def _tensor(key: str, example: Mapping[str, Any], is_label: bool) -> Tensor:
    if key not in example:
        raise ValueError(
            f"An example lacks the column {key!r} that the first of its batch has: got {', '.join(example)}."
        )
    value = example[key]
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(value)
        return (
            found if found.numel() or isinstance(value, Tensor) else found.long()
        )  # of an empty list torch makes floats
    except (TypeError, ValueError, RuntimeError) as error:
        if is_label:
            raise TypeError(not_a_label(key, value)) from error
        raise TypeError(
            f"The column {key!r} holds {value!r:.60}, which is no number or list of numbers: expected token ids, or for raw text "
            f"collate_fn=captum_tracinwe.collate.TokenizeTexts(tokenizer, ...)."
        ) from error


def _with_ids(examples: list[Any]) -> list[Any]:
    """Tuples whose ids are a list of numbers with a tensor in its place: torch would make a tensor of each position."""
    if isinstance(examples[0], list) and len(examples[0]) > 2 and all(isinstance(item, int) for item in examples[0]):
        raise TypeError(
            f"An example is a list of numbers ({examples[0]!r:.60}), with nothing that says which is the label: expected (ids, "
            f"label), or a mapping such as {{'input_ids': ids, 'labels': label}}."
        )

    def made(example: Any) -> Any:
        ids = example[0] if isinstance(example, tuple) and len(example) > 1 else None
        numbers = isinstance(ids, list) and all(isinstance(item, int) for item in ids)
        return (torch.tensor(ids, dtype=torch.int64), *example[1:]) if numbers else example

    return [made(example) for example in examples]


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
        text (str or pair of str): the column, or those of both sentences of a pair.
        label (str or None): the column of the labels, numbers; None for a language model, whose labels are its own tokens,
            −100 at padding.
        max_length (int, optional): texts are cut to that many tokens. It should be the length of training.

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
        text: str | tuple[str, str] = "text",
        label: str | None = "label",
        max_length: int | None = None,
    ) -> None:
        if isinstance(tokenizer, type) or not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
            raise TypeError(
                f"TokenizeTexts: expected a tokenizer of transformers, got {tokenizer!r:.60}. Make one, for instance by "
                f"AutoTokenizer.from_pretrained(...)."
            )
        columns = (text,) if isinstance(text, str) else text
        if not isinstance(columns, (tuple, list)) or len(columns) not in (1, 2) or not all(map(_is_name, columns)):
            raise TypeError(
                f"TokenizeTexts: expected `text` as the name of a column, or of two of them, got {text!r:.60}."
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
        self.tokenizer, self.label, self.max_length = tokenizer, label, max_length
        self.columns = tuple(columns)

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch for ``model(**batch)``, with ``labels``."""
        parts = [self._parts(example) for example in examples]
        if len({len(text) for text, _ in parts}) > 1:
            raise ValueError("TokenizeTexts: single texts and pairs of texts in one batch: expected either throughout.")
        texts = [list(column) for column in zip(*(text for text, _ in parts), strict=True)]
        labels = [label for _, label in parts]
        batch = dict(
            self.tokenizer(
                *texts,
                padding=True,
                truncation=self.max_length is not None,
                max_length=self.max_length,
                return_attention_mask=True,
                return_tensors="pt",
            )
        )
        words = batch["attention_mask"] != 0
        if not words.shape[1]:  # no model takes a batch without a position
            fills = {"input_ids": self.tokenizer.pad_token_id}
            batch = {key: torch.full((len(value), 1), fills.get(key, 0)) for key, value in batch.items()}
            words = batch["attention_mask"] != 0
        if "attention_mask" not in getattr(self.tokenizer, "model_input_names", batch):
            del batch["attention_mask"]
        if self.label is None:  # a text without tokens has no target, which is told where it is asked about
            return {**batch, "labels": batch["input_ids"].masked_fill(~words, -100)}
        empty = next((text for (text, _), some in zip(parts, words.any(1), strict=True) if not some), None)
        if empty is not None:
            raise no_tokens(f"TokenizeTexts: the text {empty[0]!r:.60} has no token")
        try:
            return {**batch, "labels": torch.as_tensor(labels)}
        except (TypeError, ValueError, RuntimeError) as error:
            unfit = next((y for y in labels if y is None or isinstance(y, str)), labels)
            raise TypeError(
                f"TokenizeTexts: {not_a_label(self.label, unfit)} For a language model pass label=None."
            ) from error

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
