"""Score matrices as Captum, dattri and Bergson keep them: the same numbers, in their shapes and files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.influence._utils.common import KMostInfluentialResults
from torch import Tensor

from captum_tracinwe.batches.arguments import check_flags, is_whole
from captum_tracinwe.exports.given import as_file, as_folder, as_ranking, as_scores
from captum_tracinwe.rows.ranking import top_k
from captum_tracinwe.whole_files import write_all

__all__ = ["to_bergson", "to_captum", "to_dattri"]

# What Bergson looks for in its own run's config to learn the sign: a positive score is a proponent, as everywhere here.
_BERGSON_CONFIG = "steps:\n- score:\n    score_cfg:\n      score: individual\n      higher_is_better: true\n"


def to_captum(found: Any, k: int | None = None, proponents: bool | None = None) -> KMostInfluentialResults:
    """A ranking as Captum's influence methods return it with ``k``.

    Args:
        found (Tensor, SearchResult or (Tensor, Tensor)): scores ``(N, M)``, in which −∞ stands for a text that was deleted from
            an index; or training indices and scores, each ``(N, k)``, best first, as an index's ``search`` has them.
        k (int, optional): how many of each test example; needed with scores alone.
        proponents (bool, optional): with scores alone: the highest, which is the default; False: the lowest.

    Returns:
        KMostInfluentialResults: ``indices`` int64 and ``influence_scores``, each ``(N, k)``, best first; equal scores by index.

    Raises:
        TypeError: ``found`` is neither; indices that are no whole numbers, or scores that are no real ones.
        ValueError: ``k`` is missing or below 1; ``k`` or ``proponents`` with a ranking; scores that are NaN or infinite; indices
            and scores that do not fit together.

    Example:
        >>> import torch
        >>> to_captum(torch.tensor([[0.5, -1.0, 2.0]]), k=2).indices
        tensor([[2, 0]])
    """
    if isinstance(found, Tensor):
        scores = as_scores(found, "to_captum", deleted=True)
        if not scores.numel():
            raise ValueError(f"to_captum: expected at least one score, got a matrix of shape {tuple(scores.shape)}.")
        if k is None or not is_whole(k) or k < 1:
            raise ValueError(f"to_captum: expected k of at least 1 with a matrix of scores, got {k!r:.60}.")
        if proponents is not None:
            check_flags(proponents=proponents)
        deleted = (scores == -torch.inf).all(0)
        as_scores(scores.masked_fill(deleted, 0.0), "to_captum")
        there = (~deleted).nonzero().flatten()
        places, values = top_k(scores[:, there], int(k), True if proponents is None else bool(proponents))
        return KMostInfluentialResults(there[places], values)
    indices, scores = as_ranking(found, "to_captum", "scores (N, M), or ", ordered=not hasattr(found, "stats"))
    for name, value in (("k", k), ("proponents", proponents)):
        if value is not None:
            raise ValueError(
                f"to_captum: `{name}` is for a matrix of scores, and this is a ranking already: expected it without `{name}`."
            )
    return KMostInfluentialResults(indices, scores)


def to_dattri(scores: Tensor, path: str | Path | None = None) -> Tensor:
    """Scores as dattri's attributors return them and its metrics take them: a row for each *training* example.

    ``dattri.metric.lds`` and ``loo_corr`` take this matrix, ``mislabel_detection_auc`` self-influence ``(M,)``. The sign is the
    same: a training step on a text of positive score lowers the loss on the test text.

    Args:
        scores (Tensor): ``(N, M)`` of test and training examples, or self-influence ``(M,)``.
        path (str or Path, optional): a file for it, which ``torch.load`` reads; it is there whole or not at all.

    Returns:
        Tensor: ``(M, N)``, or ``(M,)``; on the CPU.

    Raises:
        TypeError: ``scores`` is no tensor of real numbers.
        ValueError: it has another number of dimensions; a score that is NaN or infinite, which a metric would rank; no path.
        OSError: the file cannot be written: it is a folder, or there is no folder for it.

    Example:
        >>> import torch
        >>> to_dattri(torch.zeros(2, 5)).shape
        torch.Size([5, 2])
    """
    file = None if path is None else as_file(path, "to_dattri", "path")
    given = as_scores(scores, "to_dattri", dims=(1, 2))
    # Without the clone a file would hold what the tensor is a view of.
    turned = (given if given.dim() == 1 else given.T).detach().cpu().contiguous().clone()
    if file is not None:
        written = io.BytesIO()
        torch.save(turned, written)
        write_all({file: written.getvalue()})
    return turned


def to_bergson(scores: Tensor, folder: str | Path) -> Path:
    """Write scores as a folder that Bergson reads (``bergson.data.load_scores``): an item for each training example.

    The folder holds ``scores.bin`` (for each training example its score on each test example, and a flag that it is written),
    ``info.json`` (shape and layout) and ``config.yaml``, which says that a positive score is a proponent: Bergson's
    ``load_scores_loss_signed`` turns the sign by it, ``recall`` ranks by it.

    Args:
        scores (Tensor): ``(N, M)`` of test and training examples, in float16, float32 or float64; bfloat16 is written as float32.
        folder (str or Path): made if it is not there; the three files in it are replaced.

    Returns:
        Path: the folder.

    Raises:
        TypeError: ``scores`` is no tensor of real numbers.
        ValueError: it is not ``(N, M)``, or empty; a score that is NaN or infinite; no path.
        OSError: a file cannot be written, or stands where the folder is to be.

    Example:
        >>> import tempfile, torch
        >>> sorted(path.name for path in to_bergson(torch.zeros(2, 5), tempfile.mkdtemp()).iterdir())
        ['config.yaml', 'info.json', 'scores.bin']
    """
    target = as_folder(folder, "to_bergson", "folder")
    matrix = as_scores(scores, "to_bergson").detach().cpu()
    if not matrix.numel():
        raise ValueError(f"to_bergson: expected at least one score, got a matrix of shape {tuple(matrix.shape)}.")
    values = (matrix.float() if matrix.dtype == torch.bfloat16 else matrix).numpy()
    layout = _bergson_layout(len(values), values.dtype)
    rows: Any = np.zeros(values.shape[1], dtype=np.dtype(layout))  # type: ignore[call-overload]
    for i, column in enumerate(values):
        rows[f"score_{i}"] = column
        rows[f"written_{i}"] = True
    info = {
        "attribute_tokens": False,
        "num_items": len(rows),
        "num_rows": len(rows),
        "num_scores": len(values),
        "dtype": layout,
    }
    target.mkdir(parents=True, exist_ok=True)
    write_all(
        {
            target / "scores.bin": rows.tobytes(),
            target / "config.yaml": _BERGSON_CONFIG.encode(),
            target / "info.json": json.dumps(info, indent=2).encode(),
        }
    )
    return target


def _bergson_layout(count: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Names, formats and byte offsets of ``count`` scores, each beside its flag, as Bergson lays them out and JSON can say it."""
    pair = 1 << dtype.itemsize.bit_length()  # a score and a byte, up to the next power of two: 4, 8 or 16
    names = [name for i in range(count) for name in (f"score_{i}", f"written_{i}")]
    offsets = [place for i in range(count) for place in (i * pair, i * pair + dtype.itemsize)]
    return {
        "names": names,
        "formats": [str(dtype), "bool"] * count,
        "offsets": offsets,
        "itemsize": -(-count * pair // 8) * 8,
    }
