"""The training data of a Trainer, as its class reads them: their data set and collator, in the data set's own order."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from captum_tracinwe.batches.chance import chance_as_before
from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.batches.loaders import in_order
from captum_tracinwe.batches.orders import flat
from captum_tracinwe.batches.repeats import some_of
from captum_tracinwe.gradients.several_texts import is_sentence_transformer

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["training_loader"]

# So many examples of two data sets are held against each other.
EXAMPLES = 8


def training_loader(trainer: Trainer, batch_size: int, label_names: Sequence[str]) -> DataLoader[Any]:
    """The batches of a Trainer's training data, in order; what its class does to them that cannot be done here is said.

    Where it makes its own training loader, that one's data set and collator are taken. The evaluation loader is never asked:
    it may have another collator, or keep that of another data set.

    Raises:
        TypeError: its training loader is no DataLoader.
    """
    own = _overridden(trainer, "get_train_dataloader", "_get_dataloader")
    dataset, collate_fn, sampler = _as_trainer_does(trainer)
    if own:
        loader = trainer.get_train_dataloader()
        if not isinstance(loader, DataLoader):
            raise TypeError(
                f"from_trainer: the Trainer's {own[0]} gives a {type(loader).__name__}: expected a torch DataLoader, whose data "
                f"set and collator are read in order. Pass train_dataset=DataLoader(...), in a fixed order."
            )
        if not _same_examples(loader.dataset, trainer.train_dataset):
            warnings.warn(
                f"from_trainer: the Trainer's {own[0]} reads another data set ({type(loader.dataset).__name__}) than its "
                f"train_dataset, or the same examples otherwise: an index is that of an example in it, which is "
                f"tracin.train_dataloader.dataset here.",
                stacklevel=4,
            )
        dataset, collate_fn = loader.dataset, loader.collate_fn
        batch_size = batch_size if loader.batch_sampler is not None else None  # type: ignore[assignment]
        sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    elif _overridden(trainer, "_get_train_sampler"):
        takes_data = inspect.signature(trainer._get_train_sampler).parameters  # as transformers 4.50 begins to give it
        sampler = trainer._get_train_sampler(*([dataset] if takes_data else []))
    _say_uneven(sampler, dataset)
    changed = _overridden(trainer, "_prepare_inputs", "training_step")
    if changed:
        warnings.warn(
            f"from_trainer: the Trainer changes its batches on their way to the model ({', '.join(changed)} of its class), which "
            f"is not done here: gradients may not be those of training. Have collate_fn or the data set do it.",
            stacklevel=4,
        )
    # Trainer takes them from its data; `inputs` come as the user has them. Columns of sentences are named after the texts'.
    if batch_size and trainer.args.remove_unused_columns and not is_sentence_transformer(trainer.model):
        collate_fn = Collate(trainer.model, label_names=label_names, collate_fn=collate_fn)
    return in_order(dataset, batch_size, collate_fn)


def _as_trainer_does(trainer: Trainer) -> tuple[Any, Any, Any]:
    """Data set and collator as `Trainer` itself hands them to its loaders, without columns that the model does not take."""
    from transformers.utils import is_datasets_available

    dataset, collate_fn = trainer.train_dataset, trainer.data_collator
    if is_sentence_transformer(trainer.model):  # its columns are texts, of which its collator takes all
        return dataset, collate_fn, None
    if is_datasets_available() and isinstance(dataset, importlib.import_module("datasets").Dataset):
        return trainer._remove_unused_columns(dataset, description="training"), collate_fn, None
    return dataset, trainer._get_collator_with_removed_columns(collate_fn, description="training"), None


def _overridden(trainer: Trainer, *names: str) -> list[str]:
    """Those methods of a Trainer that are not transformers' own."""
    from transformers import Trainer as Original

    there = [name for name in names if hasattr(Original, name)]  # `_get_dataloader` came late in transformers 4
    return [name for name in there if getattr(getattr(trainer, name), "__func__", None) is not getattr(Original, name)]


def _same_examples(some: Any, others: Any) -> bool:
    """Whether two data sets hold the same examples, as far as a few of them and their common columns tell."""
    if some is others:
        return True
    if isinstance(some, IterableDataset) or isinstance(others, IterableDataset):
        return False
    with chance_as_before():
        try:
            return len(some) == len(others) and all(
                _same(one, others[index]) for index, one in some_of(some, EXAMPLES).items()
            )
        except Exception:  # they cannot be compared
            return False


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        shared = one.keys() & other.keys()
        return bool(shared) and all(_same(one[key], other[key]) for key in shared)
    if isinstance(one, (str, type(None))):
        return bool(one == other)
    if isinstance(one, (tuple, list)) and not all(isinstance(item, (int, float)) for item in one):
        return len(one) == len(other) and all(map(_same, one, other))
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def _say_uneven(sampler: Any, dataset: Any) -> None:
    """Warn where a sampler draws an epoch otherwise than each example once: here each gets one score, drawn or not."""
    while sampler is not None and (hasattr(sampler, "batch_sampler") or hasattr(sampler, "sampler")):
        sampler = getattr(sampler, "batch_sampler", None) or sampler.sampler
    if sampler is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return
    size = len(dataset)
    with chance_as_before():
        drawn = list(islice(flat(sampler), 4 * size))
    if sorted(drawn) != list(range(size)):
        warnings.warn(
            f"from_trainer: the Trainer's sampler ({type(sampler).__name__}) draws {len(set(drawn))} of {size} examples "
            f"in an epoch, {len(drawn)} times in all: here each example counts as often as any other. Where only some are meant, "
            f"set trainer.train_dataset to a torch.utils.data.Subset of them.",
            stacklevel=5,
        )
