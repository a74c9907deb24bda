from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

def log_usage(*, part_of_slo: bool = False) -> Callable[[F], F]: ...
