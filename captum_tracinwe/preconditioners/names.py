"""Preconditioners by name, with the settings that did best in the trials so far."""

from __future__ import annotations

from typing import Any

from captum_tracinwe.preconditioners.cooccurrence import Cooccurrence
from captum_tracinwe.preconditioners.ekfac import Ekfac
from captum_tracinwe.preconditioners.gauss_newton import GaussNewton
from captum_tracinwe.preconditioners.idf import Idf
from captum_tracinwe.preconditioners.kfac import Kfac
from captum_tracinwe.preconditioners.learned import Learned
from captum_tracinwe.preconditioners.preconditioner import Identity, Preconditioner
from captum_tracinwe.preconditioners.row_fisher import RowFisher

__all__ = ["NAMES", "chosen", "named"]

#: Name → the preconditioner, not fitted yet.
NAMES: dict[str, Learned[Any]] = {
    "idf": Idf(power=2.0),
    "fisher": RowFisher(damping=0.1),
    "kfac": Kfac(damping=0.1),
    "ekfac": Ekfac(damping=0.1),
    "cooccurrence": Cooccurrence(power=2.0, damping=0.005),
    "exact": GaussNewton(damping=10.0),
}


def named(name: str) -> Learned[Any]:
    """The preconditioner of a name, to be fitted.

    Raises:
        ValueError: there is none of this name.

    Example:
        >>> named("idf")
        Idf(power=2.0)
    """
    if name not in NAMES:
        raise ValueError(
            f"There is no preconditioner {name!r}: expected one of {', '.join(map(repr, NAMES))}, 'auto', an object of "
            f"captum_tracinwe.preconditioners, or None for plain TracIn-WE."
        )
    return NAMES[name]


def chosen(given: Any) -> Preconditioner:
    """As ``TracInWE(preconditioner=)`` names it: a name, an object, or None for rows as they are.

    Raises:
        ValueError, TypeError: there is none of this name, or it is something else.
    """
    if given is None:
        return Identity()
    if isinstance(given, str):
        return named(given)
    if isinstance(given, type):
        raise TypeError(
            f"`preconditioner` is the class {given.__name__}: expected an object. Make one of it: {given.__name__}(...)."
        )
    if not all(callable(getattr(given, name, None)) for name in ("apply", "at")):
        raise TypeError(
            f"`preconditioner` should be a name such as 'idf', an object with apply(rows) and at(checkpoint), as in "
            f"captum_tracinwe.preconditioners, or None; got {given!r:.80}."
        )
    found: Preconditioner = given
    return found
