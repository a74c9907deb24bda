"""Why a model answers as it does on a test set: its mistakes, who taught it them, and the words that go with one class."""

from captum_tracinwe.explanation.explaining import explain
from captum_tracinwe.explanation.found import Answer, ClassCount, Explanation, Near, Performance, TrainingText

__all__ = ["Answer", "ClassCount", "Explanation", "Near", "Performance", "TrainingText", "explain"]
