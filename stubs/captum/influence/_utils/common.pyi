from typing import NamedTuple

from torch import Tensor

class KMostInfluentialResults(NamedTuple):
    indices: Tensor
    influence_scores: Tensor
