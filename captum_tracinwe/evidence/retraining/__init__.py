"""Retraining without some of the examples or words: one model after the other, or many at once."""

from captum_tracinwe.evidence.retraining.many import ManyCNNs
from captum_tracinwe.evidence.retraining.one_by_one import OneByOne
from captum_tracinwe.evidence.retraining.recipe import Recipe
from captum_tracinwe.evidence.retraining.retrainer import Retrainer, true_class_probability
from captum_tracinwe.evidence.retraining.text_cnn import TextCNN

__all__ = ["ManyCNNs", "OneByOne", "Recipe", "Retrainer", "TextCNN", "true_class_probability"]
