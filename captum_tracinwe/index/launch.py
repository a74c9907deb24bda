"""Many processes, one index: Ray's tasks run the same worker that `torchrun` runs, and search the parts of an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_tracinwe.index import build
from captum_tracinwe.index.disk import folder_of
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.manifest import NAME
from captum_tracinwe.index.search import SearchResult, merge_results
from captum_tracinwe.rows import RowGradients

if TYPE_CHECKING:
    from captum_tracinwe.tracin_we import TracInWE

__all__ = ["build_with_ray", "search_with_ray"]

# Ray starts a task again when its process, or its machine, dies.
RETRIES = 3


def build_with_ray(
    make_tracin: Callable[[], TracInWE],
    path: str | Path,
    workers: int = 2,
    resume: bool = False,
    *,
    num_gpus: float = 0,
    **options: Any,
) -> GradientIndex:
    """:meth:`TracInWE.build_index` by ``workers`` Ray tasks; ``pip install captum-tracinwe[ray]``.

    Args:
        make_tracin (callable): makes the TracInWE within a worker.
        path (str or Path): a directory that all workers see.
        workers (int): tasks; each takes segments until none is left.
        resume (bool): go on with an unfinished build.
        num_gpus (float): of each task.
        **options: as in :meth:`TracInWE.build_index`, but ``append``.

    Raises:
        FileExistsError: there is an index already, and ``resume`` is not asked for.
    """
    import ray

    folder = folder_of(path)
    if (folder / NAME).exists() and not resume:
        raise FileExistsError(f"There is an index at {str(folder)!r} already: go on with it by resume=True.")
    task = ray.remote(num_gpus=num_gpus, max_retries=RETRIES)(_build)
    ray.get([task.remote(make_tracin, folder, build.Place(rank, workers, True), options) for rank in range(workers)])
    return GradientIndex.open(folder)


def _build(make_tracin: Callable[[], TracInWE], folder: Path, place: build.Place, options: dict[str, Any]) -> None:
    tracin = make_tracin()
    chosen = build.Options(**{"memory_limit": tracin.memory_limit, **options})
    build.build(tracin, folder, place.again, False, chosen, place)


def search_with_ray(
    path: str | Path, rows: RowGradients, k: int, proponents: bool = True, parts: int = 2, **filters: Any
) -> SearchResult:
    """:meth:`GradientIndex.search` in ``parts`` Ray tasks, each over its share of the segments; the same result.

    Args:
        path (str or Path): a directory that all tasks see.
        rows, k, proponents, filters: as in :meth:`GradientIndex.search`, exact only.
        parts (int): tasks.
    """
    import ray

    task = ray.remote(max_retries=RETRIES)(_search)
    shared = ray.put(rows)
    folder = folder_of(path)
    found = ray.get([task.remote(folder, shared, k, proponents, part, parts, filters) for part in range(parts)])
    return merge_results(found, k, proponents)


def _search(
    folder: Path, rows: RowGradients, k: int, proponents: bool, part: int, parts: int, filters: dict[str, Any]
) -> SearchResult:
    return GradientIndex.open(folder).part(part, parts).search(rows, k, proponents, **filters)
