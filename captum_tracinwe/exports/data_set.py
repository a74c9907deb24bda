"""A table as a data set of the library `datasets`."""

from __future__ import annotations

from typing import Any

from captum_tracinwe.exports.tables import rows_in

__all__ = ["to_dataset"]


def to_dataset(table: Any) -> Any:
    """A ``datasets.Dataset`` with the rows and columns of a table; ``to_pandas()`` of it gives the table back.

    Args:
        table (DataFrame or list of dict): one of this module, a report's ``to_table()``, or a list of
            :meth:`captum_tracinwe.Explanation.tables`.

    Raises:
        ImportError: `datasets` is not installed.
        TypeError: it is no table.

    Example:
        >>> to_dataset([{"word": "film", "share": 0.5}])["word"][0]
        'film'
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError("to_dataset: `datasets` is not installed: pip install datasets.") from error
    rows = rows_in(table)
    names = [str(name) for name in getattr(table, "columns", rows[0] if rows else ())]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in names})
