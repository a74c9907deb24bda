"""A request that is not answered, with its status and the reason that its sender is told."""

from __future__ import annotations

from collections.abc import Mapping

from captum_tracinwe.tabular import json_text
from captum_tracinwe.words.legible import as_line

__all__ = ["Refused"]


class Refused(Exception):
    """A request that is not answered.

    Args:
        status (int): of HTTP.
        message (str): what was given, what was expected, the way out; never a path of this machine.
        headers (mapping): of the answer, such as Retry-After.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {} if headers is None else dict(headers)

    @property
    def body(self) -> bytes:
        """The JSON that is sent, in ASCII."""
        return json_text({"error": as_line(self.message)}, ascii_only=True).encode() + b"\n"
