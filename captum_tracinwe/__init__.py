"""Which training examples, and which words in them, taught a language model this: TracIn on word embeddings."""

from typing import TYPE_CHECKING, Any

from captum_tracinwe.app import stops  # noqa: F401  # isort: skip  # first: torch takes a second or two
from captum_tracinwe import short_names
from captum_tracinwe.checkpoints import load_checkpoint, save_checkpoint
from captum_tracinwe.rows import PostingLists, RowGradients, ops
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.words import (
    ReportedWord,
    SynonymInfluence,
    WordInfluence,
    WordMatch,
    WordReport,
    WordShare,
    synonym_influence,
    synonym_scores,
    word_report,
)
from captum_tracinwe.words.drawing import drawn_by

if TYPE_CHECKING:
    from captum_tracinwe.explanation import Explanation, explain
    from captum_tracinwe.index import GradientIndex, IndexDamaged, IndexMismatch, SearchResult
    from captum_tracinwe.labels import Suspect, Suspects, suspects

__version__ = "0.1.0"
__all__ = [
    "Explanation",
    "GradientIndex",
    "IndexDamaged",
    "IndexMismatch",
    "PostingLists",
    "ReportedWord",
    "RowGradients",
    "SearchResult",
    "Suspect",
    "Suspects",
    "SynonymInfluence",
    "TracInWE",
    "WordInfluence",
    "WordMatch",
    "WordReport",
    "WordShare",
    "__version__",
    "explain",
    "load_checkpoint",
    "ops",
    "save_checkpoint",
    "suspects",
    "synonym_influence",
    "synonym_scores",
    "word_report",
]

drawn_by("captum_tracinwe.visualization")


def __getattr__(name: str) -> Any:
    """When asked for: short names, and those of rooms whose modules are half of the time of importing all."""
    if name in ("GradientIndex", "IndexDamaged", "IndexMismatch", "SearchResult"):
        from captum_tracinwe import index

        return getattr(index, name)
    if name in ("Explanation", "explain"):
        from captum_tracinwe import explanation

        return getattr(explanation, name)
    if name in ("Suspect", "Suspects", "suspects"):
        from captum_tracinwe import labels

        return getattr(labels, name)
    return short_names.module(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *short_names.HOMES, *globals()} - {"Any", "TYPE_CHECKING", "drawn_by"})
