"""What one of our preconditioners was told, as plain data: by it, what it learned of some rows can be known again."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from captum_tracinwe.preconditioners.cooccurrence import Cooccurrence
from captum_tracinwe.preconditioners.ekfac import Ekfac
from captum_tracinwe.preconditioners.gauss_newton import GaussNewton
from captum_tracinwe.preconditioners.idf import Idf
from captum_tracinwe.preconditioners.kfac import Kfac
from captum_tracinwe.preconditioners.learned import Learned
from captum_tracinwe.preconditioners.preconditioner import Identity, Preconditioner
from captum_tracinwe.preconditioners.row_fisher import RowFisher

__all__ = ["Plain", "settings_of"]

#: What says itself, and is told apart by how it is spelled.
Plain = bool | int | float | str | None

# Not what is made of these, which may compute something else, nor an Adam, whose numbers are of an optimiser.
OURS = (Identity, Idf, Cooccurrence, RowFisher, Kfac, Ekfac, GaussNewton)


def settings_of(given: Preconditioner) -> dict[str, Plain] | None:
    """Its kind and all its settings; None where they do not tell what it does: a user's object, or one that was fitted before.

    Example:
        >>> from captum_tracinwe.preconditioners import named
        >>> settings_of(named("idf"))
        {'kind': 'Idf', 'power': 2.0}
    """
    if type(given) not in OURS or (isinstance(given, Learned) and given.fitted):
        return None
    names: list[str] = [one.name for one in fields(given)] if is_dataclass(given) else []
    found = {name: getattr(given, name) for name in names if name != "statistics"}
    if any(type(value) not in (bool, int, float, str, type(None)) for value in found.values()):
        return None
    return {"kind": type(given).__name__, **found}
