"""Faults put into the CUDA kernels on purpose: the emulated threads must find each of them, or their silence means nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from emulated_cuda import KERNELS, WATCH, build, compiler_works, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not compiler_works(), reason="needs a C++ compiler on Linux"),
]

COLUMNS, MULTIPLY, LISTS, SCAN = (f"csrc/cuda/{name}.h" for name in ("columns", "multiply", "lists", "scan"))
FAULTS, PRODUCTS, SCORES, DEVICE = (f"csrc/cuda/{name}.h" for name in ("faults", "products", "score_tile", "device"))
ROW_DOT, POSTING_DOT, TERMS = (f"{name}/cuda.cu" for name in ("row_dot", "posting_dot", "row_dot_terms"))
# What is done: the file, what stands there, what is put in its place. Each is tried on the op that shows it.
MUTANTS = {
    "no barrier before a share is read": (
        COLUMNS,
        "__syncthreads();  // this share is there",
        "// this share is there",
    ),
    "no barrier before the next tile": (COLUMNS, "__syncthreads();  // the next rows", "// the next rows"),
    "one copy too few waited for": (COLUMNS, "wait_for_copies<stages - 2>()", "wait_for_copies<stages - 1>()"),
    "a column beyond the row": (COLUMNS, "row ? width - k : 0", "row ? width - k + 1 : 0"),
    "a share at the wrong place": (COLUMNS, "share % stages * kStageBytes<ROWS_A> + row", "share % 2 * kPitch + row"),
    "a wrong stride in the chains": (MULTIPLY, "b + s * 8 * kPitch", "b + s * 4 * kPitch"),
    "a wrong stride for tensor cores": (MULTIPLY, "upper + 8 * kPitch", "upper + 4 * kPitch"),
    "half of the columns for tensor cores": (MULTIPLY, "k < 64; k += 16", "k < 32; k += 16"),
    "a count that is not atomic": (LISTS, "rank[t] = atomicAdd(hits + entry, 1)", "rank[t] = hits[entry]++"),
    "the last start not written": (LISTS, "lists.start[before[0]] = static_cast<int>(before[1]);", ""),
    "tests of the next example": (LISTS, "begin + t + 1) - 1 - first", "begin + t) - 1 - first"),
    "no barrier in the scan": (SCAN, "__syncthreads();  // before the next step", "// before the next step"),
    "sums of lanes one too far": (SCAN, "if (lane >= distance)", "if (lane > distance)"),
    "a fall forgiven nowhere": (FAULTS, " && !begins_example(side, row)", ""),
    "the last entry of ptr not looked at": (FAULTS, "side.ptr[side.examples] == rows", "true"),
    "a product of no row": (PRODUCTS, "if (first_b + b < rows && ", "if ("),
    "a score of no example": (SCORES, "      if (example < owned) scores", "      scores"),
    "no look at the error of a launch": (DEVICE, "  check_cuda(cudaGetLastError(), doing);", ""),
    "no wait for the copy of the flag": (
        DEVICE,
        'check_cuda(cudaStreamSynchronize(stream), "waiting for a copy");',
        "",
    ),
    "lanes that do not wait for each other": (ROW_DOT, "__syncwarp();  // the next row", "// the next row"),
    "sums not carried on": (ROW_DOT, "piece.begin == 0, list", "true, list"),
    "counts not cleared": (ROW_DOT, "      if (piece.begin)\n", "      if (false)\n"),
    "no barrier before scores are written": (ROW_DOT, "    __syncthreads();\n    out.write", "    out.write"),
    "no barrier between lists": (POSTING_DOT, "__syncthreads();  // the next list", "// the next list"),
    "an example of the next block": (POSTING_DOT, "first + owned);\n", "first + owned + 1);\n"),
    "an example twice": (PRODUCTS, "example <= entries.examples[row - 1]", "example < entries.examples[row - 1]"),
    "an id beyond the last": (TERMS, "at < tail && searched", "at <= tail && searched"),
    "terms in another order": (TERMS, "count + __popc(before)", "count + __popc(all) - 1 - __popc(before)"),
}
CASES = 120


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The kernels as they are: their objects serve every mutant, and they pass where the mutants fail."""
    program = build(tmp_path_factory.mktemp("sound"), *WATCH, optimise="-O0")
    run = start(program, 0, CASES, 2)
    assert run.returncode == 0, run.stdout + run.stderr
    return program.parent


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_put_in_on_purpose_is_found(name: str, sound: Path, tmp_path: Path) -> None:
    file, before, after = MUTANTS[name]
    sources = tmp_path / "kernels"
    shutil.copytree(KERNELS, sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    text = (sources / file).read_text()
    assert text.count(before) == 1, f"{file} has changed: {before!r} stands there {text.count(before)} times"
    (sources / file).write_text(text.replace(before, after))
    shows = file.split("/")[0] if file.endswith(".cu") else "posting_dot" if name == "an example twice" else "row_dot"
    program = build(tmp_path, *WATCH, sources=sources, optimise="-O0", ops=(shows,), base=sound)
    try:
        found = start(program, 0, CASES, 2, timeout=60)
    except subprocess.TimeoutExpired:
        return  # it hangs: found, too
    assert found.returncode != 0, "nobody noticed"
