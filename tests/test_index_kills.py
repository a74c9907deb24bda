"""Writers of an index killed at random moments: it opens, is as before or as after, and can be gone on with.

More of them: `CAPTUM_TRACINWE_KILLS=500 python -m pytest -s tests/test_index_kills.py` spreads 500 over the operations.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from index_cases import random_rows, small_index
from index_kills import OPERATIONS

from captum_tracinwe import GradientIndex, RowGradients
from captum_tracinwe.index.files.names import claim_of

KILLS = int(os.environ.get("CAPTUM_TRACINWE_KILLS", "30"))
SEED = int(os.environ.get("CAPTUM_TRACINWE_KILLS_SEED", "0"))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one fresh Python, which forks a child for each kill, has found: operation → counts, and what was wrong."""
    share = -(-KILLS // len(OPERATIONS))
    arguments = [Path(__file__).with_name("index_kills.py"), tmp_path_factory.mktemp("kills"), share, SEED]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # this package, whichever it is
    done = subprocess.run([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, check=True, env=env)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_writer_killed_at_any_moment_leaves_the_index_as_it_was_or_as_it_should_be(found, operation):
    counts = dict(found[operation])
    print(operation, counts)
    assert counts.pop("wrong") == ""
    assert counts["killed"] >= KILLS // len(OPERATIONS)


def test_what_cannot_be_made_into_an_index_leaves_none(tmp_path):
    """Neither an exception nor a kill leaves an empty index that says it is complete."""
    rows = random_rows(40)
    values = rows.values.clone()
    values[-1] = torch.nan
    with pytest.raises(ValueError, match="example 39 has a gradient of norm"):
        GradientIndex.from_rows(tmp_path / "i", RowGradients(rows.ptr, rows.ids, values), segment_examples=16)
    with pytest.raises(FileNotFoundError):
        GradientIndex.open(tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []
    assert len(GradientIndex.from_rows(tmp_path / "i", rows)) == 40


def test_the_claim_of_a_killed_build_is_swept(tmp_path):
    index, _ = small_index(tmp_path / "i")
    claim = index.path / claim_of(16)
    claim.write_bytes(b"")
    index.append(random_rows(2))
    assert not claim.exists()
