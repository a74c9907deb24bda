"""Ray's actors answer as one process does, bit for bit: any question, any filter, whoever dies, as the index grows."""

import os
import random
import re
import signal
import threading

import pytest
import torch
from index_cases import random_rows, small_index
from index_in_memory import rows_of
from ray_cases import alive

from captum_tracinwe import GradientIndex, IndexDamaged, RowGradients
from captum_tracinwe.index.launch import SearchActors, search_with_ray
from captum_tracinwe.index.remote import home
from captum_tracinwe.preconditioners import Length

EXAMPLES = 1200


def even_rows(examples, seed=0):
    """Rows of equal length in all directions: bounds that say little, so that many rounds are needed."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 30, (examples * 6,), generator=generator)
    values = torch.randn(len(ids), 8, generator=generator)
    return RowGradients.from_positions(torch.arange(examples).repeat_interleave(6), ids, values, examples)


def equal(found, expected):
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.influence_scores, expected.influence_scores)
    assert found.influence_scores.dtype == expected.influence_scores.dtype
    assert found.stats.examples == expected.stats.examples
    assert found.stats.payload_bytes == expected.stats.payload_bytes
    assert found.stats.verified_per_test.shape == expected.stats.verified_per_test.shape


def random_question(draw, index):
    """Rows, k, side and filters."""
    seed, tests = draw.randrange(1 << 30), draw.choice([0, 1, 1, 1, 2, 5])
    known = draw.random() < 0.3
    rows = index.rows(draw.sample(index.numbers.tolist(), tests)) if known else even_rows(tests or 1, seed)
    rows = rows if tests else rows.select([])
    filters = {}
    if draw.random() < 0.3:
        filters["where"] = {"n": draw.sample(range(7), draw.randrange(1, 7))}
    if draw.random() < 0.3:
        filters["indices"] = draw.sample(range(index.total), draw.choice([0, 1, 50, index.total // 2]))
    if draw.random() < 0.2:
        filters["length"] = Length(by="gradient", sides="train")
    return rows, draw.choice([1, 2, 5, 64, 70, 300, index.total + 5]), draw.random() < 0.5, filters


def made(path, examples=EXAMPLES):
    """An index with ties: every example is there twice, far apart."""
    rows = even_rows(examples // 2)
    twice = rows.select([*range(examples // 2), *range(examples // 2)])
    return GradientIndex.from_rows(
        path, twice, rank=3, segment_examples=100, metadata={"n": [i % 7 for i in range(examples)]}
    )


# ---------------------------------------------------------------------------------------------------------- without Ray


@pytest.mark.parametrize("actors", [1, 2, 5, 20])
def test_rounds_over_any_number_of_parts_find_what_one_search_finds(inline, tmp_path, actors):
    index, draw = made(tmp_path / "i"), random.Random(actors)
    with SearchActors(index.path, actors) as parts:
        for _ in range(20):
            rows, k, proponents, filters = random_question(draw, index)
            equal(parts.search(rows, k, proponents, **filters), index.search(rows, k, proponents, **filters))
    assert inline.rounds >= (2 if actors < 20 else 1)


def test_few_tokens_and_values_with_ties_zeros_and_empty_examples(inline, tmp_path):
    for seed in range(6):
        index = GradientIndex.from_rows(tmp_path / f"i{seed}", rows_of(seed, 90, 4), rank=2, segment_examples=7)
        with SearchActors(index.path, 3) as parts:
            for k in (1, 4, 65, 200):
                rows = rows_of(seed + 100, 5, 4)
                equal(parts.search(rows, k, seed % 2 == 0), index.search(rows, k, seed % 2 == 0))


def test_an_actor_that_forgets_everything_at_any_moment_changes_nothing(inline, tmp_path):
    index, draw = made(tmp_path / "i"), random.Random(3)
    with SearchActors(index.path, 3) as parts:
        inline.loses = 0.4
        for _ in range(20):
            rows, k, proponents, filters = random_question(draw, index)
            equal(parts.search(rows, k, proponents, **filters), index.search(rows, k, proponents, **filters))


def test_what_a_compaction_took_away_from_an_actor_is_asked_of_the_index_as_it_is_then(inline, tmp_path):
    index = made(tmp_path / "i")
    question = even_rows(2, 77)
    with SearchActors(index.path, 3) as parts:
        deleted = index.delete(range(50, 180))
        parts.refresh()
        compacted = deleted.compact()
        equal(parts.search(question, 20), deleted.search(question, 20))  # what is open stays open
        inline.loses = 0.5
        for _ in range(10):
            equal(parts.search(question, 20), compacted.search(question, 20))
        assert parts.manifest == compacted.manifest
        (index.path / compacted.manifest.segments[0].file.name).unlink()
        inline.loses = 1.0
        with pytest.raises(IndexDamaged, match="is missing"):
            parts.search(question, 20)


def test_under_a_url_each_actor_fetches_its_own_segments(inline, tmp_path, monkeypatch):
    pytest.importorskip("fsspec", reason="fsspec is not installed (extra: remote)")
    index, rows = small_index(tmp_path / "i")
    index.push(f"file://{tmp_path}/sent")
    fetched, original = [], home.fetch_all

    def fetch_all(store, folder, files):
        files = list(files)
        fetched.append({one.file.name for one in files if one.file.name.startswith("segment")})
        return original(store, folder, files)

    monkeypatch.setattr(home, "fetch_all", fetch_all)
    question = rows.select([3, 5])
    found = search_with_ray(f"file://{tmp_path}/sent", question, 7, parts=2, where=None)
    equal(found, index.search(question, 7))
    shares = [names for names in fetched if names]
    assert sorted(map(len, shares)) == [2, 2]
    assert not shares[0] & shares[1]


def test_a_floor_of_all_actors_saves_verifying(inline, tmp_path):
    """One part holds the strongest: the others verify little beyond their first chunk."""
    rows = even_rows(1500)
    rows.values[: int(rows.ptr[100])] *= 3
    index = GradientIndex.from_rows(tmp_path / "i", rows, rank=3, segment_examples=500)
    question = even_rows(1, 4)
    with SearchActors(index.path, 3) as parts:
        found = parts.search(question, 5)
    alone = sum(float(index.part(i, 3).search(question, 5).stats.verified) for i in range(3))
    equal(found, index.search(question, 5))
    assert found.stats.verified < 0.8 * alone


def test_segments_stay_where_they_are_when_others_come(inline, tmp_path):
    index = made(tmp_path / "i")
    with SearchActors(index.path, 3) as parts:
        before = [set(share) for share in parts._shares]
        assert [len(share) for share in before] == [4, 4, 4]
        index = index.append(even_rows(250, 9)).delete([3, 700])
        parts.refresh()
        assert all(share <= set(now) for share, now in zip(before, parts._shares, strict=True))
        assert sorted(len(share) for share in parts._shares) == [5, 5, 5]
        equal(parts.search(index.rows([1, 1300]), 9), index.search(index.rows([1, 1300]), 9))


def test_a_search_that_cannot_be_is_refused_as_by_an_index(inline, tmp_path):
    index, _ = small_index(tmp_path / "i")
    rows = index.rows([1])
    with SearchActors(index.path, 2) as parts:
        assert repr(parts) == f"SearchActors({str(index.path)!r}: 2 + 2 segments)"
        wrong = [{"where": {"no": 1}}, {"indices": [60]}, {"proponents": "no"}, {"proponents": None}, {"length": 5}]
        for k, arguments in ((0, {}), *((1, one) for one in wrong)):
            with pytest.raises((TypeError, ValueError), match=".") as expected:
                index.search(rows, k, **arguments)
            with pytest.raises(expected.type, match=re.escape(str(expected.value))):
                parts.search(rows, k, **arguments)
        for timeout in (0, -1, float("nan"), float("inf"), "x", True):
            with pytest.raises(
                ValueError, match=f"`timeout` should be a number of seconds above 0, or None, got {timeout!r}"
            ):
                parts.search(rows, 1, timeout=timeout)
        with pytest.raises(ValueError, match="expected rows of 8 columns, got 4"):
            parts.search(rows_of(0, 1, 4), 1)
    with pytest.raises(ValueError, match="it was closed"):
        parts.search(rows, 1)
    for given, said in (
        ({"num_cpus": "1"}, "`num_cpus` should be a number of at least 0, got '1'"),
        ({"timeout": 0}, "`timeout` should be a number of seconds above 0"),
    ):
        with pytest.raises(ValueError, match=said):
            SearchActors(index.path, 1, **given)
    with pytest.raises(ValueError, match="'memory://b/i' is in the memory of this process alone"):
        SearchActors("memory://b/i")
    with pytest.raises(ValueError, match="`parts` should be a whole number of at least 1, got 0"):
        search_with_ray(index.path, rows, 1, parts=0)
    with pytest.raises(TypeError, match="there is no argument 'wher'; filters are where, indices, length"):
        search_with_ray(index.path, rows, 1, wher=1)
    with pytest.raises(ValueError, match="`actors` should be a whole number of at least 1, got 0"):
        SearchActors(index.path, 0)
    with pytest.raises(FileNotFoundError, match="No index at"):
        SearchActors(tmp_path / "none")


def test_an_index_without_segments_answers_nothing(inline, tmp_path):
    rows = random_rows(2)
    index = GradientIndex.from_rows(tmp_path / "i", rows.select([]))
    with SearchActors(index.path, 2) as parts:
        assert parts.search(rows, 3).indices.shape == index.search(rows, 3).indices.shape == (2, 0)


# ------------------------------------------------------------------------------------------------------------- with Ray


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return tmp_path_factory.mktemp("searched")


@pytest.fixture(scope="module")
def actors(ray, searched):
    made(searched / "i")
    with SearchActors(searched / "i", 2) as parts:
        yield parts


def processes(ray, parts):
    return ray.get([actor.process.remote() for actor in parts._actors])


def test_actors_answer_random_questions_as_one_process_does(ray, actors, searched):
    index, draw = GradientIndex.open(searched / "i"), random.Random(1)
    for _ in range(35):
        rows, k, proponents, filters = random_question(draw, index)
        equal(actors.search(rows, k, proponents, **filters), index.search(rows, k, proponents, **filters))


def test_an_error_in_an_actor_comes_out_as_itself(ray, actors):
    with pytest.raises(ValueError, match="^The index has no metadata column 'no'") as caught:
        actors.search(even_rows(1), 1, where={"no": 1})
    assert type(caught.value) is ValueError
    assert "Searching a part of the index" in str(caught.value.__cause__)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_actors_lose_nothing(ray, actors, searched, kills):
    index, draw, killed = GradientIndex.open(searched / "i"), random.Random(kills), []
    for _ in range(kills):
        victim = draw.choice(processes(ray, actors))
        killed.append(victim)
        timer = threading.Timer(draw.uniform(0, 0.1), os.kill, (victim, signal.SIGKILL))
        timer.start()
        while timer.is_alive() or alive(victim):
            rows, k, proponents, filters = random_question(draw, index)
            equal(actors.search(rows, k, proponents, **filters), index.search(rows, k, proponents, **filters))
    assert not any(alive(victim) for victim in killed)
    assert not set(killed) & set(processes(ray, actors))
    rows, k, proponents, filters = random_question(draw, index)
    equal(actors.search(rows, k, proponents, **filters), index.search(rows, k, proponents, **filters))


@pytest.mark.slow
def test_what_is_added_and_compacted_is_searched_by_the_actors_that_are_there(ray, actors, searched):
    index = GradientIndex.open(searched / "i")
    question = even_rows(2, 77)
    grown = index.append(even_rows(90, 8), {"n": [1] * 90}).delete(range(50, 180))
    equal(actors.search(question, 20), index.search(question, 20))  # a snapshot, as any open index is
    actors.refresh()
    equal(actors.search(question, 20), grown.search(question, 20))
    compacted = grown.compact()
    os.kill(processes(ray, actors)[0], signal.SIGKILL)  # it must open again what is no more
    equal(actors.search(question, 20), compacted.search(question, 20))


@pytest.mark.slow
def test_an_index_under_a_url_is_searched_in_one_call(ray, tmp_path, monkeypatch):
    index, rows = small_index(tmp_path / "i")
    index.push(f"file://{tmp_path}/sent")
    equal(search_with_ray(f"file://{tmp_path}/sent", rows.select([3, 5]), 7), index.search(rows.select([3, 5]), 7))


def test_how_far_scores_can_be_off_is_told_as_by_one_process(ray, tmp_path):
    index = GradientIndex.from_rows(tmp_path / "i", even_rows(300), dtype="int4", rank=3, segment_examples=40)
    test = even_rows(4, seed=9)
    with SearchActors(tmp_path / "i", 3) as actors:
        for proponents in (True, False):
            found, expected = actors.search(test, 7, proponents), index.search(test, 7, proponents)
            equal(found, expected)
            assert torch.equal(found.stats.intervals, expected.stats.intervals)
        assert actors.search(test.select([]), 7).stats.intervals.shape == (0, 7, 2)
