"""Which rows a text has: of the word table, of a bag-of-words layer that isn't there, of the words that it has to predict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from captum_tracinwe.batches.arguments import is_list

__all__ = ["Tables"]

# In the order of their columns.
NAMES = ("input", "bag", "output")


@dataclass(frozen=True)
class Tables:
    r"""The tables whose rows stand side by side in a row, and by what each part's scores are multiplied.

    - "input": g(x)_w, the gradient in the word table's row of w, by its look-ups. D columns.
    - "bag": (count of w among the look-ups) · ∂ℓ(x)/∂logits: the gradient of a layer V × K that leads from word counts straight
      to the logits and holds zeros, so that the model is unchanged. K columns.
    - "output": Σ over positions t that have to predict w of ∂ℓ(x)/∂logit_t(w) · h_t, h_t being what the output layer gets there:
      for cross-entropy (p_t(w) − 1) · h_t. As many columns as the output layer has inputs.

    Args:
        names (tuple of str): of the parts, in the order of their columns.
        shares (tuple of float): above 0; the score is Σ over parts of share · score of that part.
        equal (bool): instead, each part's scores are made as large as those of the first: on the question's side, so that rows
            are those of shares of 1.
    """

    names: tuple[str, ...] = ("input",)
    shares: tuple[float, ...] = (1.0,)
    equal: bool = False

    @classmethod
    def of(cls, table: Any, shares: Any = None) -> Tables:
        """As ``TracInWE(table=, shares=)`` names them.

        Raises:
            ValueError, TypeError: an unknown name, one named twice, or shares that are not one number above 0 for each.
        """
        known = "'input', 'output', 'bag', a tuple of these, or 'both' for ('input', 'output')"
        if isinstance(table, str) and table == "both":
            table = ("input", "output")
        given = (table,) if isinstance(table, str) else table
        if not isinstance(given, (tuple, list)) or not given or not all(isinstance(name, str) for name in given):
            raise TypeError(f"`table` should be {known}; got {table!r:.80}.")
        for name in given:
            if name == "both":
                raise ValueError(f"`table` names 'both' among others ({table!r}): expected {known}.")
            if name not in NAMES:
                raise ValueError(f"`table` names {name!r}: expected {known}.")
            if given.count(name) > 1:
                raise ValueError(
                    f"`table` names {name!r} twice ({table!r}): expected each once; what it weighs, `shares` says."
                )
        of_each = dict(zip(given, _checked(shares, given), strict=True))
        names = tuple(name for name in NAMES if name in of_each)
        return cls(names, tuple(of_each[name] for name in names), len(names) > 1 and _is_equal(shares))

    @classmethod
    def parse(cls, text: str) -> Tables:
        """Of what ``str`` makes of them, as an index keeps it."""
        shares = {}
        for part in text.split(" + "):
            share, _, name = part.rpartition(" ")
            shares[name] = float(share or 1)
        return cls(tuple(shares), tuple(shares.values()))

    def factor(self, name: str) -> float:
        """By what a part's rows are multiplied on either side: √share."""
        return math.sqrt(self.shares[self.names.index(name)])

    @property
    def first(self) -> Tables:
        """The first table alone."""
        return Tables(self.names[:1], self.shares[:1])

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @property
    def plain(self) -> bool:
        """Whether rows are those of the word table alone."""
        return self.names == ("input",)

    @property
    def of_text(self) -> bool:
        """Whether every word that the model looks up has a row."""
        return "input" in self or "bag" in self

    def __str__(self) -> str:
        return " + ".join(
            name if share == 1 else f"{share!r} {name}" for name, share in zip(self.names, self.shares, strict=True)
        )


def _is_equal(shares: Any) -> bool:
    return isinstance(shares, str) and shares == "equal"


def _checked(shares: Any, names: tuple[str, ...] | list[str]) -> tuple[float, ...]:
    if shares is None or _is_equal(shares):
        return (1.0,) * len(names)
    given = tuple(shares) if is_list(shares) and not isinstance(shares, (str, bytes, set)) else None
    numbers = given is not None and all(isinstance(share, Real) and not isinstance(share, bool) for share in given)
    if given is None or not numbers or len(given) != len(names) or not all(0 < share < math.inf for share in given):
        raise ValueError(
            f'`shares` should be one number above 0 for each of the {len(names)} tables ({", ".join(names)}), "equal", or None '
            f"for 1 each; got {shares!r:.80}. A table that should not count is left out of `table`."
        )
    return tuple(float(share) for share in given)
