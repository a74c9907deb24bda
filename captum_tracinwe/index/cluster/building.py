"""Building with Ray: a task for each segment that is missing, retried by Ray; the driver enters what is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from captum._utils.progress import NullProgress, progress

from captum_tracinwe.batches.arguments import as_memory_limit, check_flags, is_whole
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.seen import shows_bars, when_shown
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.index.build import Beginning, check_same, missing_spans, refuse_stream, write_span
from captum_tracinwe.index.cluster.engine import (
    Handle,
    as_itself,
    check_place,
    check_resources,
    engine,
    warn_without_room,
)
from captum_tracinwe.index.cluster.targets import Target, target_of
from captum_tracinwe.index.creation import check_form, read_projections
from captum_tracinwe.index.estimate import Options, examples_in
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.manifest import Manifest, Part, SegmentEntry
from captum_tracinwe.index.files.sketch import Sketch
from captum_tracinwe.index.gradient_index import GradientIndex
from captum_tracinwe.index.homes import StoreHome
from captum_tracinwe.index.maintenance import check_columns

__all__ = ["Trained", "build_with_ray"]

# Rounds of tasks over what is missing still: more than one where somebody took finished files away.
ROUNDS = 3
# A manifest of very many segments takes long to write: it is written no more often than leaves nine tenths of the time.
SPARED = 9
# Of `TracInWE.build_index`, besides the path, `resume` and `append`.
OPTIONS = ("dtype", "rank", "segment_examples", "memory_limit", "metadata", "project", "show_progress", "announce")

# Where a task has died as often as may be.
KEPT = (
    "What is finished is kept: go on with resume=True; where memory is short, with fewer `workers`, more `num_cpus` for each, or "
    "a lower `memory_limit`."
)

Span = tuple[int, int]


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
    num_cpus: float = 1,
    retries: int = 3,
    storage_options: dict[str, Any] | None = None,
    **options: Any,
) -> GradientIndex | None:
    """:meth:`TracInWE.build_index` by Ray's tasks, on all machines of its cluster; Ray is in the extra ``ray``.

    The files are those of a build in one process. Each segment is a task. Ray starts it again where its process or its machine
    dies; what other tasks finished by then is kept. Whoever opens the index meanwhile is answered of the segments that are there.

    Args:
        make_tracin (callable): makes the TracInWE, once in each worker process, which keeps it.
        path (str or Path): a directory that all machines see under this path; or a URL that fsspec reaches, to which each task
            sends its segment.
        workers (int): tasks at a time.
        resume (bool): go on with an unfinished build.
        num_gpus, num_cpus (float): of each task.
        retries (int): how often a task is begun again whose process or machine dies.
        storage_options (dict, optional): of a URL, what fsspec's file system is made with.
        **options: as in :meth:`TracInWE.build_index`, but ``append``.

    Returns:
        GradientIndex: the index; of a URL None, for opening it copies its files to this machine.

    Raises:
        FileExistsError: there is an index already, and ``resume`` is not asked for.
        ImportError: Ray is not installed.
        IndexMismatch: the one there is of something else.
        TypeError, ValueError: an argument that cannot be, or that there is not.
        RuntimeError: the process of a task died more often than ``retries``; or somebody else changes the index at the URL.
        Exception: whatever the model, the loss or the data raise in a task, as it is; its note names the segment.
    """
    if not is_whole(workers) or workers < 1:
        raise ValueError(f"build_with_ray: `workers` should be a whole number of at least 1, got {workers!r}.")
    if not is_whole(retries) or retries < 0:
        raise ValueError(f"build_with_ray: `retries` should be a whole number of at least 0, got {retries!r}.")
    if not callable(make_tracin):
        raise TypeError(
            f"build_with_ray: `make_tracin` should be a function that makes a TracInWE, got a {type(make_tracin).__name__}."
        )
    check_flags(resume=resume)
    check_resources("build_with_ray", num_gpus=num_gpus, num_cpus=num_cpus)
    check_place("build_with_ray", path)
    options = _checked(options)
    ray = engine("build_with_ray")
    target = target_of(path, storage_options=storage_options)
    manifest = target.manifest()
    if manifest is not None and not resume:
        raise FileExistsError(
            f"There is an index at {str(target.home)!r} already: go on with it by resume=True, or name another place."
        )
    # A worker that has a GPU would end after each task, and the model would be loaded for each segment.
    of_task = {"num_gpus": num_gpus, "num_cpus": num_cpus, "max_retries": retries, "max_calls": 0}
    job = _Job(ray, target, of_task, Handle(secrets.token_hex(8), [ray.put(make_tracin)]), int(workers))
    warn_without_room(ray, "build_with_ray", num_cpus=num_cpus, num_gpus=num_gpus)
    chosen, beginning = job.look(manifest, options)
    if manifest is None:
        assert beginning is not None
        manifest = target.begin(beginning, chosen)
    job.build(manifest, chosen)
    return None if isinstance(target.home, StoreHome) else GradientIndex.open(target.home.folder)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Told before anything is started.

    Raises:
        TypeError: there is no such option.
        ValueError: `memory_limit` is no number of bytes.
    """
    if "append" in options:
        raise TypeError(
            "build_with_ray: `append` is not one of its options. Append in one process: tracin.build_index(path, append=True)."
        )
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(
            f"build_with_ray: there is no option {', '.join(map(repr, unknown))}; expected some of {', '.join(OPTIONS)}."
        )
    if options.get("memory_limit", 0) is None:
        options.pop("memory_limit")
    if "memory_limit" in options:
        options["memory_limit"] = as_memory_limit(options["memory_limit"])
    return options


# ------------------------------------------------------------------------------------------------------------- driver


@dataclass(frozen=True)
class _Job:
    ray: Any
    target: Target
    of_task: dict[str, Any]
    make: Handle
    workers: int

    def look(self, manifest: Manifest | None, options: dict[str, Any]) -> tuple[Options, Beginning | None]:
        """What the index is begun with; of one that is there, that it is of the same source."""
        task = self.ray.remote(**self.of_task)(_look)
        quiet = {**options, "announce": None}
        found = task.remote(self.make, quiet, manifest, self.target)
        chosen, beginning = self._result(
            found,
            f"Looking at the training set for the index {str(self.target.home)!r}",
            "No segment was built. See that `make_tracin()` runs alone in a Python of that machine, and has memory enough there.",
        )
        return dataclasses.replace(chosen, announce=options.get("announce")), beginning

    def build(self, manifest: Manifest, options: Options) -> None:
        """See that all of the last part is there."""
        part = manifest.parts[-1]
        self.target.home.hold(manifest, ())
        projections = read_projections(self.target.home.folder, manifest)
        form = Handle(secrets.token_hex(8), [self.ray.put((manifest, projections))])
        left = missing_spans(manifest, part)
        show = options.show_progress
        desc = "Building an index by Ray. Processing segments"
        bar = progress(desc=desc, total=len(left), **when_shown(show)) if shows_bars(show) else NullProgress()
        with bar:
            for _ in range(ROUNDS):
                if left:
                    manifest = self._round(part, left, form, options, bar.update)
                left = missing_spans(manifest, part)
        if left:
            raise RuntimeError(
                f"The index {str(self.target.home)!r} lacks the segment of {left[0][0]} to {left[0][1] - 1}, whose files were "
                f"taken away {ROUNDS} times before they could be entered: expected no other writer. Stop it; then resume=True."
            )
        self.target.finish()

    def _round(
        self, part: Part, spans: list[Span], form: Handle, options: Options, told: Callable[[int], None]
    ) -> Manifest:
        """A task for each span, so many at a time; what is finished is entered as it comes."""
        task = self.ray.remote(**self.of_task)(_write)
        common = dataclasses.replace(options, metadata={}, announce=None, show_progress=False)
        waiting, running = deque(spans), dict[Any, Span]()
        failed: Exception | None = None
        entered = _Entered(self.target)
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    span = waiting.popleft()
                    start, stop = span[0] - part.first, span[1] - part.first
                    metadata = {name: values[start:stop] for name, values in options.metadata.items()}
                    mine = dataclasses.replace(common, metadata=metadata)
                    running[task.remote(self.make, form, span, mine, self.target)] = span
                self.ray.wait(list(running), num_returns=1)
                for done in self.ray.wait(list(running), num_returns=len(running), timeout=0)[0]:
                    first, stop = running.pop(done)
                    what = f"Writing the segment of {first} to {stop - 1} of the index {str(self.target.home)!r}"
                    try:
                        entered.add(self._result(done, what))
                    except Exception as error:  # after what else is finished is entered
                        failed = failed or error
                    told(1)
                if failed is not None:
                    raise failed
        finally:
            for left in running:
                with contextlib.suppress(Exception):
                    self.ray.cancel(left)
            entered.all()
        return entered.manifest

    def _result(self, reference: Any, what: str, then: str = KEPT) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            cause = as_itself(error, what)
            raise cause from cause.__cause__
        except self.ray.exceptions.RayError as error:
            raise RuntimeError(
                f"{what} ended {self.of_task['max_retries'] + 1} times with its process or machine ({type(error).__name__}: "
                f"{error}). {then}"
            ) from error


class _Entered:
    """Enters finished segments, one by one where that takes no time, and several at once where it does."""

    def __init__(self, target: Target) -> None:
        self._target, self._entries = target, list[SegmentEntry]()
        self._next = 0.0
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """As it was written last."""
        assert self._manifest is not None
        return self._manifest

    def add(self, entry: SegmentEntry) -> None:
        """One more."""
        self._entries.append(entry)
        if time.monotonic() >= self._next:
            self.all()

    def all(self) -> None:
        """Whatever is not entered yet."""
        if not self._entries:
            return
        begun = time.monotonic()
        self._manifest = self._target.enter(self._entries)
        self._entries = []
        ended = time.monotonic()
        self._next = ended + SPARED * (ended - begun)


# -------------------------------------------------------------------------------------------------------------- tasks

# Of this worker process: what tasks have in common, of one build at a time.
_kept: dict[str, tuple[str, Any]] = {}


def _common(kind: str, made: Handle, use: Callable[[Any], Any]) -> Any:
    """What tasks have in common, made once in a worker process."""
    if _kept.get(kind, ("",))[0] != made.key:
        import ray

        _kept.pop(kind, None)  # the former one's memory is free before this one is made
        _kept[kind] = made.key, use(ray.get(made.references[0]))
    return _kept[kind][1]


def _source(made: Handle) -> LiveSource:
    source: LiveSource = _common("source", made, _of_made)
    return source


def _of_made(make: Callable[[], Trained]) -> LiveSource:
    tracin = make()
    source = getattr(tracin, "live_source", None)
    if not isinstance(source, LiveSource):
        raise TypeError(f"build_with_ray: `make_tracin` should return a TracInWE, got a {type(tracin).__name__}.")
    return source


@undisturbed
def _look(
    made: Handle, given: dict[str, Any], manifest: Manifest | None, target: Target
) -> tuple[Options, Beginning | None]:
    """The options as they are, and what a new index is begun with; or that the one there is of the same source."""
    training = _source(made)
    options = Options(**{"memory_limit": training.live.memory_limit, **given})
    options = dataclasses.replace(options, metadata=options.metadata or {})
    check_form(options.dtype, options.rank, options.segment_examples, options.project, training.width)
    size = examples_in(training.examples.by_index())
    if size is None:
        refuse_stream()
    check_columns(options.metadata, size)
    if manifest is None:
        return options, Beginning.of(training, size, options)

    def opened() -> Any:
        entries = manifest.segments
        if isinstance(target.home, StoreHome):  # each is copied to this machine as a whole
            entries = entries[:1] + entries[1:][-1:]
        return GradientIndex.of(target.home, manifest, entries).segments

    check_same(training, manifest, size, False, options, str(target.home), opened)
    return options, None


@undisturbed
def _write(made: Handle, form: Handle, span: Span, options: Options, target: Target) -> SegmentEntry:
    """One segment, whose files are then where the index is."""
    training = _source(made)
    manifest, projections = _formed(form)
    return target.write(lambda folder, room: write_span(training, folder, manifest, projections, span, options, room))


def _formed(form: Handle) -> tuple[Manifest, tuple[Sketch, Kept]]:
    found: tuple[Manifest, tuple[Sketch, Kept]] = _common("form", form, lambda both: both)
    return found
