"""Which training examples, and which words in them, taught a language model this: TracIn on word embeddings."""

from captum_tracinwe._version import __version__

__all__ = ["__version__"]
