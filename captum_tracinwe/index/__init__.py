"""Row gradients kept on disk, and the exact top-k found by reading a fraction of them: :class:`GradientIndex`."""

from captum_tracinwe.index.files.disk import IndexDamaged, IndexMismatch
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.pushed import pushed_by
from captum_tracinwe.index.search import SearchResult, SearchStats, merge_results

__all__ = [
    "GradientIndex",
    "IndexDamaged",
    "IndexMismatch",
    "SearchResult",
    "SearchStats",
    "merge_results",
    "pushed_by",
]
