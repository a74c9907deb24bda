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
# What torchao says when transformers finds it installed and imports it; nothing of ours, and not there without it.
OF_TORCHAO = re.compile(r".*(torchao|torch/utils/_pytree\.py).*\n?")


def execute(path: Path, folder: Path, timeout: int = 180) -> Any:
    """The notebook of ``path``, executed in a fresh kernel that works in ``folder``; an error of a cell is raised.

    ``timeout`` is in seconds, for one cell.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    for cell in notebook.cells:
        for output in errors(cell):
            output.text = OF_TORCHAO.sub("", output.text)
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
