"""Data sets that the datasets library reads: of the hub by name, saved on disk, or a folder of data files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captum_tracinwe.app.files.columnar import chosen, records_of
from captum_tracinwe.app.files.libraries import library, others_errors
from captum_tracinwe.app.files.problems import InputError, listed
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.files.rows import Records

__all__ = ["SAVED", "read"]

#: What stands in a folder that ``save_to_disk`` wrote.
SAVED = ("dataset_dict.json", "state.json")


def read(name: str, split: str | None, reading: Reading) -> Records:
    """The texts of one split."""
    shown = name if split is None else f"{name}:{split}"
    module = library("datasets", shown)
    with others_errors(shown, "datasets", "a data set"), _quiet(module), tempfile.TemporaryDirectory() as cache:
        found = _loaded(module, name, split, cache)
        if isinstance(found, dict):
            found = _of_split(found, name, split)
        elif split is not None and Path(name).is_dir():
            raise InputError(f"{shown}: one data set without splits; leave {':' + split!r} out.")
        names = chosen(shown, found.column_names, reading)
        columns = {column: list(found.with_format(None)[column]) for column in names}
        of_classes = getattr(found.features[reading.label_column], "names", None)
        del found  # it reads from the cache, which goes
    yield from records_of(columns, reading, of_classes)


def _loaded(module: Any, name: str, split: str | None, cache: str) -> Any:
    folder = Path(name)
    old = int(module.__version__.partition(".")[0]) < 4  # it runs code that a data set brings, or asks whether it may
    options = {"trust_remote_code": False} if old else {}
    if not folder.is_dir():
        return module.load_dataset(*name.split(":"), split=split, **options)  # its cache is kept: it was downloaded
    if any((folder / saved).is_file() for saved in SAVED):
        return module.load_from_disk(str(folder))
    return module.load_dataset(str(folder), cache_dir=cache, **options)


def _of_split(splits: Any, name: str, split: str | None) -> Any:
    """One of several splits.

    Raises:
        InputError: none is named, or one that is not there.
    """
    there = listed(splits, quoted=False)
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None:
        raise InputError(
            f"{name}: it has the splits {there}; expected one of them. Name it: {name}:{next(iter(splits))}."
        )
    if split not in splits:
        raise InputError(f"{name}:{split}: no such split; there are: {there}.")
    return splits[split]


@contextlib.contextmanager
def _quiet(module: Any) -> Iterator[None]:
    """Without its progress bars and its advice, then as before."""
    logging = module.logging
    before, bars = logging.get_verbosity(), module.is_progress_bar_enabled()
    logging.set_verbosity_error()
    module.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            module.enable_progress_bars()
