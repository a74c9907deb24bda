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

import torch
from index_build import tracin_of
from torch.utils.data import Dataset

#: Of the index that tasks build: 38 segments.
FORM = {"segment_examples": 4, "rank": 3}


@contextmanager
def ray_started(**options):
    """Ray on this machine: two processors, and two graphics processors that are only counted."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    little = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 80 << 20}
    ray.init(**{**little, **options}, include_dashboard=False, log_to_driver=False)
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


def slow_tracin(folder, notes, seconds=0.0, fails_at=None):
    """The TracInWE of ``index_build``, of which each example takes so long; the loss fails at an example's labels."""
    torch.set_num_threads(1)
    plain = tracin_of(folder)
    (Path(notes) / f"made-{os.getpid()}-{time.monotonic_ns()}").touch()
    examples = Slow(plain.train_dataset, notes, seconds)
    if fails_at is not None:
        examples = Failing(examples, fails_at)
    return type(plain)(plain.model, examples, plain.checkpoints, loss_fn=plain.loss_fn, batch_size=3)


class Failing(Dataset):
    """Examples, one of which cannot be read."""

    def __init__(self, examples, at):
        self.examples, self.at = examples, at

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        if index == self.at:
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
