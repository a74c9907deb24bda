"""Searching with Ray: actors that each hold segments bound and verify in rounds; the merged k best are exact."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_rate, is_whole
from captum_tracinwe.index.cluster.actors import Asked, Progress, SegmentActor, Share, Turn
from captum_tracinwe.index.cluster.engine import (
    Handle,
    as_itself,
    check_place,
    check_resources,
    engine,
    warn_without_room,
)
from captum_tracinwe.index.files.disk import IndexDamaged
from captum_tracinwe.index.files.manifest import Manifest, SegmentEntry
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.homes import home_of
from captum_tracinwe.index.maintenance import on_newest
from captum_tracinwe.index.rounds import FIRST_CHUNK, block_size, question_of
from captum_tracinwe.index.search import SearchResult, SearchStats
from captum_tracinwe.preconditioners import Length
from captum_tracinwe.rows.row_gradients import RowGradients

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SearchActors", "search_with_ray"]

# Test examples of one round at most: an actor holds what it knows of each.
AT_ONCE = 256
# Of a search by actors that are made for it.
FILTERS = ("where", "indices", "length")


class _Best(NamedTuple):
    """Indices and signed scores ``(n, w)`` of the best of some test examples, and between what each score lies ``(n, w, 2)``."""

    numbers: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    ends: npt.NDArray[np.float32]

    @classmethod
    def none(cls, size: int, width: int) -> _Best:
        """Of so many test examples."""
        return cls(
            np.empty((size, width), np.int64),
            np.empty((size, width), np.float32),
            np.empty((size, width, 2), np.float32),
        )

    @classmethod
    def merged(cls, parts: Sequence[Progress], k: int) -> _Best:
        """The k best of all actors; ties by index."""
        numbers, scores, ends = (
            np.concatenate([getattr(one, name) for one in parts], axis=1) for name in ("indices", "scores", "ends")
        )
        order = np.lexsort((numbers, -scores), axis=1)[:, :k]
        return cls(
            np.take_along_axis(numbers, order, 1),
            np.take_along_axis(scores, order, 1),
            np.take_along_axis(ends, order[:, :, None], 1),
        )


class SearchActors:
    """An index whose segments are shared out over Ray's actors, on one machine or many; Ray is in the extra ``ray``.

    Each actor opens its own segments alone. Answers are those of :meth:`GradientIndex.search`, bit for bit: every actor bounds
    its examples and verifies the most promising; the k-th best score of all is then the floor that the others must reach, round
    after round, until none can. Where an actor's process or machine dies, Ray starts it anew, wherever there is room, and the
    round goes on.

    Like an open index it is a snapshot; :meth:`refresh` takes in what was added or deleted since. Close it, or use it in a
    ``with`` statement.

    Args:
        path (str or Path): a directory that all machines see under this path, or a URL that fsspec reaches.
        actors (int): how many; they can be more than there are segments now.
        num_cpus (float, optional): that Ray keeps for each actor. Default: none; one is asked for when it is placed.
        cache (str or Path, optional): of a URL, the cache folder, on each machine.
        storage_options (mapping, optional): of a URL, what fsspec's file system is made with.
        timeout (float, optional): seconds that starting the actors and opening their segments may take. Default: no end.

    Raises:
        ValueError: ``actors`` is no whole number of at least 1; ``num_cpus`` or ``timeout`` cannot be; a ``memory://`` URL, which
            only this process sees.
        TimeoutError: it took longer.
        ImportError: Ray is not installed.
        FileNotFoundError, IndexDamaged, OSError: as :meth:`GradientIndex.open`.
    """

    def __init__(
        self,
        path: str | Path,
        actors: int = 2,
        *,
        num_cpus: float | None = None,
        cache: str | Path | None = None,
        storage_options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        if not is_whole(actors) or actors < 1:
            raise ValueError(f"`actors` should be a whole number of at least 1, got {actors!r}.")
        if num_cpus is not None:
            check_resources("SearchActors", num_cpus=num_cpus)
        _check_timeout(timeout)
        check_place("SearchActors", path)
        self._ray, self._timeout = engine("SearchActors"), timeout
        self._home = home_of(path, cache, storage_options)
        self._home.manifest()  # before anything is started
        placed = {} if num_cpus is None else {"num_cpus": num_cpus}
        made = self._ray.remote(max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD", **placed)(
            SegmentActor
        )
        self._actors = [made.remote() for _ in range(int(actors))]
        self._shares: list[tuple[SegmentEntry, ...]] = [() for _ in self._actors]
        warn_without_room(self._ray, "SearchActors", num_cpus=1 if num_cpus is None else num_cpus)
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            with contextlib.suppress(Exception):  # Ray is not there any more
                self._ray.kill(actor)
        self._actors = []

    def __repr__(self) -> str:
        shares = " + ".join(str(len(share)) for share in self._shares)
        return f"SearchActors({str(self._home)!r}: {shares} segments)"

    @property
    def manifest(self) -> Manifest:
        """The one by which it answers."""
        return self._whole.manifest

    def refresh(self) -> Self:
        """Take in what was added or deleted since. Segments that an actor holds stay with it; new ones go where fewest are.

        Raises:
            FileNotFoundError, IndexDamaged, OSError: as :meth:`GradientIndex.open`.
        """
        if not self._actors:
            raise ValueError("SearchActors.refresh: it was closed. Make another: SearchActors(path).")
        on_newest(self._home.folder, self._share_out, self._home.manifest)
        return self

    def _share_out(self, manifest: Manifest) -> None:
        # Without segments: it knows how questions are sketched, and what of the index is there.
        whole = GradientIndex.of(self._home, manifest, ())
        there = set(manifest.segments)
        shares = [[entry for entry in share if entry in there] for share in self._shares]
        taken = {entry for share in shares for entry in share}
        for entry in manifest.segments:
            if entry not in taken:
                min(shares, key=lambda share: sum(one.examples for one in share)).append(entry)
        key = secrets.token_hex(8)
        handles = [
            Handle(key, [self._ray.put(Share(self._home, manifest, tuple(sorted(share, key=lambda one: one.first))))])
            for share in shares
        ]
        opened = [actor.open.remote(handle) for actor, handle in zip(self._actors, handles, strict=True)]
        self._results(dict(enumerate(opened)), self._timeout)
        self._whole, self._shares, self._handles = whole, [tuple(share) for share in shares], handles

    def search(
        self,
        rows: RowGradients,
        k: int,
        proponents: bool = True,
        *,
        where: Mapping[str, Any] | None = None,
        indices: Sequence[int] | Tensor | None = None,
        length: Length | None = None,
        timeout: float | None = None,
    ) -> SearchResult:
        """:meth:`GradientIndex.search` over all actors; the same result. ``stats`` add up what the actors read.

        Where a writer has compacted segments away that an actor must open again, the question is asked of the index as it is
        now (:meth:`refresh`).

        Args:
            rows, k, proponents, where, indices, length: as there.
            timeout (float, optional): seconds that one round may take, restarts of actors included. Default: no end.

        Raises:
            ValueError: rows of another width; k < 1; a timeout that is not above 0; a filter that the index cannot answer; it is
                closed.
            IndexDamaged: what was read is not what was written.
            TimeoutError: a round took longer.
        """
        if not is_whole(k) or k < 1:
            raise ValueError(f"`k` should be a whole number of at least 1, got {k!r}.")
        _check_timeout(timeout)
        if not self._actors:
            raise ValueError("SearchActors.search: it was closed. Make another: SearchActors(path).")

        def ask() -> SearchResult:
            return self._search(rows, int(k), proponents, where, indices, length, timeout)

        self._whole.warn_unfinished()
        try:
            return ask()
        except IndexDamaged:
            if self._home.manifest() == self.manifest:
                raise
        self.refresh()
        return ask()

    def _search(
        self,
        rows: RowGradients,
        k: int,
        proponents: bool,
        where: Mapping[str, Any] | None,
        indices: Sequence[int] | Tensor | None,
        length: Length | None,
        timeout: float | None,
    ) -> SearchResult:
        question = question_of(self._whole, rows, proponents)
        holders = [
            (actor, handle)
            for actor, handle, share in zip(self._actors, self._handles, self._shares, strict=True)
            if share
        ]
        # So many of each actor that together they know k scores.
        first = max(FIRST_CHUNK, -(-k // max(1, len(holders))))
        asked = Handle(secrets.token_hex(8), [self._ray.put(Asked(question, k, first, where, indices, length))])
        largest = max((sum(entry.examples for entry in share) for share in self._shares), default=0)
        size, step = len(question.rows), min(AT_ONCE, block_size(largest))
        blocks = [
            self._block(holders, asked, start, min(start + step, size), k, timeout)
            for start in range(0, max(1, size), step)
        ]
        best = _Best(*(np.concatenate(parts) for parts in zip(*(block[0] for block in blocks), strict=True)))
        counts = torch.from_numpy(np.concatenate([block[1] for block in blocks]))
        mean = [float(value) if size != 1 else int(value) for value in counts.double().mean(0).nan_to_num().tolist()]
        progress = blocks[0][2]
        ends = torch.from_numpy(best.ends)
        intervals = None if question.left is None else ends if question.sign > 0 else -ends.flip(2)
        stats = SearchStats(
            sum(one.examples for one in progress),
            mean[0],
            mean[1],
            mean[2],
            sum(one.payload_bytes for one in progress),
            counts[:, 0],
            counts[:, 2],
            intervals,
        )
        # + 0.0: the opponents' 0 is not −0.
        signed = torch.from_numpy(best.scores * np.float32(question.sign) + np.float32(0))
        return SearchResult(torch.from_numpy(best.numbers), signed, stats)

    def _block(
        self, holders: Sequence[tuple[Any, Handle]], asked: Handle, start: int, stop: int, k: int, timeout: float | None
    ) -> tuple[_Best, npt.NDArray[np.int64], list[Progress]]:
        """The best of some test examples, what was read for them, and how far each actor went."""
        size = stop - start
        progress: dict[int, Progress] = {}
        todo, number = list(range(len(holders))), 0
        best = _Best.none(size, 0)
        floors = np.full(size, -np.inf, dtype=np.float32)
        while todo:
            turn = Turn(start, stop, number, floors)
            told = {i: holders[i][0].verify.remote(holders[i][1], asked, turn) for i in todo}
            progress |= self._results(told, timeout)
            best = _Best.merged(list(progress.values()), k)
            if best.scores.shape[1] == k:
                floors = best.scores[:, -1]
            todo = [i for i, one in progress.items() if bool(((one.highest >= floors) & (one.highest > -np.inf)).any())]
            number += 1
        there = list(progress.values())
        most = min(k, sum(one.candidates for one in there))
        counts = sum((one.counts for one in there), np.zeros((size, 3), np.int64))
        if not size:  # nothing was asked, of which an answer has the shape all the same
            best = _Best.none(0, most)
        numbers, scores, ends = best
        return _Best(numbers[:, :most], scores[:, :most], ends[:, :most]), counts, there

    def _results(self, told: Mapping[int, Any], timeout: float | None) -> dict[int, Any]:
        """What actors answered; of errors the first one's, after all have answered, so that Ray tells of none as unheard."""
        found = {i: self._result_or_error(reference, timeout) for i, reference in told.items()}
        failed = next((one for one in found.values() if isinstance(one, Exception)), None)
        if failed is not None:
            raise failed
        return found

    def _result_or_error(self, reference: Any, timeout: float | None) -> Any:
        try:
            return self._result(reference, timeout)
        except Exception as error:
            return error

    def _result(self, reference: Any, timeout: float | None) -> Any:
        try:
            return self._ray.get(reference, timeout=timeout)
        except self._ray.exceptions.RayTaskError as error:
            cause = as_itself(error, f"Searching a part of the index {str(self._home)!r}")
            raise cause from cause.__cause__
        except self._ray.exceptions.GetTimeoutError as error:
            raise TimeoutError(
                f"The index {str(self._home)!r}: an actor has not answered within {timeout} seconds. Where a machine is "
                f"lost, Ray starts its actors anew when another has room for them (`ray status`): give it more time, or ask less."
            ) from error
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(
                f"The index {str(self._home)!r}: an actor is gone for good ({type(error).__name__}: {error}). Make another: "
                f"SearchActors(path)."
            ) from error


def _check_timeout(timeout: Any) -> None:
    if timeout is not None and not (is_rate(timeout) and timeout > 0):
        raise ValueError(f"`timeout` should be a number of seconds above 0, or None, got {timeout!r}.")


def search_with_ray(
    path: str | Path,
    rows: RowGradients,
    k: int,
    proponents: bool = True,
    parts: int = 2,
    *,
    storage_options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    **filters: Any,
) -> SearchResult:
    """:meth:`SearchActors.search` by actors that are made for this call; the result of :meth:`GradientIndex.search`.

    Args:
        path (str or Path): a directory that all machines see, or a URL.
        rows, k, proponents, filters: as in :meth:`SearchActors.search`.
        parts (int): actors.
        storage_options (mapping, optional): of a URL, what fsspec's file system is made with.
        timeout (float, optional): seconds that starting the actors, and then each round, may take. Default: no end.

    Raises:
        ImportError: Ray is not installed.
    """
    if not is_whole(parts) or parts < 1:
        raise ValueError(f"`parts` should be a whole number of at least 1, got {parts!r}.")
    unknown = [name for name in filters if name not in FILTERS]
    if unknown:
        raise TypeError(
            f"search_with_ray: there is no argument {', '.join(map(repr, unknown))}; filters are {', '.join(FILTERS)}."
        )
    engine("search_with_ray")
    with SearchActors(path, parts, storage_options=storage_options, timeout=timeout) as index:
        return index.search(rows, k, proponents, timeout=timeout, **filters)
