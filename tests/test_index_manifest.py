"""Manifests edited with a right checksum: refused by name, or harmless; no raw error, and no other scores.

``CAPTUM_TRACINWE_FUZZ`` says how many edits are drawn.
"""

import collections
import contextlib
import copy
import json
import math
import os
import random
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from index_cases import random_rows, rewrite, small_index

from captum_tracinwe import GradientIndex, IndexDamaged
from captum_tracinwe.index.files.manifest import Manifest

EDITS = int(os.environ.get("CAPTUM_TRACINWE_FUZZ", "300"))
QUESTION = random_rows(2, seed=9)
VALUES = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        16,
        60,
        1 << 31,
        (1 << 48) + 1,
        1 << 53,
        1 << 63,
        1 << 64,
        10**40,
        -(1 << 63),
        4096,
    ),
    *(
        0.0,
        0.5,
        -0.5,
        2.0,
        1.5,
        1e308,
        5e-324,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "../x",
        "/etc/passwd",
        "NaN",
        "0",
        "\ud800",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, 2],
        [[0, 5]],
        [[5, 0]],
        [[0, 1], [0, 1]],
        [[1e3, 2]],
        {"a": 1},
        "0" * 64,
        "é\n\x1b[31m",
        "a" * 10_000,
    ),
]
NUMBERS = [
    lambda x: x + 1,
    lambda x: x - 1,
    lambda x: x + 16,
    lambda x: x - 16,
    lambda x: 2 * x,
    lambda x: -x,
    lambda x: x // 2,
]
WRAPS = [lambda x: [x], lambda x: str(x), lambda x: {"value": x}, lambda x: float(x) if isinstance(x, int) else x]
DEEP = "[" * 100_000 + "]" * 100_000
ADDED = ["extra", "", "columns", "first", "__class__", "name"]


def places(content):
    """Each entry of a manifest, as its container and its key."""
    found = []
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        found.append((content, key))
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


def edit_once(content, generator):
    """One change, and what it was."""
    everything = places(content)
    container, key = generator.choice(everything)
    old = container[key]
    kind = generator.choice(
        ["value", "value", "number", "wrap", "remove", "add", "copy", "swap", "exchange", "list", "span"]
    )
    if kind == "value":
        container[key] = copy.deepcopy(generator.choice(VALUES))
    elif kind == "number":
        numbers = [(c, k) for c, k in everything if type(c[k]) in (int, float)]
        container, key = generator.choice(numbers)
        container[key] = generator.choice(NUMBERS)(container[key])
    elif kind == "wrap":
        container[key] = generator.choice(WRAPS)(old)
    elif kind == "remove":
        del container[key]
    elif kind == "add":
        holders = [content] + [c[k] for c, k in everything if isinstance(c[k], dict)]
        generator.choice(holders).setdefault(generator.choice(ADDED), generator.choice(VALUES))
    elif kind == "copy":
        other, at = generator.choice(everything)
        container[key] = copy.deepcopy(other[at])
    elif kind == "swap":
        same = [(c, k) for c, k in everything if k == key and c is not container]
        if same:
            other, at = generator.choice(same)
            container[key], other[at] = other[at], old
    elif kind == "exchange":  # two segments that stand for as many examples
        one, two = generator.sample(content["segments"], 2)
        for name in generator.choice(
            [("file", "head"), ("columns",), ("first", "stop"), ("file", "head", "columns"), ("most_rows",)]
        ):
            one[name], two[name] = two[name], one[name]
    elif kind == "list":
        lists = [c[k] for c, k in everything if isinstance(c[k], list) and c[k]]
        chosen = generator.choice(lists)
        what = generator.choice(["double", "reverse", "shuffle", "drop", "rotate"])
        if what == "double":
            chosen.append(copy.deepcopy(generator.choice(chosen)))
        elif what == "reverse":
            chosen.reverse()
        elif what == "shuffle":
            generator.shuffle(chosen)
        elif what == "drop":
            chosen.pop(generator.randrange(len(chosen)))
        else:
            chosen.append(chosen.pop(0))
    else:  # numbers that go together, moved together
        at, by = generator.randrange(len(content["segments"])), generator.choice([-16, -1, 1, 2, 16, 1000])
        for segment in content["segments"][at : at + generator.choice([1, 2, 99])]:
            for name in generator.choice([("first", "stop"), ("first",), ("stop",), ("stop", "examples")]):
                segment[name] += by
    return kind


def answers(index):
    """Everything that an index says, by training index."""
    numbers = index.numbers.tolist()
    scores, own, rows = index.scores(QUESTION), index.self_influence(), index.rows()
    columns = [value for one in index.segments for value in one.columns.get("n", [None] * len(one))]
    places = [number for one in index.segments for number in one.numbers.tolist()]
    said = dict(zip(places, columns, strict=True))
    per_row = rows.ptr.tolist()
    known = {
        number: (
            scores[:, number].tolist(),
            float(own[number]),
            said[number],
            rows.values[per_row[i] : per_row[i + 1]].tolist(),
        )
        for i, number in enumerate(numbers)
    }
    for proponents in (True, False):
        found = index.search(QUESTION, 7, proponents)
        kept = scores[:, numbers]
        best = kept.sort(dim=1, descending=proponents, stable=True)
        assert torch.equal(found.influence_scores, best.values[:, :7])
        assert torch.equal(found.indices, torch.tensor(numbers, dtype=torch.int64)[best.indices[:, :7]])
    return known


def made(folder, form):
    """An index of several segments, appended to, compacted, with deletions; unfinished, if asked for."""
    options = {"segment_examples": 8, "rank": 2, "dtype": form.get("dtype", "float32"), "project": form.get("project")}
    index, _ = small_index(
        folder, 40, checkpoints=form.get("checkpoints", 1), metadata={"n": list(range(40))}, **options
    )
    index = (
        index.append(random_rows(12, seed=2), {"n": list(range(40, 52))})
        .delete([3, 4, 20])
        .compact()
        .delete([0, 30, 31])
    )
    if form.get("unfinished"):

        def edit(content):
            del content["segments"][2]
            content["parts"][-1]["examples"] += 20

        rewrite(folder, edit)
    return index.refresh()


def asked(folder):
    """What an index answers; or what is said instead."""
    try:
        index = GradientIndex.open(folder)
        said = answers(index)
        index.verify()
    except ValueError as error:
        return None, None, error
    return index.manifest, said, None


def merged(mine, theirs):
    """The scores of an index and its number of examples after the merge; or what is said instead."""
    own = GradientIndex.open(shutil.copytree(mine, mine.with_name("merged")))
    try:
        return own.merge(theirs).scores(QUESTION), own.total, None
    except ValueError as error:
        return None, None, error
    finally:
        shutil.rmtree(own.path)


FORMS = [
    {"dtype": "float16"},
    {"checkpoints": 2},
    {"project": 4, "dtype": "bfloat16"},
    {"project": 3, "dtype": "int4"},
    {"unfinished": True},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_an_edited_manifest_is_refused_by_name_or_says_the_same(tmp_path, form):
    generator, counts = random.Random(str(form)), collections.Counter()
    index = made(tmp_path / "i", form)
    path, mine = index.path / "manifest.json", tmp_path / "mine"
    right = path.read_bytes()
    shutil.copytree(index.path, mine)
    rewrite(index.path, lambda content: content.update(deleted=[[3, 5], [20, 21]]))  # what is gone for good
    expected = answers(index.refresh())
    for _ in range(math.ceil(EDITS / len(FORMS))):
        path.write_bytes(right)
        kinds = []

        def edit(content, kinds=kinds):
            for _ in range(generator.choice([1, 1, 1, 2, 3])):
                with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):  # no place for a second one
                    kinds.append(edit_once(content, generator))

        rewrite(index.path, edit)
        manifest, said, error = asked(index.path)
        if error is not None:
            by_name = isinstance(error, IndexDamaged) and str(index.path) in str(error)
            assert by_name or "scores take" in str(error), (kinds, repr(error), path.read_text())
            counts["refused"] += 1
            continue
        # An edit may delete examples, bring back those that are still there, or make of an index an unfinished one.
        gone = {n for a, b in manifest.deleted for n in range(a, b)}
        there = {n for one in manifest.segments for n in range(one.first, one.stop)} - gone
        assert set(said) == there, (kinds, path.read_text())
        assert manifest.complete == (there | gone >= set(range(manifest.total)))
        assert {n: expected[n] for n in there} == said, (kinds, path.read_text())
        counts["harmless"] += 1
        scores, shift, error = merged(mine, index.path)
        if error is not None:
            assert str(index.path) in str(error) or str(mine.with_name("merged")) in str(error)
        else:
            assert {n: scores[:, shift + n].tolist() for n in there} == {n: said[n][0] for n in there}
            counts["merged"] += 1
    print(form, dict(counts))
    assert counts["refused"] > counts["harmless"] > 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "3", '"x"', "\ufeff{}", "\0", DEEP, '{"a": ' * 50_000, '{"version": 2, "version": 2}'),
        *('{"version": 2, "format": "captum_tracinwe.index"}', '{"version": [2], "format": {}}', "1" * 10_000),
        *(
            '{"version": true, "format": "captum_tracinwe.index"}',
            '{"version": NaN, "format": 1}',
            '{"version": 1e999}',
        ),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_manifest_at_all_is_refused_by_name(tmp_path, text):
    index = made(tmp_path / "i", {})
    (index.path / "manifest.json").write_text(text)
    for use in (
        index.refresh,
        index.verify,
        index.compact,
        lambda: index.append(random_rows(1)),
        lambda: index.delete([1]),
    ):
        with pytest.raises(IndexDamaged, match=r"manifest\.json'"):
            use()


@pytest.mark.parametrize("field", ["deleted", "loss", "segments"])
def test_deep_and_double_entries_are_refused_by_name(tmp_path, field):
    index = made(tmp_path / "i", {})
    path = index.path / "manifest.json"
    text = path.read_text()
    for wrong in (f'"{field}": {DEEP}, ', f'"{field}": 1, "{field}": 2, ', f'"{field}": Infinity, '):
        path.write_text(text.replace("{", "{" + wrong, 1))
        with pytest.raises(IndexDamaged, match=r"manifest\.json' is damaged"):
            index.refresh()


def test_every_entry_of_a_manifest_that_scores_depend_on_is_bound(tmp_path):
    """The ones by name that an attack changed with success: each alone, by the least that it can be changed by."""
    index = made(tmp_path / "i", {"dtype": "float16"})
    right = (index.path / "manifest.json").read_bytes()
    changes = {
        **{f"scale {x}": lambda c, x=x: c.update(scale=x) for x in (0, -1, math.nan, 0.25, 1.0, 3.0, 2.0**20, 1e400)},
        "scale doubled": lambda c: c.update(scale=2 * c["scale"]),
        "rank": lambda c: c.update(rank=c["rank"] - 1),
        "stored_width": lambda c: c.update(stored_width=4),
        "project": lambda c: c.update(project=8),
        "dtype": lambda c: c.update(dtype="bfloat16"),
        "first": lambda c: c["segments"][1].update(first=c["segments"][1]["first"] + 1),
        "most_rows": lambda c: c["segments"][1].update(most_rows=c["segments"][1]["most_rows"] - 1),
        "columns": lambda c: c["segments"][1].update(columns=c["segments"][2]["columns"]),
        "no columns": lambda c: c["segments"][1].update(columns=None),
        "deletion of what is gone": lambda c: c.update(deleted=[]),
        "checkpoints": lambda c: c["source"]["checkpoints"].append(c["source"]["checkpoints"][0]),
    }
    for name, change in changes.items():
        rewrite(index.path, lambda content, change=change: change(content))
        _, said, error = asked(index.path)
        assert said is None, name
        assert isinstance(error, IndexDamaged), (name, error)
        assert re.search("i/(manifest|segment|projections)", str(error)), (name, error)
        (index.path / "manifest.json").write_bytes(right)
    assert len(answers(GradientIndex.open(index.path))) == 46


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    for form in FORMS:
        index = made(tmp_path / str(FORMS.index(form)), form)
        assert Manifest.read(index.path) == index.manifest
        assert json.loads(index.manifest.encoded()) == json.loads((index.path / "manifest.json").read_bytes())


def test_an_index_with_examples_that_nobody_has_built_does_not_answer_without_saying_so(tmp_path):
    """An edited last part is an unfinished build: a legitimate state, and no reason for silent columns of −∞."""
    index, rows = small_index(tmp_path / "i")
    test = rows.select([0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = index.search(test, 3), index.scores(test), index.self_influence()
        index.part(0, 2).search(test, 3)

    def edit(content):
        content["parts"][-1]["examples"] += 7

    rewrite(index.path, edit)
    index = index.refresh()
    assert "not complete" in repr(index)
    said = (
        "is not complete: 60 of 67 training examples are in it. The others have the score −∞ or take no part. Finish it"
    )
    for ask in (lambda: index.search(test, 3), lambda: index.scores(test), lambda: index.self_influence()):
        with pytest.warns(UserWarning, match=said) as caught:
            ask()
        assert [Path(one.filename).name for one in caught] == [Path(__file__).name]
    with pytest.warns(UserWarning, match=said):
        assert torch.equal(index.search(test, 3).indices, right[0].indices)
    for change in (lambda: index.append(rows), index.compact, lambda: small_index(tmp_path / "j")[0].merge(index)):
        with pytest.raises(ValueError, match="is not complete, and cannot be"):
            change()
