"""How a library that is missing is installed, said in one way everywhere."""

from __future__ import annotations

__all__ = ["install"]


def install(package: str, extra: str) -> str:
    """The end of a message: how to get ``package``, alone or by the extra of this package that has it.

    >>> install("scipy", "synonyms").partition(", or ")[0]
    'Install it: pip install scipy'
    """
    return (
        f"Install it: pip install {package}, or in a clone of captum_tracinwe: "
        f'pip install --no-build-isolation -c constraints.txt -e ".[{extra}]"'
    )
