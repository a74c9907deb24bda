"""Row gradients: what every score is made of, token by token, and their dot products."""

from captum_tracinwe.rows import ops
from captum_tracinwe.rows.postings import PostingLists
from captum_tracinwe.rows.ranking import merge_top_k, top_k
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["PostingLists", "RowGradients", "merge_top_k", "ops", "top_k"]
