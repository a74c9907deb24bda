"""Which training examples, and which words in them, taught a language model this: TracIn on word embeddings."""

from typing import TYPE_CHECKING, Any

from captum_tracinwe import ops
from captum_tracinwe._version import __version__
from captum_tracinwe.checkpoints import load_checkpoint, save_checkpoint
from captum_tracinwe.postings import PostingLists
from captum_tracinwe.report import ReportedWord, WordReport, word_report
from captum_tracinwe.rows import RowGradients
from captum_tracinwe.synonyms import SynonymInfluence, WordMatch, synonym_influence, synonym_scores
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.words import WordInfluence, WordShare

if TYPE_CHECKING:
    from captum_tracinwe.index import GradientIndex, IndexDamaged, IndexMismatch, SearchResult

__all__ = [
    "GradientIndex",
    "IndexDamaged",
    "IndexMismatch",
    "PostingLists",
    "ReportedWord",
    "RowGradients",
    "SearchResult",
    "SynonymInfluence",
    "TracInWE",
    "WordInfluence",
    "WordMatch",
    "WordReport",
    "WordShare",
    "__version__",
    "load_checkpoint",
    "ops",
    "save_checkpoint",
    "synonym_influence",
    "synonym_scores",
    "word_report",
]


def __getattr__(name: str) -> Any:
    """The names of the index, whose modules are two fifths of the time of importing all: loaded when asked for."""
    if name in ("GradientIndex", "IndexDamaged", "IndexMismatch", "SearchResult"):
        from captum_tracinwe import index

        return getattr(index, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
