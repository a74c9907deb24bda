"""Results taken away: tables, CSV that comes back as it was, data sets, records of Argilla, columns of cleanlab."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from cases_of_texts import pair_of, text_of
from hostile import HOSTILE
from suspect_cases import three_suspects

from captum_tracinwe import GradientIndex, WordReport, synonym_influence
from captum_tracinwe.app.testing import toy_tracin
from captum_tracinwe.explanation import Answer, ClassCount, Explanation, Near, Performance, TrainingText
from captum_tracinwe.explanation.tables import COLUMNS
from captum_tracinwe.exports import (
    ISSUE_COLUMNS,
    pairs_table,
    ranking_table,
    read_csv,
    shares_table,
    terms_table,
    to_argilla,
    to_cleanlab,
    to_csv,
    to_dataset,
)
from captum_tracinwe.labels import Suspects
from captum_tracinwe.words.report import ReportedWord

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1+1", "＝1", "'=1", "''-1", "\ufeff=1"]
HARMLESS = ["a=b", "'tis so", "'", "1-2", "", "é", "−1", "a\n=1"]


@pytest.fixture
def found():
    """Two test texts with two training texts each."""
    one, two = text_of("x", "y", "=1", label="a", prediction="b"), text_of("y", "z", label="b", prediction="b")
    near, far = text_of("x", "y", label="b"), text_of("y", "=1", "z", label="a")
    return [
        [pair_of(one, near, [0.5, -0.25], 4, 7), pair_of(one, far, [-1.0, 0.25], 4, 9)],
        [pair_of(two, far, [1.0, 2.0], 6, 9), pair_of(two, near, [-0.5], 6, 7)],
    ]


@pytest.fixture
def explained(found):
    """An explanation of these."""
    words = tuple(ReportedWord(name, 1.0, 1.5, -0.5, 3, "a", 1.0, 0.5, 0.01, 0.02, ((7, 0.5),)) for name in ("x", "=1"))
    report = WordReport(words, 2.0, 2, 12)
    answers = tuple(
        Answer(own[0].test_index, f"line {own[0].test_index + 2}", own[0].test_text, *labels, 0.75, tuple(own))
        for own, labels in zip(found, (("a", "b"), ("b", "b")), strict=True)
    )
    classes = (ClassCount("a", 6, 1, 0, 0), ClassCount("b", 6, 1, 1, 2))
    training = {9: TrainingText(9, "line 11", "a", found[0][1].train_text)}
    near = (Near((9, 10), ("a", "b")),)
    return Explanation(Performance(2, 1, "a", 1, 0.5, classes), answers, report, None, near, training, 12, "Why?")


def as_rows(table):
    return table if isinstance(table, list) else table.to_dict("records")


# ------------------------------------------------------------------------------------------------------------- tables


def test_a_row_a_pair_with_texts_labels_and_rank(found):
    rows = as_rows(pairs_table(found))
    assert [(row["test_index"], row["train_index"], row["rank"]) for row in rows] == [
        (4, 7, 1),
        (4, 9, 2),
        (6, 9, 1),
        (6, 7, 2),
    ]
    assert [row["score"] for row in rows] == [0.25, -0.75, 3.0, -0.5]
    assert (rows[1]["test_text"], rows[1]["train_text"]) == ("x y =1", "y =1 z")
    assert (rows[0]["test_label"], rows[0]["prediction"], rows[0]["train_label"]) == ("a", "b", "b")
    # The words on the side of the score: of +0.25 the one with +0.5, of −0.75 the one with −1.
    by_id = dict(zip(found[0][0].token_ids.tolist(), found[0][0].token_shares.tolist(), strict=True))
    best = max(by_id, key=by_id.get)
    assert rows[0]["words"] == found[0][0].train_text.token_names[found[0][0].train_text.token_ids.index(best)]
    assert as_rows(pairs_table([pair for own in found for pair in own])) == rows


def test_a_row_a_word_whose_shares_add_up_to_the_score(found):
    rows, pairs = as_rows(shares_table(found)), as_rows(pairs_table(found))
    for pair in pairs:
        own = [row for row in rows if (row["test_index"], row["rank"]) == (pair["test_index"], pair["rank"])]
        assert math.fsum(row["share"] for row in own) == pytest.approx(pair["score"])
        for row in own:
            assert [pair["train_text"][a:b] for a, b in row["train_spans"]] == [row["word"]]
            assert [pair["test_text"][a:b] for a, b in row["test_spans"]] == [row["word"]]
            assert row["train_index"] == pair["train_index"]
    assert len(as_rows(found[0][0].to_table())) == 2


def test_where_pandas_is_not_installed_tables_are_lists(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    index_of = [row["train_index"] for row in pairs_table(found)]
    assert index_of == [7, 9, 9, 7]
    for table in (shares_table(found), found[0][0].to_table(), to_cleanlab(three_suspects())):
        assert isinstance(table, list)
        assert isinstance(table[0], dict)
    assert to_csv(pairs_table(found)).startswith("test_index,train_index,rank,score,words,")


def test_what_is_no_pair_is_refused(found):
    for wrong in ([1], [[found[0][0], "x"]], ["text"]):
        with pytest.raises(TypeError, match="[Ee]xpected WordInfluence, or a list of them"):
            pairs_table(wrong)
    with pytest.raises(TypeError, match="[Ee]xpected training indices and scores"):
        ranking_table(found)
    with pytest.raises(TypeError, match=r"[Ee]xpected a pandas.DataFrame or a list of dict"):
        to_csv("text")


def test_rankings_of_captum_and_of_an_index_are_of_one_form(tmp_path):
    tracin, inputs = toy_tracin()
    best = tracin.influence(inputs, k=3)
    rows = as_rows(ranking_table(best))
    assert [row["train_index"] for row in rows] == best.indices.flatten().tolist()
    assert [row["score"] for row in rows] == best.influence_scores.flatten().tolist()
    assert [(row["test_index"], row["rank"]) for row in rows] == [(i, rank) for i in range(2) for rank in (1, 2, 3)]
    index = GradientIndex.from_rows(tmp_path / "index", tracin.row_gradients(), checkpoints=len(tracin.checkpoints))
    asked = tracin.row_gradients(inputs)
    exact = as_rows(index.search(asked, 3).to_table())
    assert [row["train_index"] for row in exact] == [row["train_index"] for row in rows]
    loose = as_rows(index.search(asked, 3, approximate=1).to_table())
    assert all(row["low"] <= row["score"] <= row["high"] for row in loose)


def test_terms_add_up_to_the_scores():
    tracin, inputs = toy_tracin()
    test, train = tracin.row_gradients(inputs), tracin.row_gradients()
    pairs = torch.tensor([[1, 3], [0, 5]])
    rows = as_rows(terms_table(test, train, pairs))
    scores = test.dot(train)
    for i, j in pairs.tolist():
        own = [row for row in rows if (row["test_index"], row["train_index"]) == (i, j)]
        assert math.fsum(row["share"] for row in own) == pytest.approx(float(scores[i, j]), rel=1e-5)
    named = as_rows(terms_table(test, train, pairs, [f"w{i}" for i in range(100)]))
    assert {(row["token_id"], row["token"]) for row in named} == {(i, f"w{i}") for i in {r["token_id"] for r in rows}}
    assert {row["token"] for row in rows} == {None}


def test_words_that_met_are_rows():
    pytest.importorskip("scipy")
    tracin, inputs = toy_tracin()
    pair = synonym_influence(tracin, inputs, [[3], [4]])[0][0]
    rows = as_rows(pair.to_table())
    assert [(row["test_word"], row["train_word"], row["share"], row["cosine"]) for row in rows] == [
        (one.test, one.train, one.share, one.cosine) for one in pair.words()
    ]


# ---------------------------------------------------------------------------------------------------------------- CSV


def test_a_table_comes_back_from_csv_as_it_was(found, tmp_path):
    texts = [*FORMULAS, *HARMLESS, *(name for name in HOSTILE if not any("\ud800" <= c <= "\udfff" for c in name))]
    rows = [
        {"text": text, "score": -(0.1**n), "rank": n, "special": n % 2 == 0, "token_ids": [n, -n]}
        for n, text in enumerate(texts)
    ]
    path = tmp_path / "table.csv"
    path.write_bytes(to_csv(rows).encode())
    assert as_rows(read_csv(path)) == rows
    for table in (pairs_table(found), shares_table(found)):
        path.write_bytes(to_csv(table).encode())
        assert as_rows(read_csv(path)) == as_rows(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no line in it"),
        (b"score\nx\n", "column 'score' holds 'x'"),
        (b"special\nmaybe\n", "column 'special' holds 'maybe'"),
        (b"a,b\n1\n", "a row has 1 fields, and the first line names 2 columns"),
        (b'a\n"b\n', "is not valid CSV"),
        (b"\xff\n", "can't decode"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"table\.csv: .*" + message + ".* Expected a CSV file as this package writes it"
    ):
        read_csv(path)


# -------------------------------------------------------------------------------------------------------- explanation


def test_an_explanation_is_seven_tables_of_known_columns(explained):
    tables = explained.tables()
    assert list(tables) == list(COLUMNS)
    for name, rows in tables.items():
        assert rows, name
        for row in rows:
            assert tuple(row) == COLUMNS[name], name
    assert tables["performance"][0]["accuracy"] == 0.5
    assert [row["wrong"] for row in tables["answers"]] == [True, False]
    assert [row["train_place"] for row in tables["pairs"]] == [None, "line 11", "line 11", None]
    assert [row["alike"] for row in tables["pairs"]] == [[], [10], [10], []]
    assert {row["of"] for row in tables["words"]} == {"habits"}
    assert [(row["index"], row["at_odds"]) for row in tables["near"]] == [(9, True), (10, True)]


def test_an_explanation_goes_to_json_and_to_a_folder_of_csv(explained, tmp_path):
    told = json.loads(explained.to_json())
    assert told == {"schema_version": 1, "trains": 12, "title": "Why?", **explained.tables()}
    paths = explained.to_csv(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [f"{name}.csv" for name in COLUMNS]
    for path, (name, rows) in zip(paths, explained.tables().items(), strict=True):
        assert as_rows(read_csv(path)) == [{key: _none(value) for key, value in row.items()} for row in rows], name
    assert "[]" not in (tmp_path / "new" / "folder" / "pairs.csv").read_text()  # of a text that none is like
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "words.csv").mkdir()  # cannot be replaced
    with pytest.raises(OSError, match="words.csv"):
        explained.to_csv(tmp_path / "full")
    assert not [path for path in (tmp_path / "full").iterdir() if path.suffix == ".tmp"]


def _none(value):
    return "" if value is None else value


# ----------------------------------------------------------------------------------------------------------- datasets


def test_tables_go_through_datasets_and_pandas(found, explained, tmp_path):
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    for rows in (as_rows(pairs_table(found)), as_rows(shares_table(found)), *explained.tables().values()):
        made = to_dataset(pandas.DataFrame(rows))
        assert made.to_list() == rows
        assert to_dataset(rows).to_list() == rows
        made.save_to_disk(tmp_path / "kept")
        again = datasets.load_from_disk(tmp_path / "kept").to_pandas()
        assert list(again.columns) == list(rows[0])
        assert to_dataset(again).to_list() == rows
    assert to_dataset(pairs_table([])).column_names[:2] == ["test_index", "train_index"]


def test_without_datasets_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        to_dataset([{"a": 1}])


# ------------------------------------------------------------------------------------------------- Argilla and cleanlab


def test_records_of_suspects_and_of_pairs(found):
    first, *_ = to_argilla(three_suspects(), "train.csv", lambda index: index + 2)
    assert first["id"] == "train.csv-9"
    assert first["fields"] == {"text": "troops minister kick"}
    assert first["suggestions"] == {"label": {"value": "World", "score": 0.97, "agent": "captum-tracinwe"}}
    assert first["metadata"]["given_label"] == "Sports"
    records = to_argilla(found)
    assert [record["id"] for record in records] == ["train-4-7", "train-4-9", "train-6-9", "train-6-7"]
    assert records[1]["fields"] == {"text": "y =1 z", "asked": "x y =1"}
    assert records[1]["metadata"]["train_label"] == "a"
    with pytest.raises(ValueError, match="comes without its texts"):
        to_argilla([found[0][0].with_texts(None, None)])
    with pytest.raises(ValueError, match="the text of training example 7 is not known"):
        to_argilla(Suspects(tuple(_bare(one) for one in three_suspects().first), (), (), (), ()))


def _bare(one):
    return type(one)(one.index, one.label, one.suggested, one.suspicion, one.reasons)


def test_argilla_takes_the_records(found, tmp_path):
    argilla = pytest.importorskip("argilla")
    from argilla.records._io import JsonIO

    for records in (to_argilla(three_suspects()), to_argilla(found)):
        made = [argilla.Record.from_dict(json.loads(json.dumps(record))) for record in records]
        assert [record.id for record in made] == [record["id"] for record in records]
        assert [dict(record.fields) for record in made] == [record["fields"] for record in records]
        assert [dict(record.metadata) for record in made] == [record["metadata"] for record in records]
        path = tmp_path / f"{len(records)}.json"
        path.write_text(json.dumps(records))
        assert len(JsonIO._records_from_json(path)) == len(records)
    suggested = argilla.Record.from_dict(to_argilla(three_suspects())[0]).suggestions["label"]
    assert (suggested.value, suggested.score) == ("World", 0.97)


@pytest.fixture
def judged():
    """Thirty texts of two classes, of which two have the other label, one of them known to be right by now."""
    given = ["a" if i % 2 else "b" for i in range(30)]
    order = tuple(i for i in reversed(range(30)) if i != 5)
    suspicions = tuple(0.9 if i == 7 else 0.5 if i == 8 else 0.01 for i in order)
    other = {"a": "b", "b": "a"}
    return Suspects(
        (),
        order,
        suspicions,
        tuple(given[i] for i in order),
        tuple(other[given[i]] for i in order),
        names=("b", "a"),
        all_labels=tuple(given),
        texts=tuple(f"text {i}" for i in order),
    )


def test_columns_are_those_of_cleanlab_by_training_index(judged):
    rows = as_rows(to_cleanlab(judged, texts=True))
    assert tuple(rows[0]) == ("text", *ISSUE_COLUMNS)
    assert [i for i, row in enumerate(rows) if row["is_label_issue"]] == [7]  # 0.5 is no more probable than not
    assert rows[7]["label_quality"] == rows[7]["label_score"] == pytest.approx(0.1)
    assert (rows[7]["given_label"], rows[7]["predicted_label"], rows[7]["text"]) == ("a", "b", "text 7")
    assert (rows[9]["given_label"], rows[9]["predicted_label"]) == ("a", "a")
    assert (rows[5]["label_quality"], rows[5]["given_label"]) == (1.0, "a")
    assert [row["given_label"] for row in as_rows(to_cleanlab(judged, numbers=True))][:2] == [0, 1]
    with pytest.raises(ValueError, match=r"[Ee]xpected suspects\(\.\.\., class_names"):
        to_cleanlab(three_suspects(), numbers=True)
    with pytest.raises(ValueError, match=r"[Ee]xpected suspects\(\.\.\., texts="):
        to_cleanlab(three_suspects(), texts=True)


def test_cleanlab_takes_the_issues_and_has_the_same_columns(judged):
    pytest.importorskip("cleanlab")
    import numpy as np
    from cleanlab import Datalab
    from cleanlab.classification import CleanLearning
    from sklearn.linear_model import LogisticRegression

    table = to_cleanlab(judged, numbers=True)
    inputs, labels = np.arange(60.0).reshape(30, 2), np.array([i % 2 for i in range(30)])
    model = CleanLearning(LogisticRegression()).fit(inputs, labels, label_issues=table)
    assert list(model.get_label_issues().columns)[:4] == list(table.columns)[:4]
    with pytest.raises(ValueError, match="given_label"):
        CleanLearning(LogisticRegression()).fit(inputs, 1 - labels, label_issues=table)
    named = to_cleanlab(judged)
    lab = Datalab(data={"label": list(named["given_label"])}, label_name="label", verbosity=0)
    beliefs = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    lab.find_issues(pred_probs=beliefs[:, ::-1], issue_types={"label": {}})
    theirs = lab.get_issues("label")
    assert set(theirs.columns) <= set(named.columns)
    assert list(theirs["given_label"]) == list(named["given_label"])


def test_the_module_loads_none_of_these_libraries():
    import subprocess

    code = (
        "import sys, captum_tracinwe.exports as e; e.to_csv([]);"
        "print(sorted({'argilla', 'cleanlab', 'datasets'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True
    )
    assert ran.stdout.strip() == "[]"


def test_an_explanation_hands_on_its_pairs_and_labels_are_asked_of_suspects_alone(tmp_path):
    found = Explanation(Performance(2, 1, "a", 1, 1.0, ()), (), WordReport((), 0.0, 0, 0), None)
    assert len(pairs_table(found)) == len(shares_table(found)) == 0
    assert to_argilla(found) == []
    with pytest.raises(TypeError, match=r"[Ee]xpected what suspects\(\.\.\.\) returns, got Explanation"):
        to_cleanlab(found)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; expected a folder"):
        found.to_csv(tmp_path / "file")
    assert len(repr(found)) < 300


@pytest.mark.parametrize("odd", [None, 3, "pairs"])
@pytest.mark.parametrize("export", [pairs_table, shares_table, to_argilla])
def test_what_can_hold_no_pairs_is_refused(export, odd):
    with pytest.raises(TypeError, match=f"expected WordInfluence, or a list of them.*got {type(odd).__name__}"):
        export(odd)


def test_a_table_of_terms_names_what_it_cannot_take():
    tracin, _ = toy_tracin()
    rows, pairs = tracin.row_gradients(), torch.tensor([[0, 1]])
    with pytest.raises(
        TypeError, match="expected RowGradients of test and training examples, got NoneType and RowGradients"
    ):
        terms_table(None, rows, pairs)
    for odd in (None, [[0, 1]], torch.tensor([0, 1]), torch.tensor([[0.5, 1.0]]), pairs.to_sparse()):
        with pytest.raises(TypeError, match=r"terms_table: expected `pairs` as an int64 tensor \(P, 2\), got"):
            terms_table(rows, rows, odd)
    with pytest.raises(TypeError, match=r"got Tensor of torch\.int64, meta \(1, 2\)"):
        terms_table(rows, rows, pairs.to("meta"))
    with pytest.raises(ValueError, match=r"a test example below 12 and a training example below 12, got \[0, 12\]"):
        terms_table(rows, rows, torch.tensor([[0, 1], [0, 12]]))


def test_a_table_of_a_ranking_needs_one():
    with pytest.raises(ValueError, match=r"ranking_table: expected as many training indices as scores, got shapes"):
        ranking_table((torch.ones(2, 2).long(), torch.ones(3, 2)))
    with pytest.raises(TypeError, match=r"Are they swapped\?"):
        ranking_table((torch.ones(2, 1), torch.ones(2, 1).long()))
    with pytest.raises(TypeError, match="read_csv: expected `path` as a path, got None"):
        read_csv(None)
