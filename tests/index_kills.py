"""Kills an index's writers at random moments and looks at what is there afterwards; `test_index_kills.py` starts it.

One Python forks a child for each kill: `python tests/index_kills.py FOLDER KILLS SEED` prints, as JSON, what was found for
each operation: how many were killed, how often the index was then as before, as after, part-built or not there, and what was
wrong.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from index_cases import random_rows
from index_in_memory import Content, difference, examples_of
from killing import duration, killed_after

from captum_tracinwe import GradientIndex
from captum_tracinwe.app.testing import toy_tracin
from captum_tracinwe.index.files.manifest import Manifest

#: Not the index's, whatever their names: they stay.
FOREIGN = {"notes.txt": b"mine", "segment-interviews.json": b"[]", ".tmp-notes": b"half", "columns-2.safetensors": b""}
FORM = {"segment_examples": 16, "rank": 3}
ONE = random_rows(1, seed=77)


def check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def check_files(folder: Path, swept: bool) -> None:
    """Foreign files are untouched; once a writer has swept, beside them is what the manifest names and nothing else."""
    for name, content in FOREIGN.items():
        path = folder / name
        check(path.is_file() and path.read_bytes() == content, f"{name} is not what it was")
    if swept:
        expected = {file.name for file in Manifest.read(folder).files} | {"manifest.json", "lock", *FOREIGN}
        left = {path.name for path in folder.iterdir()} - expected
        check(not left, f"left behind: {sorted(left)}")


def make_foreign(folder: Path) -> None:
    for name, content in FOREIGN.items():
        (folder / name).write_bytes(content)


def numbered(index: GradientIndex) -> dict[str, list[int]]:
    """Metadata of the next 40 examples: each one's number."""
    return {"n": list(range(index.total, index.total + 40))}


def content_of(folder: Path) -> Content:
    """An index as a model; what is gone has no rows there."""
    index = GradientIndex.open(folder)
    kept = dict(zip(index.numbers.tolist(), examples_of(index.rows()), strict=True))
    return Content(tuple(kept.get(i) for i in range(index.total)), frozenset(range(index.total)) - set(kept))


# ------------------------------------------------------------------------------------------------------------ changes


def append(path: Path) -> None:
    index = GradientIndex.open(path)
    index.append(random_rows(40, seed=1), numbered(index))


def delete(path: Path) -> None:
    GradientIndex.open(path).delete([0, 1, 2, 15, 16, 40])


def compact(path: Path) -> None:
    GradientIndex.open(path).compact()


def merge(path: Path, other: str = "other") -> None:
    GradientIndex.open(path).merge(path.parent / other)


def merge_same(path: Path) -> None:
    """Of an index with the same projection: its files are copied as they are."""
    merge(path, "same")


def template(home: Path) -> None:
    """An index with small segments and deletions, two to be merged with it, and foreign files in it."""
    index = GradientIndex.from_rows(home / "same", random_rows(40), metadata={"n": list(range(40))}, **FORM)
    other = {"n": list(range(40))}
    GradientIndex.from_rows(home / "other", random_rows(40, seed=8), metadata=other, **FORM).delete([2])
    shutil.copytree(home / "same", home / "template")
    index = GradientIndex.open(home / "template")
    for seed in range(3):
        index = index.append(random_rows(3, seed=seed), {"n": [40 + 3 * seed + i for i in range(3)]})
    index.delete([5, 41])
    make_foreign(home / "template")


def change_and_kill(home: Path, change, kills: int, generator: random.Random, found: Counter) -> None:
    """A change of a finished index, killed; done again where it was not done; then one more change."""
    path, done = home / "work", home / "done"
    template(home)
    shutil.copytree(home / "template", done)
    seconds = duration(partial(change, done))
    before, after = content_of(home / "template"), content_of(done)
    manifests = [Manifest.read(home / "template"), Manifest.read(done)]
    last = after.plus(examples_of(ONE))
    while found["killed"] < kills:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(home / "template", path)
        found["killed"] += killed_after(generator.uniform(0, 1.3 * seconds), partial(change, path))
        index, manifest = GradientIndex.open(path), Manifest.read(path)
        index.verify()
        check(manifest in manifests, "the manifest is neither as before nor as after")
        as_before = manifest == manifests[0]
        check(not (wrong := difference(index, before if as_before else after)), wrong)
        found["before" if as_before else "after"] += 1
        check_files(path, swept=False)
        if as_before:
            change(path)
        index = GradientIndex.open(path).append(ONE, {"n": [-1]})
        index.verify()
        check(not (wrong := difference(index, last)), wrong)
        check(sorted(index.search(ONE, 9, where={"n": [3, -1]}).indices[0].tolist())[-1] == index.total - 1, "metadata")
        check_files(path, swept=True)


# ------------------------------------------------------------------------------------------------------------- builds


def build_and_kill(home: Path, kills: int, generator: random.Random, found: Counter) -> None:
    """A build, then the training set once more behind it; killed and resumed until all is there, then from the start."""
    tracin, _ = toy_tracin(trains=24)
    path, whole = home / "work", home / "whole"

    def build(folder: Path, examples: int) -> None:
        there = GradientIndex.open(folder).total if (folder / "manifest.json").exists() else 0
        # What was noted is finished by resume; what was not yet is asked for.
        tracin.build_index(folder, resume=True, append=0 < there < examples, segment_examples=3, rank=3)

    seconds = {}
    for examples in (24, 48):
        seconds[examples] = duration(partial(build, whole, examples))
        shutil.copytree(whole, home / f"whole-{examples}")
    while found["killed"] < kills:
        shutil.rmtree(path, ignore_errors=True)
        for examples in (24, 48):
            rows = GradientIndex.open(home / f"whole-{examples}").rows()
            killed = True
            while killed:
                killed = found["killed"] < kills and killed_after(
                    generator.uniform(0, seconds[examples]), partial(build, path, examples)
                )
                if not killed:
                    build(path, examples)  # comes to its end, if it did not
                found["killed"] += killed
                if not (path / "manifest.json").exists():
                    found["not there"] += 1
                    continue
                if not (path / "notes.txt").exists():
                    make_foreign(path)
                index = GradientIndex.open(path)
                index.verify()
                there = index.rows()
                expected = rows.select(index.numbers)
                check(torch.equal(there.ids, expected.ids) and torch.equal(there.values, expected.values), "rows")
                found["part-built" if not index.complete else "complete"] += killed
                check_files(path, swept=False)
            check_files(path, swept=True)
            ours = {file.name for file in Manifest.read(path).files} | {"manifest.json"}
            for name in ours:
                check((path / name).read_bytes() == (home / f"whole-{examples}" / name).read_bytes(), f"{name} differs")


OPERATIONS = {
    "build": build_and_kill,
    **{
        change.__name__: lambda home, kills, generator, found, change=change: change_and_kill(
            home, change, kills, generator, found
        )
        for change in (append, delete, compact, merge, merge_same)
    },
}


def main(home: Path, kills: int, seed: int) -> None:
    """``kills`` of each operation."""
    torch.set_num_threads(1)
    result = {}
    for name, operation in OPERATIONS.items():
        found: Counter = Counter()
        wrong = ""
        (home / name).mkdir()
        try:
            operation(home / name, kills, random.Random(f"{seed} {name}"), found)
        except Exception:
            wrong = traceback.format_exc()
        result[name] = {**found, "wrong": wrong}
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
