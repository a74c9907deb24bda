"""Small texts and pairs of them, for the tests of pictures."""

from __future__ import annotations

import torch

from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.texts import TokenizedText


def text_of(*words: str, label=None, prediction=None, padding=None) -> TokenizedText:
    """A text whose ids are the hashes of its words; brackets are special."""
    text, spans, numbers = "", [], []
    for word in words:
        if word in ("[CLS]", "[SEP]"):
            spans.append(None)
            numbers.append(None)
            continue
        text += " " if text else ""
        spans.append((len(text), len(text) + len(word)))
        numbers.append(len(text))
        text += word
    ids = tuple(sum(ord(c) * pow(31, i, 1_000_003) for i, c in enumerate(word)) % 1_000_003 for word in words)
    return TokenizedText(text, ids, tuple(spans), tuple(numbers), words, label, prediction, padding)


def pair_of(test, train, shares=None, i=0, j=0):
    ids = sorted(set(test.token_ids) & set(train.token_ids))
    values = torch.tensor([1.0 - 0.3 * n for n in range(len(ids))] if shares is None else shares, dtype=torch.float64)
    ids = torch.tensor(ids, dtype=torch.int64)
    return WordInfluence(i, j, values.sum().item(), ids, values, test_text=test, train_text=train)
