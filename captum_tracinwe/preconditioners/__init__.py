"""What multiplies a question's rows before they meet the training rows; the training rows, and an index, stay as they are.

A preconditioner that learns from the training rows (`learned.py`) is a file here; `names.py` has those that go by a name.
`Length` is by what scores are divided.
"""

from captum_tracinwe.preconditioners.adam import Adam
from captum_tracinwe.preconditioners.cooccurrence import Cooccurrence
from captum_tracinwe.preconditioners.ekfac import Ekfac
from captum_tracinwe.preconditioners.gauss_newton import GaussNewton
from captum_tracinwe.preconditioners.idf import Idf
from captum_tracinwe.preconditioners.kfac import Kfac
from captum_tracinwe.preconditioners.length import Length
from captum_tracinwe.preconditioners.names import chosen, named
from captum_tracinwe.preconditioners.preconditioner import (
    Identity,
    Preconditioner,
    Unfitted,
    WordToWord,
    applied,
    applied_back,
    leads_from_word_to_word,
    words_of,
)
from captum_tracinwe.preconditioners.row_fisher import RowFisher
from captum_tracinwe.preconditioners.shares import EqualShares

__all__ = [
    "Adam",
    "Cooccurrence",
    "Ekfac",
    "EqualShares",
    "GaussNewton",
    "Identity",
    "Idf",
    "Kfac",
    "Length",
    "Preconditioner",
    "RowFisher",
    "Unfitted",
    "WordToWord",
    "applied",
    "applied_back",
    "chosen",
    "leads_from_word_to_word",
    "named",
    "words_of",
]
