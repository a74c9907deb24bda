"""From examples to batches: collating, order, lengths, and what a batch is."""

from captum_tracinwe.batches.collate import Collate, TokenizeTexts

__all__ = ["Collate", "TokenizeTexts"]
