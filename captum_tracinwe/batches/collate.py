"""From examples of any form to a batch: columns the model takes, lists of any length, raw text and a tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, default_collate

from captum_tracinwe.batches.batch import LABEL_KEYS
from captum_tracinwe.batches.columns import WORDS, beside, columns_by_text
from captum_tracinwe.batches.copies import copied, on_copies
from captum_tracinwe.batches.padding import padded
from captum_tracinwe.batches.repeats import say_what_changes
from captum_tracinwe.batches.tokenizing import TokenizeTexts, no_tokens, not_a_label
from captum_tracinwe.batches.two_labels import check_labels, say_which, unnamed
from captum_tracinwe.batches.wrapped import parameters_of, unwrap

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
        ValueError: no column is kept; a ``label`` beside other ``labels``; texts of different lengths where nothing would tell
            the model what is padding; other numbers of choices in one batch.
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
        parameters = parameters_of(base)
        self.taken = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        self.needs_mask = any(p.name == "attention_mask" and p.default is p.empty for p in parameters)
        of_transformers = hasattr(getattr(base, "config", None), "model_type")  # its **kwargs are not for columns
        handed_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base.forward).parameters.values())
        self.takes_any = handed_on and not (of_transformers and self.taken)
        self.labels = {*LABEL_KEYS, *label_names}
        # Where one of the two is named, the other is a column that nobody asked for.
        self.named, self.left_out = not {*LABEL_KEYS}.isdisjoint(label_names), unnamed(label_names)
        self._told = False
        self.padding_idx, self.collate_fn = padding_idx, collate_fn
        pad = getattr(getattr(base, "config", None), "pad_token_id", None) if padding_idx is None else padding_idx
        self.pad = pad if isinstance(pad, int) else 0
        self.of_choices = "MultipleChoice" in type(base).__name__

    @property
    def keeps_order(self) -> bool:
        """Whether the rows of its batches are known to stand in the order of the examples."""
        return self.collate_fn is None

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
        if is_mapping:
            examples = [self._kept(example) for example in examples]
        if self.collate_fn is not None:
            batch = self.collate_fn(copied(examples))
            self._told = self._told or say_which(examples, batch)
            return batch
        if is_mapping and not self.named:
            for example in examples:
                check_labels(example, " Or say which by label_names=['labels'].")
        return self._filled(examples) if is_mapping else default_collate(_with_ids(examples))

    def _kept(self, example: Mapping[str, Any]) -> dict[str, Any]:
        def wanted(key: str, value: Any) -> bool:
            if key in self.left_out:
                return False
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
            depths = {value.dim() for value in values if isinstance(value, Tensor)}
            if len(depths) > 1:
                shapes = " and ".join(str(tuple(value.shape)) for value in values[:2] if isinstance(value, Tensor))
                raise ValueError(
                    f"The column {key!r} has examples of shapes {shapes}: expected as many dimensions in each."
                )
            fill = self.pad if WORDS in key else -100 if key in self.labels else 0
            if key == "input_ids":
                self._check_empty(examples, values)
            if all(isinstance(value, Tensor) and value.shape == (0,) for value in values):
                values = [torch.full((1,), fill) for _ in values]  # no model takes a batch without a position
            first = values[0]
            if isinstance(first, Tensor) and all(isinstance(v, Tensor) and v.shape == first.shape for v in values):
                batch[key] = torch.stack(values)  # type: ignore[arg-type]
                if WORDS in key and self.needs_mask:
                    masks[key] = torch.ones_like(batch[key])
                continue
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
                    f"model takes an {name} nor the embedding has a padding_idx. Expected one of them, or padding would count as "
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

    def _check_empty(self, examples: list[dict[str, Any]], ids: Sequence[Tensor | list[Any]]) -> None:
        """A text without tokens has nothing to say of its class; as a language model's own labels, it has no target either."""
        for example, value in zip(examples, ids, strict=True):
            labels = [example[key] for key in self.labels if key in example]
            if isinstance(value, Tensor) and value.shape == (0,) and not any(np.ndim(label) for label in labels):
                rest = ", ".join(f"{key}={value!r:.40}" for key, value in example.items() if key != "input_ids")
                raise no_tokens(f"An example has no token in 'input_ids' ({rest})")


def _value(key: str, example: Mapping[str, Any], is_label: bool) -> Tensor | list[Any]:
    """What an example has in a column as a tensor; texts of different lengths, as of choices, as a list of lists."""
    if key not in example:
        raise ValueError(
            f"An example lacks the column {key!r} that the first of its batch has: got {', '.join(example)}. Expected the same "
            f"columns in each: complete the example, or leave it out."
        )
    value = example[key]
    if _is_ragged(value):
        return list(value)
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


def _is_ragged(value: Any) -> bool:
    """Whether it is a list of lists of numbers, not all of one length."""
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(row, (list, tuple)) for row in value):
        return False
    numbers = all(isinstance(number, Real) for row in value for number in row)
    return numbers and len({len(row) for row in value}) > 1


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
