"""Scores as Captum, dattri and Bergson read them, and as quanda asks for them: with the real libraries where they are here."""

import importlib
import json
import sys
from abc import ABC, abstractmethod
from types import ModuleType

import numpy as np
import pytest
import torch
from captum.influence._utils.common import KMostInfluentialResults

from captum_tracinwe import GradientIndex, TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_gpt2, toy_texts, toy_tracin
from captum_tracinwe.exports import quanda_explainer, to_bergson, to_captum, to_dattri, to_quanda
from captum_tracinwe.gradients import TokenLoss

LOSS = torch.nn.CrossEntropyLoss(reduction="none")


@pytest.fixture
def scores():
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(0))


def installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# ------------------------------------------------------------------------------------------------------------- captum


def test_a_ranking_is_captums_own_type_and_what_influence_returns():
    tracin, inputs = toy_tracin()
    expected = tracin.influence(inputs, k=3)
    found = to_captum(tracin.influence(inputs), k=3)
    assert type(found) is type(expected) is KMostInfluentialResults
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.influence_scores, expected.influence_scores)
    lowest = to_captum(tracin.influence(inputs), k=3, proponents=False)
    assert torch.equal(lowest.indices, tracin.influence(inputs, k=3, proponents=False).indices)


def test_what_an_index_finds_is_a_ranking_of_captums(tmp_path):
    tracin, inputs = toy_tracin()
    tracin.build_index(tmp_path / "index", show_progress=False)
    found = GradientIndex.open(tmp_path / "index").search(tracin.question_rows(inputs), k=3)
    ranking = to_captum(found)
    assert isinstance(ranking, KMostInfluentialResults)
    assert torch.equal(ranking.indices, tracin.influence(inputs, k=3).indices)


def test_a_ranking_of_nothing_or_twice_is_refused(scores):
    for k in (None, 0):
        with pytest.raises(ValueError, match="k of at least 1"):
            to_captum(scores, k=k)
    with pytest.raises(ValueError, match="ranking already"):
        to_captum(to_captum(scores, k=2), k=1)
    with pytest.raises(TypeError, match="Got str"):
        to_captum("scores")
    with pytest.raises(ValueError, match="test and training"):
        to_captum(scores[0], k=1)


@pytest.mark.parametrize("k", [1.7, True, "2", float("nan"), -1])
def test_a_k_that_counts_nothing_is_refused(scores, k):
    with pytest.raises(ValueError, match=r"to_captum: expected k of at least 1 with a matrix of scores, got"):
        to_captum(scores, k=k)
    assert to_captum(scores, k=np.int64(2)).indices.shape == (3, 2)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda i, s: (s, i), TypeError, r"got torch\.float32 and torch\.int64\. Are they swapped\?"),
        (lambda i, s: (i, i), TypeError, "real ones as scores, got torch.int64 and torch.int64"),
        (lambda i, s: (i, s[:, :2]), ValueError, r"got shapes \(3, 3\) and \(3, 2\)"),
        (lambda i, s: (i, s[:2]), ValueError, r"got shapes \(3, 3\) and \(2, 3\)"),
        (lambda i, s: (i, s / 0), ValueError, "9 of 9 scores are NaN or infinite"),
        (lambda i, s: (i, s * float("nan")), ValueError, r"the first at \(0, 0\): expected finite numbers"),
        (lambda i, s: (i - 7, s), ValueError, "expected training indices from 0, got -"),
        (lambda i, s: (i * 0, s), ValueError, "once for a test example, got one twice for 0"),
        (lambda i, s: (i, s[:, [1, 0, 2]]), ValueError, "expected a ranking best first"),
        (
            lambda i, s: (i, s + 0j),
            TypeError,
            "real ones as scores, got torch.int64 and torch.complex64|each \\(N, k\\)",
        ),
        (lambda i, s: (i, s, 3), TypeError, r"each \(N, k\), as tracin\.influence\(inputs, k=5\) returns them"),
    ],
)
def test_indices_and_scores_that_are_no_ranking_are_refused(scores, change, error, match):
    with pytest.raises(error, match=match):
        to_captum(change(*to_captum(scores, k=3)))


def test_a_ranking_takes_no_settings_of_a_matrix(scores):
    ranking = to_captum(scores, k=3)
    for options in ({"k": 3}, {"proponents": False}, {"proponents": True}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"`{name}` is for a matrix of scores, and this is a ranking already"):
            to_captum(ranking, **options)
    lowest = to_captum(scores, k=3, proponents=False)
    assert torch.equal(to_captum(tuple(lowest)).indices, lowest.indices)
    with pytest.raises(TypeError, match="`proponents` should be True or False"):
        to_captum(scores, k=3, proponents="opponents")


@pytest.mark.parametrize("proponents", [True, False])
def test_texts_that_an_index_lost_are_in_no_ranking(scores, proponents):
    kept = [0, 1, 3, 4, 6]
    lost = scores.clone()
    lost[:, [2, 5]] = -torch.inf
    found, expected = to_captum(lost, 7, proponents), to_captum(scores[:, kept], 5, proponents)
    assert torch.equal(found.indices, torch.tensor(kept)[expected.indices])
    assert torch.equal(found.influence_scores, expected.influence_scores)
    lost[0, 2] = 1.0  # there for one question and not for the others
    with pytest.raises(
        ValueError, match=r"2 of 21 scores are NaN or infinite, the first at \(1, 2\).*deleted from an index"
    ):
        to_captum(lost, 3)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("export", [to_dattri, to_bergson])
def test_no_metric_of_others_is_given_what_has_no_rank(export, odd, scores, tmp_path):
    scores[1, 4] = odd
    with pytest.raises(
        ValueError, match=r"1 of 21 scores are NaN or infinite, the first at \(1, 4\): expected finite numbers"
    ):
        export(scores, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="are NaN or infinite"):
        to_dattri(scores[1])


@pytest.mark.parametrize("export", [to_dattri, to_bergson, lambda scores, path: to_captum(scores, 2)])
def test_other_kinds_of_tensors_are_refused(export, scores, tmp_path):
    for odd in (scores.to_sparse(), scores + 0j, scores.long(), scores > 0):
        with pytest.raises(
            TypeError, match=r"expected scores as real numbers in a dense tensor, got Tensor of torch\."
        ):
            export(odd, tmp_path / "x")
    for odd in (3, object()):
        with pytest.raises(TypeError, match="as a path, got"):
            (to_dattri if export is to_dattri else to_bergson)(scores, odd)


# ------------------------------------------------------------------------------------------------------------- dattri


def test_dattri_has_a_row_for_each_training_example(scores, tmp_path):
    turned = to_dattri(scores, tmp_path / "scores.pt")
    assert turned.shape == (7, 3)
    assert turned.is_contiguous()
    assert torch.equal(turned, scores.T)
    assert torch.equal(torch.load(tmp_path / "scores.pt", weights_only=True), turned)
    assert torch.equal(to_dattri(scores[0]), scores[0])  # self-influence


def test_a_file_for_dattri_holds_its_own_numbers_alone(tmp_path):
    of_a_large_one = torch.randn(1000, 1000)[:2, :5]
    to_dattri(of_a_large_one, tmp_path / "scores.pt")
    assert (tmp_path / "scores.pt").stat().st_size < 10_000


@pytest.mark.skipif(installed("dattri") is None, reason="dattri is not installed")
def test_dattris_metrics_take_it():
    metrics = importlib.import_module("dattri.metric")
    scores = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    subsets = torch.stack([torch.randperm(10)[:5] for _ in range(8)])
    truth = scores[:, subsets].sum(2).T  # what a model that just adds up would answer
    correlation, _ = metrics.lds(to_dattri(scores), (truth, subsets))
    assert torch.allclose(correlation, torch.ones(2).to(correlation), atol=1e-4)


# ------------------------------------------------------------------------------------------------------------ bergson


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_bergson_finds_each_score_where_its_info_says(scores, dtype, tmp_path):
    scores = scores.to(dtype)
    info = json.loads((to_bergson(scores, tmp_path / "scores") / "info.json").read_text())
    assert (info["num_items"], info["num_rows"], info["num_scores"]) == (7, 7, 3)
    assert info["attribute_tokens"] is False
    layout = np.dtype(info["dtype"])
    stored = np.memmap(tmp_path / "scores" / "scores.bin", dtype=layout, mode="r", shape=(info["num_rows"],))
    assert layout.itemsize % 8 == 0
    for i in range(3):
        assert np.array_equal(stored[f"score_{i}"], scores[i].numpy())
        assert stored[f"written_{i}"].all()


def test_bergson_is_told_that_positive_is_a_proponent(scores, tmp_path):
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((to_bergson(scores, tmp_path) / "config.yaml").read_text())
    assert [step["score"]["score_cfg"]["higher_is_better"] for step in config["steps"]] == [True]


@pytest.mark.skipif(installed("bergson") is None, reason="Bergson is not installed")
def test_bergson_itself_reads_it(scores, tmp_path):
    data = importlib.import_module("bergson.data")
    loaded = data.load_scores(to_bergson(scores, tmp_path))
    assert loaded.is_written()
    assert np.array_equal(loaded[:].T, scores.numpy())
    signed, several = data.load_scores_loss_signed(str(tmp_path))
    assert several
    assert torch.equal(signed.T, -scores)


def test_bergson_gets_half_precision_it_can_hold(scores, tmp_path):
    info = json.loads((to_bergson(scores.bfloat16(), tmp_path) / "info.json").read_text())
    assert info["dtype"]["formats"][0] == "float32"


def test_a_second_export_replaces_the_first(scores, tmp_path):
    to_bergson(scores, tmp_path)
    to_bergson(scores[:1, :4], tmp_path)
    assert json.loads((tmp_path / "info.json").read_text())["num_items"] == 4
    assert (tmp_path / "scores.bin").stat().st_size == 4 * 8


@pytest.mark.parametrize("export", [to_dattri, to_bergson])
def test_what_is_no_matrix_of_scores_is_refused(export, scores, tmp_path):
    with pytest.raises(TypeError, match="as a Tensor"):
        export(scores.numpy(), tmp_path / "x")
    with pytest.raises(ValueError, match=r"\(N, M\)"):
        export(scores[None], tmp_path / "x")
    with pytest.raises(TypeError, match="real numbers"):
        export(scores.long(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_no_scores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        to_bergson(torch.zeros(0, 3), tmp_path)
    with pytest.raises(ValueError, match=r"to_captum: expected at least one score, got a matrix of shape \(0, 5\)"):
        to_captum(torch.zeros(0, 5), 2)


@pytest.mark.parametrize(
    ("export", "path", "error", "match"),
    [
        (to_dattri, ".", IsADirectoryError, r"to_dattri: `path` is '\.', a folder: expected the path of a file"),
        (to_dattri, "", ValueError, "to_dattri: `path` is empty: expected a path"),
        (to_dattri, "no/such/x.pt", FileNotFoundError, "`path` is 'no/such/x.pt', and there is no folder 'no/such'"),
        (to_dattri, "a\0b", ValueError, r"`path` holds a NUL character, 'a\\x00b'"),
        (to_bergson, "", ValueError, "to_bergson: `folder` is empty: expected a path"),
        (to_bergson, "a\0b", ValueError, "`folder` holds a NUL character"),
        (to_bergson, "afile", NotADirectoryError, "`folder` is 'afile', and 'afile' is no folder"),
        (to_bergson, "afile/sub", NotADirectoryError, "`folder` is 'afile/sub', and 'afile' is no folder"),
    ],
)
def test_paths_that_nothing_can_be_written_to_are_named(export, path, error, match, scores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(error, match=match):
        export(scores, path)
    assert [one.name for one in tmp_path.iterdir()] == ["afile"]
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_tensor_without_numbers_is_told_as_meta(scores, tmp_path):
    there = scores.to("meta")
    for export in (lambda: to_dattri(there), lambda: to_bergson(there, tmp_path), lambda: to_captum(there, 2)):
        with pytest.raises(TypeError, match=r"got Tensor of torch\.float32, meta"):
            export()
    with pytest.raises(TypeError, match=r"Got Tensor of torch\.float32, meta"):
        to_captum((torch.zeros(3, 7, dtype=torch.long), there))


# ------------------------------------------------------------------------------------------------------------- quanda


class Explainer(ABC):
    """quanda's base class (April 2026), as far as its metrics and benchmarks use it."""

    accepted_tasks = ()

    def __init__(
        self, model, train_dataset, task="image_classification", checkpoints=None, checkpoints_load_func=None, **kwargs
    ):
        if task not in self.accepted_tasks:
            raise ValueError(f"Task {task} not supported by this explainer.")
        self.model, self.train_dataset, self.device = model, train_dataset, "cpu"
        self.checkpoints = (
            checkpoints if isinstance(checkpoints, list) else [] if checkpoints is None else [checkpoints]
        )

    @abstractmethod
    def explain(self, test_data, targets):
        """Scores (test, train)."""

    def self_influence(self, batch_size=32):
        raise AssertionError("a full matrix for its diagonal")


@pytest.fixture
def quanda(monkeypatch):
    """The library, or its interface."""
    if installed("quanda.explainers.base") is None:
        for name in ("quanda", "quanda.explainers", "quanda.explainers.base"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["quanda.explainers.base"].Explainer = Explainer
    return sys.modules["quanda.explainers.base"]


def test_an_explainer_of_quanda_gives_the_scores_of_its_tracin(quanda):
    tracin, (ids, labels) = toy_tracin()
    explainer = to_quanda(tracin)
    assert isinstance(explainer, quanda.Explainer)
    found = explainer.explain(test_data=ids, targets=labels)
    assert found.shape == (2, 12)
    assert torch.equal(found, tracin.influence((ids, labels)))
    assert torch.equal(explainer.explain(ids, labels.tolist()), found)
    assert torch.equal(explainer.self_influence(), tracin.self_influence())
    tracin.self_influence = None  # computed once
    own = explainer.self_influence(batch_size=3).clone()
    explainer.self_influence().zero_()  # whoever writes into it changes no later answer
    assert torch.equal(explainer.self_influence(), own)
    assert own.abs().max() > 0


def test_quanda_makes_its_own_of_the_class(quanda, tmp_path):
    ids, _, labels = toy_texts(14)
    train = torch.utils.data.TensorDataset(ids[2:], labels[2:])
    model = TinyCNN()
    checkpoints = scatter_checkpoints(model, tmp_path)
    kind = quanda_explainer(TracInWE, loss_fn=LOSS, batch_size=4)
    found = kind(model=model, train_dataset=train, checkpoints=checkpoints).explain(ids[:2], labels[:2])
    expected = TracInWE(model, train, checkpoints, loss_fn=LOSS).influence((ids[:2], labels[:2]))
    torch.testing.assert_close(found, expected)
    plain = kind(model=model, train_dataset=train, checkpoints=checkpoints, exclude_tokens=[1, 2])
    assert plain.tracin.exclude_tokens


def test_quandas_own_loader_of_checkpoints_is_used(quanda, tmp_path):
    ids, _, labels = toy_texts(6)
    train, model = torch.utils.data.TensorDataset(ids, labels), TinyCNN()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = []

    def load(model, path):
        loaded.append(path)
        model.load_state_dict(torch.load(path, weights_only=True))
        return 1.0

    kind = quanda_explainer(TracInWE, loss_fn=LOSS)
    path = str(tmp_path / "weights.pt")
    kind(model, train, [path], checkpoints_load_func=load).self_influence()
    assert set(loaded) == {path}


def test_fields_and_single_examples_are_asked_under_the_targets(quanda, tmp_path):
    ids, mask, _ = toy_texts(8)
    targets = ids.masked_fill(mask == 0, -100)
    data = [{"input_ids": i, "attention_mask": m, "labels": t} for i, m, t in zip(ids, mask, targets, strict=True)]
    model = tiny_gpt2()
    checkpoints = scatter_checkpoints(model, tmp_path, rates=(0.1,))
    tracin = TracInWE(model, data, checkpoints, loss_fn=TokenLoss(), batch_size=4)
    explainer = to_quanda(tracin, task="causal_lm")
    fields = {"input_ids": ids[:2], "attention_mask": mask[:2]}
    expected = tracin.influence({**fields, "labels": targets[:2]})
    torch.testing.assert_close(explainer.explain(fields, targets[:2]), expected)
    torch.testing.assert_close(explainer.explain({**fields, "labels": targets[:2]}, None), expected)
    singles = [{key: value[i] for key, value in fields.items()} for i in range(2)]
    torch.testing.assert_close(explainer.explain(singles, targets[:2]), expected)
    assert "labels" not in fields


def test_other_tasks_and_ids_without_labels_are_refused(quanda):
    tracin, (ids, _) = toy_tracin()
    with pytest.raises(ValueError, match="not supported"):
        to_quanda(tracin, task="image_classification")
    with pytest.raises(ValueError, match="targets"):
        to_quanda(tracin).explain(ids, None)


def test_what_is_no_tracin_is_refused(quanda):
    for odd in (None, "tracin", TracInWE):
        with pytest.raises(TypeError, match=r"to_quanda: expected a TracInWE, got .*quanda_explainer\(TracInWE"):
            to_quanda(odd)
    with pytest.raises(TypeError, match="quanda_explainer: expected TracInWE, or what is called alike, got None"):
        quanda_explainer(None)
    tracin, (ids, labels) = toy_tracin()
    for texts, targets in (([], [1]), ([{"input_ids": ids[0]}], [1, 2])):
        with pytest.raises(
            ValueError, match=f"explain: {len(texts)} texts and {len(targets)} targets: expected one target"
        ):
            to_quanda(tracin).explain(texts, targets)
    with pytest.raises(TypeError, match="explain: expected targets as numbers, one for each text, got"):
        to_quanda(tracin).explain(ids, [None] * len(labels))


def test_without_quanda_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "quanda.explainers.base", None)
    with pytest.raises(ImportError, match="pip install quanda"):
        quanda_explainer(TracInWE)
