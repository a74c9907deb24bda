"""A machine that is lost during a build, and another during questions, lose nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_machine_that_is_lost_loses_neither_segments_nor_answers(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    script = Path(__file__).with_name("ray_nodes.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # this package, whichever it is
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False, env=env, timeout=400
    )
    assert run.returncode == 0, run.stderr[-4000:]
    found = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))  # Ray speaks there, too
    print(found)
    assert 3 <= found["segments"] < 15
    assert found["actors"] >= 1
    assert found["questions"] >= 20
