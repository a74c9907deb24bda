"""What a notebook shows: pairs, reports and Captum's own table, executed in a kernel."""

import sys

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

MAKE = """
import torch
from captum_tracinwe import TracInWE, visualization, word_report
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.words.texts import from_ids

(ids, _, labels), (test_ids, _, test_labels) = toy_texts(9, seed=1), toy_texts(2, seed=2)
names = ["<b>bold</b>"] + [f"word{i}" for i in range(1, 29)] + ["<script>alert(1)</script>"]
model = TinyCNN(padding_idx=0)
loss = torch.nn.CrossEntropyLoss(reduction="none")
tracin = TracInWE(model, torch.utils.data.TensorDataset(ids, labels), scatter_checkpoints(model, "."), loss_fn=loss)
found = tracin.word_influence((test_ids, test_labels), tracin.influence((test_ids, test_labels), k=3).indices)
texts = [from_ids([i for i in row if i], names, label="a<i>") for row in torch.cat([test_ids, ids]).tolist()]
pairs = [[pair.with_texts(texts[i], texts[2 + pair.train_index]) for pair in row] for i, row in enumerate(found)]
"""
CELLS = {
    "Captum's table": "visualization.visualize_text(pairs)",
    "a pair": "pairs[0][0]",
    "a report": "word_report(tracin, (test_ids, test_labels), labels, vocabulary=names)",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    cells = [nbformat.v4.new_code_cell(source) for source in (MAKE, *CELLS.values())]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": sys.executable, "language": "python"}
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells[1:]]
    html = ["".join(o.get("data", {}).get("text/html", "") for o in output) for output in outputs]
    return dict(zip(CELLS, html, strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_a_notebook_shows_it_escaped(shown, name):
    html = shown[name]
    assert "word" in html
    assert "<script>alert" not in html
    assert "<b>bold" not in html


def test_captums_table_has_a_row_for_each_pair(shown):
    html = shown["Captum's table"]
    assert "Word Importance" in html
    assert html.count("<mark") > 6
    assert html.count("a&lt;i&gt;") >= 6
