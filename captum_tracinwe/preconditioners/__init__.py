"""What multiplies a question's rows before they meet the training rows; the training rows, and an index, stay as they are."""

from captum_tracinwe.preconditioners.preconditioner import Identity, Preconditioner

__all__ = ["Identity", "Preconditioner"]
