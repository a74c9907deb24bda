"""What `suspects` demands of its arguments and of the labels, and the words in which it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_list, is_whole
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.answers import NEAR
from captum_tracinwe.gradients.live import Asked
from captum_tracinwe.gradients.source import spread
from captum_tracinwe.labels.folds import check_recipe
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.texts import TokenizedText

__all__ = [
    "as_log_probabilities",
    "check_arguments",
    "check_folds",
    "check_labels",
    "check_texts",
    "corrected",
    "names_of",
]

# Texts that are held against the training set's tokens. In another order nearly each has a word that its place has not.
LOOKED_AT = 32


def check_arguments(tracin: Any, limit: Any, witnesses: Any, seed: Any, texts: Any) -> None:
    """Raise TypeError or ValueError where an argument is of another kind."""
    if not hasattr(tracin, "live_source"):
        raise TypeError(f"suspects: expected a TracInWE first, got {type(tracin).__name__}.")
    for name, value in (("limit", limit), ("witnesses", witnesses), ("seed", seed)):
        if not is_whole(value) or value < 0:
            raise ValueError(f"suspects: expected `{name}` as a whole number of at least 0, got {value!r}.")
    if texts is None:
        return
    wrong = [one for one in texts if not isinstance(one, TokenizedText)] if is_list(texts) else [texts]
    if wrong:
        raise TypeError(
            f"suspects: expected `texts` as a list of TokenizedText, got {type(wrong[0]).__name__}: make them with "
            f"captum_tracinwe.texts.tokenize(texts, tokenizer)."
        )


def check_folds(folds: Any, recipe: Any, out_of_fold: Any, seed: Any, tracin: Explained) -> None:
    """Raise unless both are given or neither, not besides what they are to make, and parts of the training set can be taken."""
    if folds is None and recipe is None:
        return
    if folds is None or recipe is None:
        given, other = ("folds", "recipe") if recipe is None else ("recipe", "folds")
        raise ValueError(
            f"suspects: `{given}` is given and `{other}` is not: expected both, as in folds=5, recipe=lambda train_dataset: "
            f"Trainer(...), or neither."
        )
    if out_of_fold is not None:
        raise ValueError(
            "suspects: both `out_of_fold` and a `recipe` to make it are given: expected one of the two. Leave out the other."
        )
    check_recipe(recipe, folds, seed)
    if tracin.live_source.examples.readable is None:
        raise ValueError(
            "suspects: `folds` needs a training set of which parts can be taken, and this `train_dataset` is a stream, or gives "
            "whole batches: expected a Dataset or a list of examples. Or train the folds yourself and pass out_of_fold=..."
        )


def corrected(labels: Tensor, right: Mapping[int, int] | None, classes: int) -> Tensor:
    """The labels, those of ``right`` in place of what was given."""
    if right is None:
        return labels
    if not isinstance(right, Mapping):
        raise TypeError(
            f"suspects: expected `right` as a mapping of training index to class number, got {type(right).__name__}."
        )
    labels = labels.clone()
    for index, label in right.items():
        if not is_whole(index) or not 0 <= index < len(labels):
            raise ValueError(f"suspects: `right` names training example {index!r}: expected 0 to {len(labels) - 1}.")
        if not is_whole(label) or not 0 <= label < classes:
            raise ValueError(
                f"suspects: `right` gives training example {index} the class {label!r}: expected a class number from 0 to "
                f"{classes - 1}."
            )
        labels[index] = label
    return labels


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ValueError where no label can be told to be wrong."""
    if classes < 2:
        raise ValueError(
            "suspects: the model knows one class: expected two or more, of which a label can be the wrong one."
        )
    present = torch.unique(labels)
    if len(present) < 2:
        raise ValueError(
            f"suspects: all {len(labels)} training examples have the label {int(present[0])}: expected at least two labels, by "
            f"which the texts of one tell those of another."
        )
    if len(labels) < classes:
        raise ValueError(
            f"suspects: {len(labels)} training examples and {classes} classes: expected as many examples at least, to tell what "
            f"the texts of a class have in common."
        )


def names_of(
    given: Sequence[str] | Mapping[int, str] | None,
    classes: int,
    tracin: Explained,
    whose: str = "suspects",
    argument: str = "class_names",
) -> list[str]:
    """One name for each class: those given, those of the model's config, or numbers."""
    if given is None:
        config = getattr(unwrap(tracin.live_source.live.weights.model), "config", None)
        given = getattr(config, "id2label", None)
        whole = isinstance(given, Mapping) and len({str(given.get(index)) for index in range(classes)}) == classes
        if not whole or not isinstance(given, Mapping) or any(index not in given for index in range(classes)):
            return [str(index) for index in range(classes)]
    if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
        raise TypeError(f"{whose}: expected `{argument}` as a list or a mapping, got {type(given).__name__}.")
    missing = [i for i in range(classes) if (i not in given if isinstance(given, Mapping) else i >= len(given))]
    if missing:
        raise ValueError(
            f"{whose}: `{argument}` lacks a name of class {missing[0]}: expected one for each of {classes}."
        )
    if len(given) > classes and not isinstance(given, Mapping):
        raise ValueError(
            f"{whose}: `{argument}` names {len(given)} classes: expected one name for each of {classes}, those of this model."
        )
    names = [str(given[index]) for index in range(classes)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{whose}: `{argument}` has {twice!r} twice: expected a name of its own for each class.")
    return names


def as_log_probabilities(given: Any, size: int, classes: int) -> Tensor | None:
    """What ``out_of_fold`` holds, float64 ``(M, K)``; None stays."""
    if given is None:
        return None
    if not isinstance(given, Tensor):
        raise TypeError(f"suspects: expected `out_of_fold` as a torch.Tensor, got {type(given).__name__}.")
    if tuple(given.shape) != (size, classes) or not given.is_floating_point():
        raise ValueError(
            f"suspects: `out_of_fold` is of shape {tuple(given.shape)} and type {given.dtype}: expected log-probabilities of "
            f"{size} training examples and {classes} classes, ({size}, {classes})."
        )
    if not bool(given.isfinite().all()):
        raise ValueError("suspects: `out_of_fold` holds NaN or infinite numbers: expected finite log-probabilities.")
    given = given.detach().cpu().double()
    if bool((given >= 0).all()) and bool(((given.sum(1) - 1).abs() < NEAR).all()):
        raise ValueError(
            "suspects: `out_of_fold` holds probabilities, which are 0 to 1 and add up to 1: expected their logarithms. Pass "
            "out_of_fold.clamp_min(1e-12).log()."
        )
    found: Tensor = given.log_softmax(1)
    return found


def check_texts(tracin: Explained, texts: Sequence[TokenizedText]) -> None:
    """Raise ValueError where texts are not those of the training set, in its order: some from all over it are looked at."""
    source = tracin.live_source
    chosen = spread(len(texts), LOOKED_AT)
    batches, held = source.examples.chosen(chosen)
    examples = TrainingSet(batches) if isinstance(batches, DataLoader) else None
    live = replace(source.live, top_k_words=None)
    rows = RowGradients.cat(
        list(live.token_blocks(batches, Asked(source.loss_fn, "training", held.__getitem__, examples)))
    )
    ids, ends = rows.ids.tolist(), rows.ptr.tolist()
    for place, index in enumerate(held):
        text = texts[index]
        known = {*text.token_ids, *((text.padding[0],) if text.padding else ())}
        unknown = next((token for token in ids[ends[place] : ends[place + 1]] if token not in known), None)
        if unknown is not None:
            raise ValueError(
                f"suspects: training example {index} has the token {unknown}, which its text ({text.text!r:.60}) does not hold: "
                f"expected `texts` in the training set's order, tokenized as in training, with the same max_length."
            )
