"""Ray as tests start it, and a training set that takes its time and notes who reads it, for those that kill its processes."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from index_build import tracin_of
from torch.utils.data import Dataset

#: Of the index that tasks build: 15 segments.
FORM = {"segment_examples": 10, "rank": 3}
# Nothing is told to anybody, and a worker may take its time on a machine at work on other things.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_register_timeout_seconds": "300"}
# Ray gives up where one of its own processes is not there within 15 seconds, as on such a machine.
STARTS = 4


def without_dashboard():
    """Ray with the least of its own: an agent that nobody here asks takes longer to start than Ray waits for it."""
    sys.modules["ray.dashboard.optional_deps"] = None


@contextmanager
def ray_started(**options):
    """Ray on this machine: two processors, and two graphics processors that are only counted."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    os.environ.update(ENVIRONMENT)
    without_dashboard()
    little = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 80 << 20}
    for left in reversed(range(STARTS)):
        try:
            ray.init(**{**little, **options}, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if not left:
                raise
    try:
        yield ray
    finally:
        ray.shutdown()


class Slow(Dataset):
    """Examples that come after a while; who reads them is noted, by a file of the process's number."""

    def __init__(self, examples, notes, seconds):
        self.examples, self.notes, self.seconds = examples, Path(notes), seconds

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        (self.notes / str(os.getpid())).touch()
        return self.examples[index]


def slow_tracin(folder, notes, seconds=0.0, fails=None):
    """The TracInWE of ``index_build``, of which each example takes so long; see :class:`Failing`."""
    torch.set_num_threads(1)
    (Path(notes) / f"made-{os.getpid()}-{time.monotonic_ns()}").touch()

    def wrapped(data):
        slow = Slow(data, notes, seconds)
        return slow if fails is None else Failing(slow, *fails)

    return tracin_of(folder, wrapped)


class Failing(Dataset):
    """Examples, one of which cannot be read once there is some file."""

    def __init__(self, examples, at, once):
        self.examples, self.at, self.once = examples, at, Path(once)

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        if index == self.at and self.once.exists():
            raise KeyError(f"example {index} is not to be had")
        return self.examples[index]


def readers(notes):
    """Processes that have read examples, and how many TracInWEs were made."""
    names = [path.name for path in Path(notes).iterdir()]
    return {int(name) for name in names if name.isdigit()}, sum(name.startswith("made-") for name in names)


class Killer(threading.Thread):
    """Kills processes at random moments: of those that have read examples, one after the other."""

    def __init__(self, notes, kills, seed=0, pause=(0.0, 0.4)):
        super().__init__(daemon=True)
        self.notes, self.left, self.pause = notes, kills, pause
        self.random, self.killed = random.Random(seed), []
        self.stopped = threading.Event()

    def run(self):
        while self.left and not self.stopped.wait(self.random.uniform(*self.pause)):
            victims = sorted(pid for pid in readers(self.notes)[0] - set(self.killed) - {os.getpid()} if alive(pid))
            if victims:
                victim = self.random.choice(victims)
                os.kill(victim, signal.SIGKILL)
                self.killed.append(victim)
                self.left -= 1


def alive(pid):
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------- without Ray


class Reference:
    """What was put, or what a call gave or raised."""

    def __init__(self, value=None, error=None):
        self.value, self.error = value, error


class TaskError(Exception):
    """As Ray passes on what was raised."""

    def __init__(self, cause):
        super().__init__(f"\x1b[36mray::task()\x1b[39m (pid=1): {type(cause).__name__}")
        self.cause = cause


class Inline:
    """As much of Ray as this package takes, within this process: calls are made when they are asked for.

    Args:
        loses (float): how often an actor has died, and was started anew, when it is called.
    """

    exceptions = SimpleNamespace(
        RayTaskError=TaskError,
        GetTimeoutError=type("GetTimeoutError", (Exception,), {}),
        RayError=type("RayError", (Exception,), {}),
    )

    def __init__(self, loses=0.0):
        self.loses, self.rounds, self.options, self._random = loses, 0, [], random.Random(0)

    def remote(self, **options):
        self.options.append(options)
        return lambda made: SimpleNamespace(
            remote=lambda *arguments: self._actor(made) if isinstance(made, type) else self._call(made, arguments)
        )

    def _call(self, function, arguments):
        try:
            return Reference(function(*arguments))
        except Exception as error:
            return Reference(error=error)

    def _actor(self, kind):
        state = [kind()]

        def method(name):
            def call(*arguments):
                if name == "verify":
                    self.rounds = max(self.rounds, arguments[2].number)
                if self._random.random() < self.loses:
                    state[0] = kind()
                return self._call(getattr(state[0], name), arguments)

            return SimpleNamespace(remote=call)

        return SimpleNamespace(**{name: method(name) for name in ("open", "verify", "process")})

    def put(self, value):
        return Reference(value)

    def get(self, reference, timeout=None):
        if reference.error is not None:
            raise TaskError(reference.error)
        return reference.value

    def wait(self, references, num_returns, timeout=None):
        return references[:num_returns], references[num_returns:]

    def kill(self, actor):
        pass

    def cancel(self, reference):
        pass

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]
