"""Results in forms that others take: tables, CSV, `datasets`, records of Argilla, columns of cleanlab and Spotlight."""

from captum_tracinwe.exports.argilla import to_argilla
from captum_tracinwe.exports.data_set import to_dataset
from captum_tracinwe.exports.label_issues import ISSUE_COLUMNS, to_cleanlab
from captum_tracinwe.exports.tables import pairs_table, ranking_table, read_csv, shares_table, terms_table, to_csv

__all__ = [
    "ISSUE_COLUMNS",
    "pairs_table",
    "ranking_table",
    "read_csv",
    "shares_table",
    "terms_table",
    "to_argilla",
    "to_cleanlab",
    "to_csv",
    "to_dataset",
]
