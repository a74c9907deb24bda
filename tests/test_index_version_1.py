"""An index that an earlier release wrote opens, answers as it did, and can be changed."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from index_cases import random_rows

from captum_tracinwe import GradientIndex, IndexDamaged
from captum_tracinwe.index.files.manifest import Manifest


@pytest.fixture
def stored(tmp_path):
    """20 examples in float16, two segments compacted, metadata; and what was answered by the code that wrote them."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "index_version_1.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "index", json.loads((tmp_path / "answers.json").read_text())


def alike(ours, stored):
    """To round-off: without kernels, or on another processor, sums are taken in another order."""
    stored = torch.tensor(stored)
    largest = stored[stored.isfinite()].abs().max().item()  # -inf is of examples that are deleted
    torch.testing.assert_close(ours, stored, rtol=0, atol=1e-6 * largest)


def assert_answers(index, answers):
    question = random_rows(2, tokens=6, vocabulary=12, width=4, seed=4)
    alike(index.scores(question)[:, :20], answers["scores"])
    alike(index.self_influence()[:20], answers["self"])
    for proponents, (indices, best) in zip((True, False), answers["best"], strict=True):
        found = index.search(question, 5, proponents, indices=range(20))
        assert found.indices.tolist() == indices
        alike(found.influence_scores, best)
    assert index.search(question, 3, where={"n": [2, 11, 17]}, indices=range(20)).indices.tolist() == answers["where"]


def test_it_opens_and_answers_as_it_did(stored):
    folder, answers = stored
    index = GradientIndex.open(folder)
    assert index.manifest.version == 1
    assert_answers(index, answers)
    index.verify()


def test_it_can_be_changed_and_still_answers(stored, tmp_path):
    folder, answers = stored
    index = GradientIndex.open(folder)
    index = index.append(
        random_rows(9, tokens=6, vocabulary=12, width=4, seed=5).scale(1e-5), {"n": list(range(20, 29))}
    )
    assert index.manifest.version == 2
    assert_answers(index, answers)
    assert [segment.bound for segment in index.segments] == [False, False, False, True, True]
    index.verify()
    merged = index.merge(folder).compact()  # with itself: both forms are read, and one is written
    assert_answers(merged, answers)
    assert merged.total == 58
    assert all(segment.bound for segment in merged.segments[5:])
    merged.verify()


def test_an_altered_scale_is_noticed_though_its_segments_do_not_name_it(stored):
    folder, _ = stored
    manifest = Manifest.read(folder)
    from msgspec.structs import replace

    for factor in (0.5, 2.0, 2.0**-10):
        replace(manifest, scale=manifest.scale * factor).write(folder)
        index = GradientIndex.open(folder)
        with pytest.raises(IndexDamaged, match="squared norms"):
            index.search(random_rows(2, tokens=6, vocabulary=12, width=4, seed=4), 3)
