"""The options `--json` and `--csv`."""

from __future__ import annotations

import argparse

__all__ = ["add"]


def add(command: argparse.ArgumentParser, table: str) -> None:
    """Add them to a command; ``table`` says what its CSV has."""
    told = "what was found as JSON; - for standard output, which then has nothing else"
    command.add_argument("--json", metavar="FILE", help=told)
    command.add_argument("--csv", metavar="FILE", help=f"{table}, for a spreadsheet; - for standard output")
