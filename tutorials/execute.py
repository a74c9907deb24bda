"""Execute tutorials from a clean kernel and store their outputs: `python tutorials/execute.py [NOTEBOOK ...]`."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import nbclient
import nbformat

FOLDER = Path(__file__).parent
CHECKS = FOLDER.parent / "tests" / "tutorial_checks.py"
# What is not kept: what torchao says when transformers finds it installed, tqdm's advice to install ipywidgets, and
# bars (they show where a person waits).
NOT_KEPT = re.compile(
    r".*(torchao|torch/utils/_pytree\.py|IProgress not found|from \.autonotebook import|\d%\|).*\n?"
)


def execute(path: Path, folder: Path, timeout: int = 600) -> Any:
    """The notebook of ``path``, executed in a fresh kernel that works in ``folder``; an error of a cell is raised.

    What must hold of its variables is checked in the same kernel, where the tests are beside the tutorials
    (tests/tutorial_checks.py); that cell is not kept. ``timeout`` is in seconds, for one cell.
    """
    notebook = nbformat.read(path, as_version=4)
    kept = len(notebook.cells)
    if CHECKS.is_file():
        check = (
            f"import sys; sys.path.insert(0, {str(CHECKS.parent)!r}); "
            f"import tutorial_checks; tutorial_checks.check({path.stem!r}, globals())"
        )
        notebook.cells.append(nbformat.v4.new_code_cell(check))
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    del notebook.cells[kept:]
    for cell in notebook.cells:
        for output in errors(cell):
            output.text = NOT_KEPT.sub("", output.text).strip()
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if output.get("text") != ""
            ]
    return notebook


def errors(cell: Any) -> list[Any]:
    """What a cell wrote to stderr."""
    return [
        output for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]


def main(names: list[str]) -> None:
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        started = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        for output in (output for cell in notebook.cells for output in errors(cell)):
            sys.exit(f"{path.name}, not stored, wrote to stderr:\n{output.text}")
        notebook.metadata = {
            "kernelspec": notebook.metadata.kernelspec,
            "language_info": {"name": "python"},
        }
        nbformat.write(notebook, path)
        print(
            f"{path.name}: {perf_counter() - started:.0f} s, {path.stat().st_size / 1e3:.0f} kB"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
