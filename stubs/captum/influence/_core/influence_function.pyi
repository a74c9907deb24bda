from typing import Any

NaiveInfluenceFunction: Any
