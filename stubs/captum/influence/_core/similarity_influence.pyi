from typing import Any

SimilarityInfluence: Any
cosine_similarity: Any
