"""Do scores tell the truth? Evaluation that knows scores and never the method they come from."""

from captum_tracinwe.evaluation.deletion import (
    PAPER_GRID,
    DeletionCurve,
    auc_del,
    deletion_curve,
    deletion_curves,
    separation,
)
from captum_tracinwe.evaluation.intervals import Interval, bootstrap

__all__ = [
    "PAPER_GRID",
    "DeletionCurve",
    "Interval",
    "auc_del",
    "bootstrap",
    "deletion_curve",
    "deletion_curves",
    "separation",
]
