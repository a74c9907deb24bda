"""Which labels of the training texts are wrong, which are right instead, and why they are suspected."""

from captum_tracinwe.labels.reasons import Reasons
from captum_tracinwe.labels.suspects import Double, MixedUp, Suspect, Suspects, suspects

__all__ = ["Double", "MixedUp", "Reasons", "Suspect", "Suspects", "suspects"]
