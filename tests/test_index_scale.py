"""Several processes, one index: torchrun builds what one process builds, and a dead worker loses nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from index_build import EXAMPLES, build_script, same_files, tracin_of

from captum_tracinwe import GradientIndex


@pytest.fixture
def whole(tmp_path):
    return tracin_of(tmp_path).build_index(tmp_path / "whole", segment_examples=4, rank=3)


def test_two_torchrun_workers_build_the_same_index(tmp_path, whole):
    script = tmp_path / "worker.py"
    script.write_text(build_script(tmp_path, tmp_path / "i", resume=False).replace("print", "(lambda *a, **k: 0)"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment, timeout=300)
    assert torch.equal(GradientIndex.open(tmp_path / "i").numbers, torch.arange(EXAMPLES))
    same_files(tmp_path / "i", whole.path)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_by_the_others_and_by_itself(tmp_path, whole):
    """Three workers; one is killed −9 as soon as it has begun, and started again."""
    path = tmp_path / "i"

    def start(rank):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"}
        script = build_script(tmp_path, path, resume=rank > 0)
        return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)

    workers = [start(rank) for rank in range(3)]
    victim = workers[1]
    victim.stdout.readline()
    deadline = time.time() + 60
    while not path.exists() and time.time() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    workers[1] = start(1)
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0, 0]
    for worker in [*workers, victim]:
        worker.stdout.close()
    found = GradientIndex.open(path)
    found.verify()
    assert torch.equal(found.numbers, torch.arange(EXAMPLES))
    same_files(path, whole.path)
