"""Which labels of the training texts are wrong, which are right instead, and why they are suspected."""

from captum_tracinwe.labels.found import Double, MixedUp, Suspect, Suspects
from captum_tracinwe.labels.judgement import suspects
from captum_tracinwe.labels.reasons import Reasons

__all__ = ["Double", "MixedUp", "Reasons", "Suspect", "Suspects", "suspects"]
