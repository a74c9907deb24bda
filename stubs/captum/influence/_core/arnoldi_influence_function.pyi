from typing import Any

ArnoldiInfluenceFunction: Any
