"""Tables of typed columns: Parquet, Arrow, Feather, Excel and data sets read alike, and what is wrong is told by its row."""

import contextlib
import datetime
import sys

import pytest
from files_read import read, refused

from captum_tracinwe.app.files import InputError, Reading, read_texts
from captum_tracinwe.installing import install

TEXTS, LABELS = ["a é", "b\nc", "d"], [0, 1, 0]
FOUND = [("a é", "0"), ("b\nc", "1"), ("d", "0")]
FORMS = ["x.parquet", "x.arrow", "stream.arrow", "x.feather", "x.xlsx"]


def write(path, **columns):
    """A table in the form that the name says."""
    if path.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        book.active.append(list(columns))
        for row in zip(*columns.values(), strict=True):
            book.active.append(row)
        book.save(path)
        return path
    arrow = pytest.importorskip("pyarrow")
    write_table(arrow.table(columns), path)
    return path


def write_table(table, path):
    arrow = pytest.importorskip("pyarrow")
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    elif path.suffix == ".feather":
        pytest.importorskip("pyarrow.feather").write_feather(table, path)
    else:
        made = arrow.ipc.new_stream if path.stem == "stream" else arrow.ipc.new_file
        with arrow.OSFile(str(path), "wb") as sink, made(sink, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_reads_the_same_texts_and_labels(tmp_path, name):
    path = write(tmp_path / name, text=TEXTS, other=[1.5, None, 2.5], label=LABELS)
    assert read(path) == FOUND
    named = write(tmp_path / name, body=TEXTS, topic=LABELS, topic_name=["x", "y", "x"])
    rows = read_texts(named, Reading(("body",), "topic"))
    assert [(row.text, row.name) for row in rows] == [("a é", "x"), ("b\nc", "y"), ("d", "x")]
    assert rows[1].place == ("row 3" if name == "x.xlsx" else "row 2")  # as a spreadsheet counts


@pytest.mark.parametrize("name", FORMS)
def test_kinds_of_labels(tmp_path, name):
    assert [label for _, label in read(write(tmp_path / name, text=TEXTS, label=[True, False, True]))] == [
        "true",
        "false",
        "true",
    ]
    assert [label for _, label in read(write(tmp_path / name, text=TEXTS, label=[1.0, 2.0, 1.0]))] == ["1", "2", "1"]
    said = refused(write(tmp_path / name, text=TEXTS, label=[1.5, 2.0, None]))
    assert "2 of 3 cannot be used: row" in said
    assert "'label' is 1.5; expected an integer or a string" in said
    assert "'label' has no value here" in said
    day = datetime.datetime(2020, 1, 1)
    assert "'label' is a datetime; expected" in refused(write(tmp_path / name, text=TEXTS, label=[day] * 3))
    assert "'text' is a number; expected a string" in refused(write(tmp_path / name, text=[1, 2, 3], label=LABELS))


@pytest.mark.parametrize("name", FORMS)
def test_a_column_that_is_not_there_and_no_rows(tmp_path, name):
    path = write(tmp_path / name, body=TEXTS, label=LABELS)
    said = refused(path)
    assert "no column 'text'; there are: body, label. Name the right one with --text-column" in said
    assert "no rows in it" in refused(write(tmp_path / name, text=[], label=[]))


@pytest.mark.parametrize("name", [*FORMS, "x.pq", "x.xlsm"])
@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PK\x03\x04 and no zip", b"ARROW1\0\0" + b"\xff" * 500, b"FEA1FEA1", b"x" * 9000]
)
def test_a_damaged_file_is_one_clear_line(tmp_path, name, content):
    pytest.importorskip("openpyxl" if "xls" in name else "pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    said = refused(path)
    assert f"{path}: " in said
    assert "cannot read it as" in said


@pytest.mark.parametrize("name", FORMS)
def test_a_cut_file_and_one_with_other_bytes_are_refused_or_read(tmp_path, name):
    whole = write(tmp_path / name, text=TEXTS * 50, label=LABELS * 50).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:cut])
        refused(tmp_path / name)
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(InputError):
            read_texts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "library"),
    [("x.parquet", "pyarrow.parquet"), ("x.arrow", "pyarrow"), ("x.xlsx", "openpyxl"), ("org/name:train", "datasets")],
)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(tmp_path)
    if ":" not in name:
        (tmp_path / name).touch()
    package = library.partition(".")[0]
    said = refused(name)
    assert f"{name}: reading this needs {package}" in said
    assert install(package, "files") in said


def test_a_book_of_the_old_excel_is_refused(tmp_path):
    (tmp_path / "x.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    assert "save it as .xlsx or .csv" in refused(tmp_path / "x.xls")


def book(path, **sheets):
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, rows in sheets.items():
        sheet = made.create_sheet(title)
        for row in rows:
            sheet.append(row)
    made.save(path)
    return path


def test_of_several_sheets_one_is_named(tmp_path):
    full, other = [("text", "label"), ("a", 1), (), ("b", 2)], [("text", "label"), ("c", 3)]
    assert read(book(tmp_path / "x.xlsx", One=full, Two=[], Three=[])) == [("a", "1"), ("b", "2")]
    path = book(tmp_path / "x.xlsx", One=full, Two=other)
    assert f"2 sheets (One, Two); expected one. Name it: {path}:One." in refused(path)
    assert read(f"{path}:Two") == [("c", "3")]
    assert "no sheet 'Four'; there are: One, Two" in refused(f"{path}:Four")
    assert "no rows in it" in refused(book(tmp_path / "x.xlsx", One=[]))


def test_a_sheet_without_a_header_and_one_with_errors(tmp_path):
    path = book(tmp_path / "x.xlsx", One=[("a", 1), ("b", 2), ("c", 1)])
    assert read(path, Reading(("1",), "2")) == [("a", "1"), ("b", "2"), ("c", "1")]
    path = book(tmp_path / "x.xlsx", One=[("text", "label"), ("a", 1), ("b", "#N/A"), (None, 2), ("c", None)])
    said = refused(path)
    assert "3 of 4 cannot be used: row 3: the cell B3 is the error #N/A; mend it or remove the row" in said
    assert "row 4: 'text' has no value here" in said


# -------------------------------------------------------------------------------------------------------- data sets


@pytest.fixture
def data_set():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    return datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features)


NAMED = [("a é", "0", "x"), ("b\nc", "1", "y"), ("d", "0", "x")]


def named(path):
    return [(row.text, row.label, row.name) for row in read_texts(path)]


def test_a_data_set_on_disk_is_read_with_the_names_of_its_classes(tmp_path, data_set):
    data_set.save_to_disk(tmp_path / "one")
    assert named(tmp_path / "one") == NAMED
    assert "one data set without splits; leave ':train' out" in refused(f"{tmp_path / 'one'}:train")
    data_set.select([2, 0]).save_to_disk(tmp_path / "two")  # whose order is kept beside it
    assert named(tmp_path / "two") == [NAMED[2], NAMED[0]]
    data_set.to_parquet(str(tmp_path / "x.parquet"))
    assert named(tmp_path / "x.parquet") == NAMED
    [inner] = (tmp_path / "one").glob("*.arrow")
    assert named(inner) == NAMED


def test_of_several_splits_one_is_named(tmp_path, data_set):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": data_set, "test": data_set.select([1])}).save_to_disk(tmp_path / "both")
    assert named(f"{tmp_path / 'both'}:test") == [NAMED[1]]
    said = refused(tmp_path / "both")
    assert f"it has the splits train, test; expected one of them. Name it: {tmp_path / 'both'}:train." in said
    assert "no such split; there are: train, test" in refused(f"{tmp_path / 'both'}:dev")
    datasets.DatasetDict({"train": data_set}).save_to_disk(tmp_path / "only")
    assert named(tmp_path / "only") == NAMED


def test_a_folder_of_data_files_is_read_by_its_splits_and_leaves_no_cache(tmp_path, data_set, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder/data").mkdir(parents=True)
    data_set.to_parquet(str(tmp_path / "folder/data/train-00000-of-00001.parquet"))
    data_set.select([1]).to_parquet(str(tmp_path / "folder/data/test-00000-of-00001.parquet"))
    assert named(f"{tmp_path / 'folder'}:train") == NAMED
    assert named(f"{tmp_path / 'folder'}:test") == [NAMED[1]]
    assert "it has the splits train, test" in refused(tmp_path / "folder")
    assert not (tmp_path / "cache").exists()


def test_labels_that_are_kept_secret_are_refused(tmp_path, data_set):
    datasets = pytest.importorskip("datasets")
    secret = datasets.Dataset.from_dict({"text": TEXTS, "label": [-1, 1, 0]}, features=data_set.features)
    secret.save_to_disk(tmp_path / "one")
    said = refused(tmp_path / "one")
    assert "row 1: 'label' is -1, and the classes are 0 to 1: no label; remove the row" in said


@pytest.mark.parametrize("name", ["nobody/nothing:train", "nothing_of_the_kind:train", "org/name:config:test"])
def test_a_data_set_that_cannot_be_had_is_one_clear_line(tmp_path, monkeypatch, name):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)

    def unreachable(*given, **options):
        raise ConnectionError("Couldn't reach the Hub\nwith many lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert refused(name) == f"{name}: datasets cannot read it as a data set (Couldn't reach the Hub)."


def test_a_data_set_of_the_hub_is_asked_for_by_name_configuration_and_split(tmp_path, monkeypatch, data_set):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(*given, **options):
        asked.append((given, options["split"]))
        return data_set

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert named("org/name:train") == NAMED
    assert named("org/name:small:test") == NAMED
    assert asked == [(("org/name",), "train"), (("org/name", "small"), "test")]


@pytest.mark.parametrize(
    "name", ["nothing", "org/nothing", "nothing.txt", "a b:train", "x.csv:train", "https://x.y/z:1"]
)
def test_what_is_no_name_of_a_data_set_is_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert f"{name}: no such file" in refused(name)
