"""The text CNN of TracIn-WE's authors, as a plain module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TAPS", "TextCNN"]

#: Width of the first two convolutions; the third has 1.
TAPS = 5


class TextCNN(nn.Module):
    """Embedding → Conv1d(F, 5) → Conv1d(F, 5) → Conv1d(F, 1) → maximum over positions → linear (arXiv 2202.11844).

    Convolutions are not padded, so a text needs at least 9 positions. Token 0 is padding: its vector is zero and stays so.

    Args:
        vocabulary, classes, width, filters (int): V, number of classes, D and F; the authors have D = 128 and F = 50.
        scale (float): standard deviation of the embedding's first weights. The rest starts by Xavier's rule, biases at 0,
            as in the authors' Keras. With their 0.03 nothing is learnt from 4,000 texts in 4 epochs; with 0.1 it is.

    Example:
        >>> import torch
        >>> TextCNN(30, 4)(torch.ones(2, 12, dtype=torch.long)).shape
        torch.Size([2, 4])
    """

    def __init__(self, vocabulary: int, classes: int, width: int = 128, filters: int = 50, scale: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.conv1 = nn.Conv1d(width, filters, TAPS)
        self.conv2 = nn.Conv1d(filters, filters, TAPS)
        self.conv3 = nn.Conv1d(filters, filters, 1)
        self.out = nn.Linear(filters, classes)
        with torch.no_grad():
            nn.init.normal_(self.embedding.weight, 0, scale)[0] = 0
            for layer in (self.conv1, self.conv2, self.conv3, self.out):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ids ``(N, T)``."""
        hidden = self.embedding(input_ids).transpose(1, 2)
        for convolution in (self.conv1, self.conv2, self.conv3):
            hidden = torch.relu(convolution(hidden))
        logits: Tensor = self.out(hidden.max(2).values)
        return logits
