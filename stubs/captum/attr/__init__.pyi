from typing import Any

visualization: Any
