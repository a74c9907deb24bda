"""Methods that never see the model: BM25, TF-IDF, chance."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from captum_tracinwe.evidence.methods.examples import Examples, Method, checked
from captum_tracinwe.installing import install
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["bm25", "random_scores", "tfidf"]


def bm25(test: Examples, train: Examples) -> Tensor:
    """BM25 of the test text as the query and the training texts as documents (the library bm25s with its defaults).

    Never negative: it knows no opponents. Of texts that share no word all have 0.

    Raises:
        ImportError: bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ImportError(f"BM25 needs bm25s, which is not installed. {install('bm25s', 'evidence')}") from error
    if not any(train.need_words("BM25")):
        return torch.zeros(len(test), len(train))
    retriever = bm25s.BM25()
    retriever.index([list(words) for words in train.need_words("BM25")], show_progress=False)
    nothing = torch.zeros(len(train))  # of a text without words the library fails
    rows = [
        torch.from_numpy(retriever.get_scores(list(words))) if words else nothing for words in test.need_words("BM25")
    ]
    return checked(torch.stack(rows), test, train, "BM25")


def tfidf(test: Examples, train: Examples) -> Tensor:
    """⟨v(x), v(x')⟩, v(x)_w = (count of w in x) · log(M / number of training texts with w), at length 1; ``(N, M)``.

    A word that no training text holds has no place in v.
    """
    documents, queries = train.need_words("TF-IDF"), test.need_words("TF-IDF")
    holders = Counter(word for words in documents for word in set(words))
    numbers = {word: number for number, word in enumerate(holders)}
    idf = torch.log(len(documents) / torch.tensor(list(holders.values()), dtype=torch.float64))
    sides = []
    for texts in (queries, documents):
        places = [(i, numbers[word]) for i, words in enumerate(texts) for word in words if word in numbers]
        index = torch.tensor(places, dtype=torch.int64).view(-1, 2)
        sides.append(RowGradients.from_positions(index[:, 0], index[:, 1], idf[index[:, 1]][:, None], len(texts)))
    lengths = [side.squared_norms().sqrt().clamp_min(torch.finfo(torch.float64).tiny) for side in sides]
    return (sides[0].dot(sides[1]) / lengths[0][:, None] / lengths[1]).float()


def random_scores(seed: int = 0) -> Method:
    """Uniform noise: what every method has to beat."""

    def scores(test: Examples, train: Examples) -> Tensor:
        return torch.rand(len(test), len(train), generator=torch.Generator().manual_seed(seed))

    return scores
