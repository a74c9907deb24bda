"""What `gpu.py` times beside the ops: cuBLAS on as many operations, and FAISS with one list for each token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from row_dot import Rows, example_of_rows
from torch import Tensor


def as_many_operations(device: torch.device, operations: int, width: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    side = max(1, round((operations / 2 / width) ** 0.5))
    left, right = (torch.randn(shape, device=device).to(dtype) for shape in ((side, width), (width, side)))
    return lambda: left @ right


def cpu(side: Rows) -> Rows:
    return side[0].cpu(), side[1].cpu(), side[2].cpu()


def faiss_best(device: torch.device, a: Rows, b: Rows) -> Callable[[], object] | str:
    """FAISS with one list per token; on a GPU it has no search for all of a list, so the 100 best: less than what we do."""
    try:
        import faiss
        from faiss.contrib.ivf_tools import add_preassigned, search_preassigned
    except ImportError as error:
        return f"not installed: {error}"
    if device.type == "cuda" and not hasattr(faiss, "StandardGpuResources"):
        return "installed for the CPU only"
    try:
        (_, ids_a, values_a), (ptr_b, ids_b, values_b) = cpu(a), cpu(b)
        names, numbers = torch.unique(torch.cat([ids_a, ids_b]), return_inverse=True)
        wanted, lists = numbers.split([len(ids_a), len(ids_b)])
        width = values_b.shape[1]
        coarse = faiss.IndexFlatIP(width)
        coarse.add(torch.randn(len(names), width).numpy())
        index = faiss.IndexIVFFlat(coarse, width, len(names), faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True
        add_preassigned(index, values_b.numpy(), lists.numpy(), example_of_rows(ptr_b).numpy())
        if device.type == "cuda":
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        queries, where = values_a.numpy(), wanted.numpy()[:, None]
        if hasattr(index, "search_preassigned") and device.type == "cuda":
            assigned = (where, torch.zeros(len(where), 1).numpy())
            return lambda: index.search_preassigned(queries, 100, *assigned)
        return lambda: search_preassigned(index, queries, 100, where, None)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
