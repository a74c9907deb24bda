"""Many processes, one index: Ray's tasks run the same worker that `torchrun` runs, and search the parts of an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.index.build import build
from captum_tracinwe.index.environment import Place
from captum_tracinwe.index.estimate import Options
from captum_tracinwe.index.files.disk import folder_of
from captum_tracinwe.index.files.manifest import NAME
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.search import SearchResult, merge_results
from captum_tracinwe.installing import install
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["build_with_ray", "search_with_ray"]

# Ray starts a task again when its process, or its machine, dies.
RETRIES = 3


class Trained(Protocol):
    """A :class:`captum_tracinwe.TracInWE`, of which an index needs the source alone."""

    @property
    def live_source(self) -> LiveSource:
        """The training set through the model."""


def build_with_ray(
    make_tracin: Callable[[], Trained],
    path: str | Path,
    workers: int = 2,
    resume: bool = False,
    *,
    num_gpus: float = 0,
    **options: Any,
) -> GradientIndex:
    """:meth:`TracInWE.build_index` by ``workers`` Ray tasks; Ray is in the extra ``ray``.

    Args:
        make_tracin (callable): makes the TracInWE within a worker.
        path (str or Path): a directory that all workers see.
        workers (int): tasks; each takes segments until none is left.
        resume (bool): go on with an unfinished build.
        num_gpus (float): of each task.
        **options: as in :meth:`TracInWE.build_index`, but ``append``.

    Raises:
        FileExistsError: there is an index already, and ``resume`` is not asked for.
        ImportError: Ray is not installed.
    """
    ray = _ray("build_with_ray")
    folder = folder_of(path)
    if (folder / NAME).exists() and not resume:
        raise FileExistsError(f"There is an index at {str(folder)!r} already: go on with it by resume=True.")
    task = ray.remote(num_gpus=num_gpus, max_retries=RETRIES)(_build)
    ray.get([task.remote(make_tracin, folder, Place(rank, workers, True), options) for rank in range(workers)])
    return GradientIndex.open(folder)


def _build(make_tracin: Callable[[], Trained], folder: Path, place: Place, options: dict[str, Any]) -> None:
    training = make_tracin().live_source
    chosen = Options(**{"memory_limit": training.live.memory_limit, **options})
    build(training, folder, place.again, False, chosen, place)


def search_with_ray(
    path: str | Path, rows: RowGradients, k: int, proponents: bool = True, parts: int = 2, **filters: Any
) -> SearchResult:
    """:meth:`GradientIndex.search` in ``parts`` Ray tasks, each over its share of the segments; the same result.

    Args:
        path (str or Path): a directory that all tasks see.
        rows, k, proponents, filters: as in :meth:`GradientIndex.search`, exact only.
        parts (int): tasks.

    Raises:
        ImportError: Ray is not installed.
    """
    ray = _ray("search_with_ray")
    task = ray.remote(max_retries=RETRIES)(_search)
    shared = ray.put(rows)
    folder = folder_of(path)
    found = ray.get([task.remote(folder, shared, k, proponents, part, parts, filters) for part in range(parts)])
    return merge_results(found, k, proponents)


def _search(
    folder: Path, rows: RowGradients, k: int, proponents: bool, part: int, parts: int, filters: dict[str, Any]
) -> SearchResult:
    return GradientIndex.open(folder).part(part, parts).search(rows, k, proponents, **filters)


def _ray(asked: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{asked} needs Ray, which is not installed. {install('ray', 'ray')}") from error
    return ray
