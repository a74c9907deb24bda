"""Which training examples, and which words in them, taught a language model this: TracIn on word embeddings."""

from captum_tracinwe import ops
from captum_tracinwe._version import __version__
from captum_tracinwe.checkpoints import load_checkpoint, save_checkpoint
from captum_tracinwe.index import GradientIndex, IndexDamaged, IndexMismatch, SearchResult
from captum_tracinwe.postings import PostingLists
from captum_tracinwe.report import ReportedWord, WordReport, word_report
from captum_tracinwe.rows import RowGradients
from captum_tracinwe.synonyms import SynonymInfluence, WordMatch, synonym_influence, synonym_scores
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.words import WordInfluence, WordShare

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
