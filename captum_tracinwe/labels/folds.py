"""What a recipe's model says of texts that it was not trained on: the recipe is run once for each fold."""

from __future__ import annotations

import copy
import gc
import os
import random
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.batches.batch import labels_of
from captum_tracinwe.batches.data_sets import of_columns, one_split
from captum_tracinwe.gradients.seen import is_open, shows_bars

__all__ = ["check_recipe", "duration", "out_of_fold", "parts"]

# What a Trainer is asked with, whatever its own arguments are: all texts, one after the other, and the logits.
ASKED = {
    "dataloader_drop_last": False,
    "prediction_loss_only": False,
    "eval_do_concat_batches": True,
    "group_by_length": False,  # transformers 4
    "train_sampling_strategy": "random",  # transformers 5; texts to be predicted are sorted by length as those of training
}
# Bytes of a model that is worth the second that a look for what nobody needs any more takes.
LARGE = 64 << 20


def out_of_fold(
    make_trainer: Callable[[Any], Any],
    dataset: Any,
    folds: int = 5,
    seed: int = 0,
    show_progress: bool | None = False,
    *,
    labels: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """What the model says of each training text when it was trained without it; as many trainings as there are folds.

    When the first fold is done, a line on stderr says how long all will take. Each class of two and more texts stands in each
    training part. The generators of torch, NumPy and Python are seeded before each fold and put back afterwards.

    Nothing is saved here; what the Trainer saves is up to its ``TrainingArguments``. Give it ``save_strategy="no"``, or an
    ``output_dir`` of its own: one that holds checkpoints of another run is refused before they are written over.

    Args:
        make_trainer (callable): the recipe, ``(train_dataset) -> transformers.Trainer``: it makes a fresh model, or loads one
            that was not trained on these texts, and a Trainer of it, not trained yet, with what it is called with as training
            set. That is a part of ``dataset``, of the same kind; of a DataFrame its rows as mappings.
        dataset (Dataset, list or DataFrame): M examples as the Trainer takes them.
        folds (int): parts, each of which is asked about once.
        seed (int): of the folds, and of each fold's training.
        show_progress (bool): a bar over the folds.
        labels (Tensor or sequence of int, optional): class number of each example; by default those in the examples, under
            ``labels`` or ``label``, or last in a tuple.

    Returns:
        Tensor: log-probabilities, float64 ``(M, K)``, for :func:`captum_tracinwe.suspects` (``out_of_fold=...``). Of one logit
        K is 2.

    Raises:
        ValueError: fewer examples than folds, one label, labels that are no class numbers; a recipe that gives a model twice or a
            trained one, or trains on all examples; predictions that are not finite logits ``(m, K)`` in the order of the texts.
        TypeError: something else than a recipe or a data set is given.

    Example:
        >>> import torch
        >>> from contextlib import redirect_stdout
        >>> data = [{"input_ids": torch.tensor([i % 2 + 1] * 3), "labels": i % 2} for i in range(8)]
        >>> def recipe(part):
        ...     from transformers import Trainer, TrainingArguments
        ...     from captum_tracinwe.testing import tiny_bert
        ...     how = TrainingArguments("run", max_steps=2, save_strategy="no", report_to=[], disable_tqdm=True)
        ...     return Trainer(tiny_bert(classes=2), how, train_dataset=part)
        >>> with redirect_stdout(None):  # a Trainer prints its losses
        ...     told = out_of_fold(recipe, data, folds=2)
        >>> told.shape
        torch.Size([8, 2])
    """
    check_recipe(make_trainer, folds, seed)
    examples = _examples(dataset)
    size = len(examples)
    if size < folds:
        raise ValueError(f"out_of_fold: {size} examples and {folds} folds: expected an example at least for each fold.")
    classes = _labels(examples, size, labels)
    fold = parts(classes, folds, seed)
    seen = _Seen()
    found: Tensor | None = None
    import transformers.trainer  # noqa: F401  (seconds that are no part of a fold's cost)

    started = time.perf_counter()
    with _as_before(), _bar(folds, show_progress) as bar:
        for number in range(folds):
            _seed(seed + number)
            held = (fold == number).nonzero().flatten()
            told = _told(make_trainer, examples, (fold != number).nonzero().flatten(), held, classes, seen)
            if found is None:
                found = torch.full((size, told.shape[1]), torch.nan, dtype=torch.float64)
                _say_cost(time.perf_counter() - started, folds)
            if told.shape[1] != found.shape[1]:
                raise ValueError(
                    f"out_of_fold: the recipe's model has {found.shape[1]} classes in one fold and {told.shape[1]} in another: "
                    f"expected the same. Give it the number of classes of all texts."
                )
            found[held] = told
            bar.update()
    assert found is not None
    return found


def parts(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each text, int64 ``(M,)``: classes are dealt out in turn, so that no fold holds all texts of one."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty(len(labels), dtype=torch.long)
    fold[order] = torch.arange(len(labels)) % folds
    return fold


def check_recipe(make_trainer: Any, folds: Any, seed: Any) -> None:
    """Raise unless these can be a recipe, a number of folds and a seed."""
    if not callable(make_trainer) or hasattr(make_trainer, "train_dataset"):
        raise TypeError(
            f"out_of_fold: expected a recipe, a function (train_dataset) -> Trainer that makes a fresh model each time, got "
            f"{type(make_trainer).__name__}."
        )
    if not is_whole(folds) or folds < 2:
        raise ValueError(f"out_of_fold: expected `folds` as a whole number of at least 2, got {folds!r}.")
    if not is_whole(seed) or seed < 0:
        raise ValueError(f"out_of_fold: expected `seed` as a whole number of at least 0, got {seed!r}.")


# ------------------------------------------------------------------------------------------------------ the examples


def _examples(dataset: Any) -> Any:
    found = one_split(dataset, "dataset")
    if isinstance(found, Mapping):
        return of_columns(found, "dataset")
    if hasattr(dataset, "iloc") and hasattr(dataset, "columns"):
        # Numbers of Python, not of numpy: the collator of transformers 4 makes floats of labels that are of numpy.
        return [
            {name: value.item() if isinstance(value, numpy.generic) else value for name, value in found[i].items()}
            for i in range(len(found))
        ]
    readable = hasattr(found, "__len__") and hasattr(found, "__getitem__")
    if isinstance(found, (DataLoader, IterableDataset, str, bytes)) or not readable:
        raise TypeError(
            f"out_of_fold: `dataset` of type {type(found).__name__} has no examples by number: expected a map-style Dataset, a "
            f"list or a DataFrame, of which parts can be taken. Pass list(...) of a stream, loader.dataset of a DataLoader."
        )
    return found


def _some(examples: Any, indices: Tensor) -> Any:
    """A part of the examples, of the kind that they are."""
    chosen = indices.tolist()
    if hasattr(examples, "select") and hasattr(examples, "column_names"):  # datasets.Dataset
        return examples.select(chosen)
    return [examples[index] for index in chosen] if isinstance(examples, (list, tuple)) else Subset(examples, chosen)


def _labels(examples: Any, size: int, given: Any) -> Tensor:
    """The class number of each example, int64 ``(M,)``."""
    if given is not None and len(given) != size:
        raise ValueError(f"out_of_fold: {len(given)} labels and {size} examples: expected one for each.")
    found = []
    for index in range(size):
        label = _label(examples[index]) if given is None else given[index]
        if label is None:
            raise ValueError(
                f"out_of_fold: example {index} has no label under `labels` or `label`: expected a class number in each. Pass "
                f"labels=[...], one for each example."
            )
        single = label.numel() == 1 if isinstance(label, Tensor) else numpy.size(label) == 1 and hasattr(label, "item")
        number = label.item() if single else label
        if not isinstance(number, (int, float)) or not float(number).is_integer() or number < 0:
            raise ValueError(
                f"out_of_fold: the label of example {index} is {label!r:.60}: expected a class number from 0, one for each "
                f"example."
            )
        found.append(int(number))
    labels = torch.tensor(found)
    if len(torch.unique(labels)) < 2:
        raise ValueError(
            f"out_of_fold: all {size} examples have the label {found[0]}: expected at least two labels to tell apart."
        )
    return labels


def _label(example: Any) -> Any:
    return labels_of(example) if isinstance(example, (Mapping, tuple, list)) else None


# --------------------------------------------------------------------------------------------------------- one fold


class _Seen:
    """Of the folds before: whose parameters, what they had become, and where checkpoints were saved."""

    def __init__(self) -> None:
        self.parameters: list[weakref.ref[Any]] = []
        self.trained: set[tuple[float, ...]] = set()
        self.folders: set[Path] = set()

    def refuse(self, trainer: Any) -> tuple[float, ...]:
        """Raise ValueError unless the Trainer's model is fresh and its checkpoints replace no others; the model's sums."""
        own = {id(parameter) for parameter in trainer.model.parameters()}
        sums = _sums(trainer.model)
        if any(id(there()) in own for there in self.parameters if there() is not None) or sums in self.trained:
            raise ValueError(
                "out_of_fold: the recipe gave a model that a fold before has trained, and that has seen the texts which it is "
                "asked about: expected fresh weights at each call. Make or load the model within the recipe."
            )
        folder = Path(trainer.args.output_dir or ".").resolve()
        saves = getattr(trainer.args.save_strategy, "value", trainer.args.save_strategy) != "no"
        if saves and folder not in self.folders and any(folder.glob("checkpoint-*")):
            raise ValueError(
                f"out_of_fold: the recipe saves checkpoints in {str(folder)!r}, which holds those of another run: expected that "
                f"none is written over. Give it TrainingArguments(save_strategy='no'), or an output_dir of its own."
            )
        self.folders.add(folder)
        return sums

    def note(self, model: Any, before: tuple[float, ...]) -> None:
        """What the next fold must not begin with."""
        self.parameters = [there for there in self.parameters if there() is not None]
        self.parameters += [weakref.ref(parameter) for parameter in model.parameters()]
        after = _sums(model)
        if after != before:  # else nothing was learned, and a fresh model is the same
            self.trained.add(after)


def _sums(model: Any) -> tuple[float, ...]:
    """The weights, as far as a sum of each tells."""
    return tuple(float(one.detach().double().sum()) for one in model.parameters() if one.is_floating_point())


def _told(
    make_trainer: Callable[[Any], Any], examples: Any, taught: Tensor, held: Tensor, classes: Tensor, seen: _Seen
) -> Tensor:
    """Log-probabilities ``(m, K)`` of the texts held out."""
    given = _some(examples, taught)
    trainer = make_trainer(given)
    if not all(hasattr(trainer, name) for name in ("train", "predict", "model", "args")):
        raise TypeError(
            f"out_of_fold: the recipe gave a {type(trainer).__name__}: expected a transformers.Trainer, not trained yet, of the "
            f"training set that it is called with."
        )
    own: Any = getattr(trainer, "train_dataset", None)
    if own is examples or (own is not given and hasattr(own, "__len__") and len(own) >= len(examples)):
        raise ValueError(
            f"out_of_fold: the recipe's Trainer is to be trained on {len(own)} examples and was given {len(given)}: expected the "
            f"training set that the recipe is called with. Pass train_dataset=<its argument>."
        )
    before = seen.refuse(trainer)
    trainer.train()
    given_arguments, trainer.args = trainer.args, copy.copy(trainer.args)
    try:
        for name, value in ASKED.items():
            if hasattr(trainer.args, name):
                setattr(trainer.args, name, value)
        output = trainer.predict(_some(examples, held))
    finally:
        trainer.args = given_arguments
    seen.note(trainer.model, before)
    told = _log_probabilities(output.predictions, held, classes)
    _refuse_other_order(output.label_ids, held, classes)
    large = sum(parameter.nbytes for parameter in trainer.model.parameters()) > LARGE
    del trainer
    if large:  # a Trainer is in circles, and would hold its model beside the next one
        gc.collect()
    return told


def _log_probabilities(predictions: Any, held: Tensor, classes: Tensor) -> Tensor:
    first = predictions[0] if isinstance(predictions, (tuple, list)) and predictions else predictions
    logits = torch.as_tensor(first) if isinstance(first, (numpy.ndarray, Tensor)) else None
    if logits is not None and logits.dim() == 1:
        logits = logits[:, None]
    if logits is None or logits.dim() != 2 or len(logits) != len(held) or not logits.is_floating_point():
        got = type(first).__name__ if logits is None else f"{tuple(logits.shape)} of {logits.dtype}"
        raise ValueError(
            f"out_of_fold: the Trainer's predictions of {len(held)} examples are {got}: expected logits ({len(held)}, K). Leave "
            f"out preprocess_logits_for_metrics; a model of more outputs should give its logits first."
        )
    logits = logits.detach().cpu().double()
    bad = (~logits.isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(
            f"out_of_fold: the prediction of example {int(held[bad[0]])} is NaN or infinite: expected finite logits. Training "
            f"without its fold has diverged: look at the recipe's learning rate."
        )
    if logits.shape[1] == 1:  # one logit, of class 1
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    if int(classes.max()) >= logits.shape[1]:
        raise ValueError(
            f"out_of_fold: the label {int(classes.max())}, and the recipe's model has {logits.shape[1]} classes: expected labels "
            f"from 0 to {logits.shape[1] - 1}."
        )
    return logits.log_softmax(1)


def _refuse_other_order(told: Any, held: Tensor, classes: Tensor) -> None:
    """Raise ValueError where the labels that came with the predictions are those of other texts."""
    if not isinstance(told, numpy.ndarray) or told.size != len(held):
        return
    other = (torch.as_tensor(told).flatten() != classes[held]).nonzero()
    if len(other):
        raise ValueError(
            f"out_of_fold: beside the prediction of example {int(held[other[0]])} the Trainer has the label "
            f"{told.flatten()[int(other[0])]}, and the example has {int(classes[held[other[0]]])}: expected predictions in the "
            f"order of the texts. Leave out samplers of its own for predictions, and labels that the collator changes."
        )


# --------------------------------------------------------------------------------------------- what is left as it was


@contextmanager
def _as_before() -> Iterator[None]:
    """The generators and the working directory are after the block what they were before; other threads' are the same ones."""
    of_python, of_numpy = random.getstate(), numpy.random.get_state()  # noqa: NPY002  (the one that a Trainer seeds)
    folder = os.getcwd()
    try:
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            yield
    finally:
        random.setstate(of_python)
        numpy.random.set_state(of_numpy)  # noqa: NPY002
        os.chdir(folder)


def _seed(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def _bar(folds: int, show_progress: bool | None) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=folds, desc="Training folds", leave=False, disable=not shows_bars(show_progress))


def _say_cost(seconds: float, folds: int) -> None:
    if is_open(sys.stderr):
        print(
            f"out_of_fold: the first of {folds} folds took {duration(seconds)}, all take about {duration(folds * seconds)}.",
            file=sys.stderr,
        )


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
