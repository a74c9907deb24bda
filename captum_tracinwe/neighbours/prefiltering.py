"""`prefilter`: the nearest training texts of each question, as candidates for any scorer."""

from __future__ import annotations

import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_plain, is_whole, kind_of
from captum_tracinwe.evidence.methods.examples import Examples, Explained
from captum_tracinwe.evidence.methods.last_layer import last_pass
from captum_tracinwe.neighbours.candidates import Candidates
from captum_tracinwe.rows.ranking import top_k

__all__ = ["last_features", "prefilter"]

MEASURES, ENGINES = ("cosine", "l2", "dot"), ("auto", "torch", "faiss")
# Numbers of the matrix of similarities that is held at a time: 128 MB in float64.
AT_ONCE = 1 << 24


def prefilter(
    features_train: Tensor,
    features_test: Tensor,
    candidates: int = 100,
    *,
    measure: str = "cosine",
    engine: str = "auto",
) -> Candidates:
    """The nearest training texts of each question, as candidates for a scorer that is too slow for all texts.

    Args:
        features_train, features_test (Tensor): ``(M, H)`` and ``(N, H)``, a vector for each text: :func:`last_features` of the
            model, or sentence embeddings.
        candidates (int): C, from 1 to M.
        measure (str): "cosine", "dot" (the largest), or "l2" (the nearest, FastIF's).
        engine (str): "torch", in float64; "faiss", a flat index in float32, exact but for its rounding; or "auto": faiss where
            it is installed.

    Returns:
        Candidates: ``.score(scorer, test, train, k)`` is the search, ``.recall(scorer, test, train, k)`` says what it misses.
        Where all texts are equally near they are the first of the training set, and a warning says so.

    Raises:
        TypeError: no tensors.
        ValueError: other shapes, NaN or infinity, a number of candidates out of range, an unknown measure or engine.
        ImportError: ``engine="faiss"``, and it is not installed.

    Source: Guo, Rajani, Hase, Bansal and Xiong, *FastIF: Scalable Influence Functions for Efficient Model Interpretation and
    Debugging*, EMNLP 2021, arXiv 2012.15781.

    Example:
        >>> import torch
        >>> from captum_tracinwe.methods import Examples
        >>> train = Examples((torch.tensor([[1.0, 0.0], [0.9, 0.2], [0.0, 1.0], [-1.0, 0.0]]), torch.zeros(4)))
        >>> test = Examples((torch.tensor([[1.0, 0.1], [0.1, 1.0]]), torch.zeros(2)))
        >>> scorer = lambda test, train: test.batch[0] @ train.batch[0].T  # yours: methods.tracin_layers(explained, None)
        >>> found = prefilter(train.batch[0], test.batch[0], candidates=2)
        >>> found.indices.tolist()
        [[0, 1], [2, 1]]
        >>> found.score(scorer, test, train, k=1).indices.tolist()
        [[0], [2]]
        >>> found.recall(scorer, test, train, k=1).recall.mean().item()
        1.0
    """
    sides = {"features_train": features_train, "features_test": features_test}
    for name, features in sides.items():
        given: Any = features
        if not is_plain(given):
            raise TypeError(
                f"prefilter: expected `{name}` as a tensor, dense and of real numbers, got {kind_of(given)}."
            )
        if features.dim() != 2 or not features.numel():
            raise ValueError(f"prefilter: expected `{name}` of shape (texts, H), got {tuple(features.shape)}.")
        if not bool(features.isfinite().all()):
            raise ValueError(
                f"prefilter: `{name}` holds NaN or infinity, which is near to nothing: expected finite numbers."
            )
    texts, width = features_train.shape
    if features_test.shape[1] != width:
        raise ValueError(
            f"prefilter: expected features of one width, got {width} of the training texts and {features_test.shape[1]} of the "
            f"test texts."
        )
    if not is_whole(candidates) or not 1 <= candidates <= texts:
        raise ValueError(f"prefilter: expected candidates from 1 to the {texts} training texts, got {candidates!r}.")
    for name, value, known in (("measure", measure, MEASURES), ("engine", engine, ENGINES)):
        if value not in known:
            raise ValueError(f"prefilter: expected `{name}` as one of {', '.join(map(repr, known))}, got {value!r}.")
    if engine == "faiss" and find_spec("faiss") is None:
        raise ImportError(
            "prefilter: engine='faiss' needs faiss, which is not installed: pip install faiss-cpu, or engine='torch'."
        )
    _warn_of_equals(features_train, features_test, measure)
    started = time.perf_counter()
    device = (
        features_train.device if features_train.device.type != "mps" else torch.device("cpu")
    )  # which has no float64
    train, test = (features.detach().to(device).double() for features in sides.values())
    train, test = _sized(train, test, measure)
    with_faiss = engine == "faiss" or (engine == "auto" and find_spec("faiss") is not None)
    indices = (_by_faiss if with_faiss else _by_torch)(train, test, int(candidates), measure)
    return Candidates(indices.cpu(), texts, time.perf_counter() - started)


def _warn_of_equals(train: Tensor, test: Tensor, measure: str) -> None:
    """Where all training texts are equally near to a question, its candidates name nothing."""
    zeros = (test == 0).all(1).nonzero().flatten().tolist() if measure != "l2" else []
    if len(train) > 1 and bool((train == train[0]).all()):
        told = "`features_train` holds the same vector for every text"
    elif len(train) > 1 and zeros:
        told = f"`features_test` is 0 throughout for {len(zeros)} of {len(test)} questions, the first of which is {zeros[0]}"
    else:
        return
    warnings.warn(
        f"prefilter: {told}, so that all training texts are equally near: expected features that differ. The candidates there "
        f"are the first texts of the training set. Look at what made these features.",
        stacklevel=3,
    )


def last_features(explained: Explained, examples: Examples) -> Tensor:
    """What the model's last layer reads of each text at the last checkpoint, ``(N, H)``: the features that FastIF searches.

    Args:
        explained (Explained): the model; ``last`` names the layer.
        examples (Examples): the texts.

    Raises:
        TypeError: an argument of another kind.
    """
    given: tuple[Any, Any] = explained, examples
    if not isinstance(given[0], Explained) or not isinstance(given[1], Examples):
        got = " and ".join(type(one).__name__ for one in given)
        raise TypeError(f"last_features: expected methods.Explained and methods.Examples, got {got}.")
    features: Tensor = last_pass(explained, explained.checkpoints[-1], examples)[1][0]
    return features


def _by_torch(train: Tensor, test: Tensor, count: int, measure: str) -> Tensor:
    """Indices of the nearest, equal ones in the order of their index."""
    found = []
    for part in torch.split(test, max(1, AT_ONCE // len(train))):
        # By products, ‖a‖² + ‖b‖² − 2 ab, distances of features far from 0 would be rounding alone.
        near = (
            torch.cdist(part, train, compute_mode="donot_use_mm_for_euclid_dist") if measure == "l2" else part @ train.T
        )
        found.append(top_k(near, count, highest=measure != "l2")[0])
    return torch.cat(found)


def _sized(train: Tensor, test: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    """Features of a size whose squares no float is too small or too large for, with the same neighbours."""
    if measure == "cosine":
        sides = [_near_one(side, side.abs().amax(1, keepdim=True)) for side in (train, test)]
        lengths = [side.norm(dim=1, keepdim=True) for side in sides]
        train, test = (side / length.where(length > 0, 1.0) for side, length in zip(sides, lengths, strict=True))
        return train, test
    if measure == "dot":
        return _near_one(train, train.abs().max()), _near_one(test, test.abs().amax(1, keepdim=True))
    largest = torch.maximum(train.abs().max(), test.abs().max())
    return _near_one(train, largest), _near_one(test, largest)


def _near_one(values: Tensor, largest: Tensor) -> Tensor:
    """Divided by the power of two next to ``largest``, which leaves all digits as they are."""
    return torch.ldexp(values, -torch.frexp(largest).exponent)


def _by_faiss(train: Tensor, test: Tensor, count: int, measure: str) -> Tensor:
    faiss = import_module("faiss")
    if measure == "l2":  # by products, and in float32: nearer to 0
        middle = train.mean(0)
        train, test = _sized(train - middle, test - middle, measure)
    index = (faiss.IndexFlatL2 if measure == "l2" else faiss.IndexFlatIP)(train.shape[1])
    arrays = [side.cpu().float().contiguous().numpy() for side in (train, test)]
    index.add(arrays[0])
    return torch.from_numpy(index.search(arrays[1], count)[1]).long()
