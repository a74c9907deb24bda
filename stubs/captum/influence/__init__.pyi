from typing import Any

ArnoldiInfluenceFunction: Any
NaiveInfluenceFunction: Any
SimilarityInfluence: Any
TracInCP: Any
TracInCPFast: Any
TracInCPFastRandProj: Any
