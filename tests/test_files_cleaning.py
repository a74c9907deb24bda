"""`suspects --clean` writes a training file in its own form: its delimiter, quotes and encoding; others are refused first."""

import gzip
import json

import pytest

from captum_tracinwe.app import cleaning
from captum_tracinwe.app.files import InputError, Reading, read_texts

HEADER = "index,label,decision,new_label\n"
DECISIONS = HEADER + "0,a,relabel,b\n1,b,drop,\n"


@pytest.fixture
def clean(tmp_path):
    def done(name, content, reading=None, out=None, decisions=DECISIONS):
        path = tmp_path / name
        path.write_bytes(content)
        (tmp_path / "decisions.csv").write_text(decisions)
        target = tmp_path / (out or f"clean{name[name.index('.') :]}")
        cleaning.clean(path, tmp_path / "decisions.csv", target, reading=reading or Reading(), say=lambda _: None)
        return target

    return done


@pytest.mark.parametrize(
    ("name", "encoding", "lines", "relabelled"),
    [
        ("x.csv", "utf-8", ["text;label\r\n", "ö, ä;a\r\n", "b;b\r\n", '"c;";a'], "ö, ä;b\r\n"),
        ("x.csv", "utf-16", ["text;label\n", "ö;a\n", "b;b\n", "c;a\n"], "ö;b\n"),
        ("x.tsv", "utf-8", ["text\tlabel\n", '"it\ta\n', "b\tb\n", 'c"\ta\n'], '"it\tb\n'),
        ("x.csv", "utf-8", ["'text','label'\n", "'it''s','a'\n", "'b','b'\n", "'c','a'\n"], "'it''s','b'\n"),
        ("x.csv.gz", "utf-8-sig", ["text|label|\n", '"ö|"|a|\n', "\n", "b|b|\n", "c|a|\n"], '"ö|"|b|\n'),
    ],
)
def test_a_table_keeps_its_delimiter_quotes_and_encoding(clean, name, encoding, lines, relabelled):
    content = "".join(lines).encode(encoding)
    out = clean(name, gzip.compress(content) if name.endswith(".gz") else content)
    written = gzip.decompress(out.read_bytes()) if name.endswith(".gz") else out.read_bytes()
    kept = [lines[0], relabelled, *([lines[2]] if lines[2] == "\n" else []), lines[-1]]
    assert written == "".join(kept).encode(encoding)


def test_a_given_encoding_and_delimiter_are_kept_and_a_letter_that_it_lacks_is_refused(clean, tmp_path):
    reading = Reading(encoding="latin-1", delimiter="~")
    content = "text~label\nné~a\nb~b\nc~a\n".encode("latin-1")
    assert clean("x.txt", content, reading).read_bytes() == "text~label\nné~b\nc~a\n".encode("latin-1")
    records = [{"text": "né", "label": "a"}, {"text": "b", "label": "b"}, {"text": "c", "label": "é"}]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    out = clean("x.jsonl", lines.encode("latin-1"), Reading(encoding="latin-1"), decisions=HEADER + "0,a,relabel,é\n")
    assert json.loads(out.read_bytes().decode("latin-1").splitlines()[0]) == {"text": "né", "label": "é"}
    for encoding in ("ascii", "latin-1"):
        named = f"text,label,label_name\n1,a,{'e'}\n2,b,f\n".encode(encoding)
        assert clean("y.csv", named, Reading(encoding=encoding)).exists()


def test_a_table_without_a_header_is_cleaned_too(clean):
    content = b"\nx 0,a\nx 1,b\nx 2,a\n"
    assert clean("x.csv", content, Reading(("1",), "2")).read_bytes() == b"\nx 0,b\nx 2,a\n"
    content = b"x 0,a\nx 1,b\nx 2,a\nx 3,b\nx 4,b\n"
    with pytest.warns(UserWarning, match="no header line") as said:
        assert clean("y.csv", content).read_bytes() == b"x 0,b\nx 2,a\nx 3,b\nx 4,b\n"
    assert len(said) == 1


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("dropped", [0, 1, 3])
def test_a_json_list_keeps_all_else_as_it_is(clean, indent, dropped):
    records = [{"text": f"é {n}", "label": "ab"[n % 2], "more": [1.0, {"x": None}]} for n in range(4)]
    content = " " + json.dumps(records, indent=indent, ensure_ascii=False) + "\n"
    label = "ab"[dropped % 2]
    out = clean("x.json", content.encode(), decisions=f"{HEADER}2,a,relabel,b\n{dropped},{label},drop,\n")
    written = out.read_text()
    meant = [{**record, "label": "b"} if n == 2 else record for n, record in enumerate(records) if n != dropped]
    assert json.loads(written) == meant
    if dropped == 3:  # all before the text with another label stands as it stood
        assert written.startswith(content[: content.index('"é 2"') - len('"text": ') - 1].rstrip(" \n{"))
        assert written.endswith("}]\n" if indent is None else "}\n]\n")


@pytest.mark.parametrize("nested", [True, False])
def test_a_parquet_file_keeps_its_columns_types_metadata_and_compression(clean, tmp_path, nested):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    schema = arrow.schema(
        [
            ("text", arrow.large_string()),
            ("label", arrow.int8()),
            ("label_name", arrow.dictionary(arrow.int32(), arrow.string())),
            ("more", arrow.list_(arrow.float32())),
        ],
        metadata={"made": "by hand"},
    )
    columns = {
        "text": ["é", "b", "c"],
        "label": [0, 1, 0],
        "label_name": ["a", "b", "a"],
        "more": [[float("nan")], None, [1.5]],
    }
    path = tmp_path / "made.parquet"
    parquet.write_table(arrow.table(columns, schema=schema), path, compression="zstd", use_compliant_nested_type=nested)
    out = clean("x.parquet", path.read_bytes())
    again = parquet.ParquetFile(out)
    assert again.metadata.row_group(0).column(0).compression == "ZSTD"
    assert again.schema_arrow.equals(parquet.ParquetFile(path).schema_arrow, check_metadata=True)
    found = again.read().to_pydict()
    assert (found["text"], found["label"], found["label_name"]) == (["é", "c"], [1, 0], ["b", "a"])
    assert repr(found["more"]) == "[[nan], [1.5]]"
    with pytest.raises(InputError, match="[Ee]xpected the format of x.parquet, a file name ending in .parquet"):
        clean("x.parquet", path.read_bytes(), out="clean.csv")


def test_a_parquet_file_of_class_numbers_with_names_gets_the_number(clean, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [0, 1, 0]}, features=features)
    made.to_parquet(str(tmp_path / "made.parquet"))
    out = clean("x.parquet", (tmp_path / "made.parquet").read_bytes())
    assert [(row.text, row.label, row.name) for row in read_texts(out)] == [("x", "1", "b"), ("z", "0", "a")]
    again = datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))
    assert again.features == features


OTHER = {
    "x.arrow": "an Arrow or Feather file",
    "x.feather": "an Arrow or Feather file",
    "x.xlsx": "a spreadsheet",
    "x.json": "a JSON object of columns",
}


@pytest.mark.parametrize("name", OTHER)
def test_other_forms_are_refused_by_name_before_any_work(clean, monkeypatch, name):
    monkeypatch.setattr(cleaning, "read_texts", None)  # not even read
    with pytest.raises(InputError, match=f"{OTHER[name]}, which --clean does not write; expected CSV, JSON lines"):
        clean(name, b'{"text": ["a", "b"], "label": ["a", "b"]}')


def test_folders_and_data_sets_are_refused_by_name(tmp_path):
    (tmp_path / "decisions.csv").write_text(DECISIONS)
    for name in ("films/a", "films/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.txt").write_text("text")
    for train, what in (
        (tmp_path / "films", "a folder for each class"),
        ("org/name:train", "a data set of the datasets library"),
    ):
        with pytest.raises(InputError, match=f"{what}, which --clean does not write"):
            cleaning.clean(train, tmp_path / "decisions.csv", tmp_path / "clean.csv")
