"""Results in forms that others take: tables, CSV, `datasets`, Argilla, cleanlab, Spotlight, quanda, Captum, dattri, Bergson."""

from captum_tracinwe.exports.argilla import to_argilla
from captum_tracinwe.exports.data_set import to_dataset
from captum_tracinwe.exports.label_issues import ISSUE_COLUMNS, to_cleanlab
from captum_tracinwe.exports.quanda import quanda_explainer, to_quanda
from captum_tracinwe.exports.scores import to_bergson, to_captum, to_dattri
from captum_tracinwe.exports.tables import pairs_table, ranking_table, read_csv, shares_table, terms_table, to_csv

__all__ = [
    "ISSUE_COLUMNS",
    "pairs_table",
    "quanda_explainer",
    "ranking_table",
    "read_csv",
    "shares_table",
    "terms_table",
    "to_argilla",
    "to_bergson",
    "to_captum",
    "to_cleanlab",
    "to_csv",
    "to_dataset",
    "to_dattri",
    "to_quanda",
]
