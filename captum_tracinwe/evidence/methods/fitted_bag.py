"""A logistic regression on tf-idf words: fitted by Newton's method, and its exact Hessian, by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.evidence.methods.examples import Examples
from captum_tracinwe.installing import install

__all__ = ["BagRegression", "check_options"]

Array: TypeAlias = npt.NDArray[np.float64]

# What is left of the gradient at the fitted weights, as a part of the penalty's, Mλ·‖W‖: H is at least Mλ, but for the intercept,
# so that the weights are off by no larger part.
FITTED = 1e-8
# What is round-off of a gradient, as a part of the sum of its summands' sizes.
ROUND_OFF = 1e-14
# What conjugate gradients leave of a right-hand side, as a part of it, and the steps after which they give up.
SOLVED, STEPS = 1e-10, 2000
# Below it, float64 has too few digits for how far a probability is from 1; above, too few powers for the weights.
PENALTIES = 1e-8, 1e8
# Numbers in one vector of conjugate gradients, all of a block's columns: 32 MB.
BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class BagRegression:
    """A multinomial logistic regression on tf-idf words, with the Hessian at its optimum.

    The weights W ``(F + 1, K)`` minimise Σ_j ℓ(x_j; W) + Mλ/2·‖W‖², M the number of training texts. The last row is the intercept
    and has no penalty, but its sum over the classes, which moves no probability, is held at 0.
    A text's features are those of scikit-learn's ``TfidfVectorizer``: count × (1 + log((1 + M)/(1 + n))), n the training texts
    with the word, at length 1. Words are taken as they stand; those that no training text holds are left out.

    Args:
        vectorizer (TfidfVectorizer): fitted on the training texts; its ``vocabulary_`` leads from words to rows of W.
        train (scipy.sparse.csr_array): the training texts' features and a 1 for the intercept, ``(M, F + 1)``.
        labels (Tensor): theirs, ``(M,)``.
        weights (array): W.
        penalty (float): λ.

    Example:
        >>> import torch
        >>> from captum_tracinwe import methods
        >>> train = methods.Examples((torch.zeros(4, 1), torch.tensor([1, 1, 0, 0])), [["good"], ["good", "film"], ["bad"], []])
        >>> fitted = methods.BagRegression.fit(train)
        >>> int(fitted.probabilities(fitted.features([["good"]])).argmax())
        1
    """

    vectorizer: Any
    train: Any
    labels: Tensor
    weights: Array
    penalty: float

    @classmethod
    def fit(cls, train: Examples, *, penalty: float = 1e-3, pairs: bool = False, min_count: int = 1) -> BagRegression:
        """Fit it to the labels of ``train``; options and errors as in :func:`~captum_tracinwe.methods.bag_regression`."""
        check_options(penalty, min_count)
        labels, texts = _whole(train.labels), train.need_words("bag_regression")
        classes = torch.unique(labels)
        if len(classes) < 2:
            raise ValueError(f"bag_regression: expected training texts of 2 classes or more, got {classes.tolist()}.")
        vectorizer = _vectorizer(texts, pairs, min_count)
        features = _features(vectorizer, texts)
        return cls(vectorizer, features, labels, np.zeros((features.shape[1], len(classes))), float(penalty))._fitted()

    @property
    def classes(self) -> Tensor:
        """The labels there are, ascending, ``(K,)``."""
        classes: Tensor = torch.unique(self.labels)
        return classes

    def features(self, texts: Sequence[Sequence[str]]) -> Any:
        """Texts, cut into words, as a sparse ``(N, F + 1)``."""
        return _features(self.vectorizer, texts)

    def probabilities(self, features: Any) -> Array:
        """Of each class, ``(N, K)``."""
        logits = features @ self.weights
        found: Array = np.exp(logits - logits.max(1, keepdims=True))
        found /= found.sum(1, keepdims=True)
        return found

    def errors(self, features: Any, labels: Tensor) -> Array:
        """∂ℓ/∂logits = probabilities − label, ``(N, K)``.

        Raises:
            ValueError: a label that no training text has.
        """
        labels, classes = _whole(labels), self.classes
        strange = labels[~torch.isin(labels, classes)]
        if len(strange):
            raise ValueError(
                f"bag_regression: expected test labels that training texts have, {classes.tolist()}, got {int(strange[0])}: a "
                f"regression on these texts knows no such class."
            )
        found = self.probabilities(features)
        found[np.arange(len(found)), torch.searchsorted(classes, labels).numpy()] -= 1
        return found

    def influence(self, features: Any, errors: Array) -> Array:
        """g_iᵀ H⁻¹ g_j with each training text j, ``(N, M)``; g_i is features ``(N, F + 1)`` times errors ``(N, K)``."""
        by_train = self.errors(self.train, self.labels)
        size = max(1, BLOCK // self.weights.size)
        parts = []
        for start in range(0, len(errors), size):
            part = slice(start, start + size)
            gradients = features[part].toarray().T[:, None] * errors[part].T[None]  # (F + 1, K, Q)
            parts.append(np.einsum("mk,mkq->qm", by_train, _times(self.train, self.hessian_solve(gradients))))
        return np.concatenate(parts)

    def hessian_solve(self, columns: Array, tolerance: float = SOLVED) -> Array:
        """H⁻¹ times each of Q columns, ``(F + 1, K, Q)`` → the same shape, by conjugate gradients, which never form H.

        Args:
            columns (array): right-hand sides, such as gradients.
            tolerance (float): ‖H·solution − column‖ as a part of ‖column‖.

        Raises:
            ValueError: not reached in 2,000 steps.
        """
        probabilities, transposed = self.probabilities(self.train), self.train.T.tocsr()
        scale = 1 / self._diagonal(probabilities)[:, :, None]
        rest = np.array(columns, dtype=np.float64)
        solution = np.zeros_like(rest)
        goal = tolerance**2 * _dot(rest, rest)
        direction = ahead = scale * rest
        descent = _dot(rest, ahead)
        for _ in range(STEPS):
            if bool((_dot(rest, rest) <= goal).all()):
                return solution
            product = self._hessian(direction, probabilities, transposed)
            step = _over(descent, _dot(direction, product))
            solution += step * direction
            rest -= step * product
            ahead = scale * rest
            before, descent = descent, _dot(rest, ahead)
            direction = ahead + _over(descent, before) * direction
        raise self._too_small()

    def _fitted(self) -> BagRegression:
        """The same at the optimum: Newton's steps, each halved until the gradient falls; a dozen are usual."""
        now, gradient = self, self._gradient()
        norm = start = float(np.linalg.norm(gradient))
        if start <= ROUND_OFF * np.linalg.norm(self.train.T @ np.abs(self.errors(self.train, self.labels))):
            return self  # words tell nothing of the labels
        for _ in range(100):
            if norm <= FITTED * np.linalg.norm(now._pulled(now.weights)):
                return now
            step = now.hessian_solve(gradient[:, :, None], min(0.1, math.sqrt(norm / start)))[:, :, 0]
            for size in 0.5 ** np.arange(30):
                there = replace(now, weights=now.weights - size * step)
                gradient = there._gradient()
                reached = float(np.linalg.norm(gradient))
                if reached < (1 - 0.1 * size) * norm:
                    break
            now, norm = there, reached
        raise self._too_small()

    def _gradient(self) -> Array:
        """Of the objective, ``(F + 1, K)``."""
        found: Array = self.train.T @ self.errors(self.train, self.labels) + self._pulled(self.weights)
        return found

    def _hessian(self, columns: Array, probabilities: Array, transposed: Any) -> Array:
        """H times each column ``(F + 1, K, Q)``; of a text's loss it is (diag(p) − ppᵀ) ⊗ xxᵀ."""
        logits = _times(self.train, columns)
        logits -= np.einsum("mk,mkq->mq", probabilities, logits)[:, None]
        logits *= probabilities[:, :, None]
        return _times(transposed, logits) + self._pulled(columns)

    def _diagonal(self, probabilities: Array) -> Array:
        """Of H, ``(F + 1, K)``."""
        found: Array = self.train.power(2).T @ (probabilities * (1 - probabilities))
        found[:-1] += len(self.labels) * self.penalty
        found[-1] += len(self.labels) / found.shape[1]
        return found

    def _pulled(self, weights: Array) -> Array:
        """What the penalty adds to the gradient, or to H times columns: Mλ times words' weights, M times the intercept's mean."""
        found = self.penalty * weights
        found[-1] = weights[-1].mean(0, keepdims=True)
        return len(self.labels) * found

    def _too_small(self) -> ValueError:
        return ValueError(
            f"bag_regression: expected a penalty large enough to solve the regression for, got {self.penalty:g}: its steps come "
            f"to no end. Take a larger one; 1e-3 is usual."
        )


def check_options(penalty: float, min_count: int) -> None:
    """Raise ValueError unless these are options of ``bag_regression``."""
    least, most = PENALTIES
    if not isinstance(penalty, (int, float)) or not least <= penalty <= most:
        raise ValueError(
            f"bag_regression: expected a penalty from {least:g} to {most:g} (1e-3 is usual), got {penalty!r}."
        )
    if not isinstance(min_count, int) or min_count < 1:
        raise ValueError(f"bag_regression: expected a min_count of at least 1, got {min_count!r}.")


def _vectorizer(texts: Sequence[Sequence[str]], pairs: bool, min_count: int) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError(
            f"bag_regression needs scikit-learn, which is not installed. {install('scikit-learn', 'evidence')}"
        ) from error
    odd = next((word for words in texts for word in words if not isinstance(word, str)), None)
    if odd is not None:
        raise TypeError(f"bag_regression: expected words as str, got {odd!r:.60} ({type(odd).__name__}).")
    vectorizer = TfidfVectorizer(analyzer=_with_pairs if pairs else list, min_df=min_count, dtype=np.float64)
    try:
        return vectorizer.fit(texts)
    except ValueError as error:  # an empty vocabulary, or a min_df above the number of texts
        raise ValueError(
            f"bag_regression: expected a word that stands in at least min_count={min_count} of the training texts, found none in "
            f"{len(texts)}."
        ) from error


def _with_pairs(words: Sequence[str]) -> list[str]:
    return [*words, *(f"{one} {two}" for one, two in pairwise(words))]


def _features(vectorizer: Any, texts: Sequence[Sequence[str]]) -> Any:
    from scipy import sparse

    return sparse.csr_array(sparse.hstack([vectorizer.transform(texts), np.ones((len(texts), 1))]))


def _whole(labels: Tensor) -> Tensor:
    """Labels ``(N,)`` on the CPU, which have to be classes."""
    labels = labels.detach().cpu()
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex() or int(labels.min()) < 0:
        least = "" if labels.is_complex() else f" from {labels.min().item()}"
        raise ValueError(
            f"bag_regression: expected one class for each text as its label, whole numbers from 0 of shape (N,), got "
            f"{labels.dtype} of shape {tuple(labels.shape)}{least}."
        )
    return labels.long()


def _times(matrix: Any, columns: Array) -> Array:
    """A sparse ``(A, B)`` times ``(B, K, Q)``."""
    found: Array = (matrix @ columns.reshape(len(columns), -1)).reshape(-1, *columns.shape[1:])
    return found


def _dot(one: Array, two: Array) -> Array:
    """Of each pair of columns, ``(Q,)``."""
    found: Array = np.einsum("fkq,fkq->q", one, two)
    return found


def _over(one: Array, two: Array) -> Array:
    """one / two, and 0 where two is 0: of a column that is solved."""
    return np.divide(one, two, out=np.zeros_like(one), where=two > 0)
