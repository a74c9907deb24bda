"""Do scores tell the truth? Evaluation that knows scores and never the method they come from."""

from captum_tracinwe.evidence.evaluation.agreement import agreement_table, spearman, top_k_agreement
from captum_tracinwe.evidence.evaluation.cancelling import cancellation, example_gradients, step_cancellation
from captum_tracinwe.evidence.evaluation.datamodels import lds, random_subsets
from captum_tracinwe.evidence.evaluation.deletion import (
    PAPER_GRID,
    DeletionCurve,
    auc_del,
    deletion_curve,
    deletion_curves,
    separation,
)
from captum_tracinwe.evidence.evaluation.intervals import Interval, bootstrap, bootstrap_mean
from captum_tracinwe.evidence.evaluation.mistakes import Mistakes, fixing_mistakes, without_opponents
from captum_tracinwe.evidence.evaluation.noise import (
    NoiseCurve,
    RocCurve,
    aggregate,
    auc_ndr,
    ndr,
    noise_detection_curve,
    noise_intervals,
    roc_auc,
    roc_curve,
)
from captum_tracinwe.evidence.evaluation.words import WordDeletion, another_word, word_deletion

__all__ = [
    "PAPER_GRID",
    "DeletionCurve",
    "Interval",
    "Mistakes",
    "NoiseCurve",
    "RocCurve",
    "WordDeletion",
    "aggregate",
    "agreement_table",
    "another_word",
    "auc_del",
    "auc_ndr",
    "bootstrap",
    "bootstrap_mean",
    "cancellation",
    "deletion_curve",
    "deletion_curves",
    "example_gradients",
    "fixing_mistakes",
    "lds",
    "ndr",
    "noise_detection_curve",
    "noise_intervals",
    "random_subsets",
    "roc_auc",
    "roc_curve",
    "separation",
    "spearman",
    "step_cancellation",
    "top_k_agreement",
    "without_opponents",
    "word_deletion",
]
