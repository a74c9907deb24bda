"""From a model and a batch to row gradients: the word embedding, its look-ups, losses, one forward and one backward."""

from captum_tracinwe.gradients.embedding import find_embedding
from captum_tracinwe.gradients.sentence_losses import SentenceLoss
from captum_tracinwe.gradients.token_losses import TokenLoss, span_loss

__all__ = ["SentenceLoss", "TokenLoss", "find_embedding", "span_loss"]
