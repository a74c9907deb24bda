"""Options that hold for several files, of which one says itself that it is read otherwise; columns named twice."""

import warnings

import pytest
from files_read import read, refused

from captum_tracinwe.app.cleaning import clean
from captum_tracinwe.app.files import InputError, Reading, read_texts

ROWS = [("café", "a"), ("naïve", "b"), ("plain", "a")]


def write(path, delimiter, encoding, header=("text", "label")):
    lines = [delimiter.join(row) for row in ([header, *ROWS] if header else ROWS)]
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def told(path, reading):
    """Texts and labels, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = [(row.text, row.label) for row in read_texts(path, reading)]
    return rows, [str(one.message) for one in caught]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl"])
def test_a_file_in_utf_8_is_read_so_where_the_encoding_given_is_that_of_another(tmp_path, name):
    import gzip

    content = "text,label\ncafé,a\nnaïve,b\nplain,a\n"
    if name.endswith("jsonl"):
        content = "".join('{{"text": "{}", "label": "{}"}}\n'.format(*row) for row in ROWS)
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    rows, said = told(tmp_path / name, Reading(encoding="latin-1"))
    assert rows == ROWS
    assert said == [f"{tmp_path / name}: read as UTF-8, which it is, and not by --encoding latin-1."]
    # The encoding given holds where the bytes are none of UTF-8.
    for encoding in ("latin-1", "cp1252", "utf-16-le"):
        assert read(write(tmp_path / "x.csv", ",", encoding), Reading(encoding=encoding)) == ROWS
    plain = tmp_path / "y.csv"
    plain.write_text("text,label\nplain,a\n")
    assert read(plain, Reading(encoding="latin-1")) == [("plain", "a")]  # the same in both: nothing to say


@pytest.mark.parametrize("header", [("text", "label"), ("body", "topic")])
def test_a_table_that_lacks_the_delimiter_given_is_read_with_its_own(tmp_path, header):
    reading = Reading((header[0],), header[1], delimiter=";")
    rows, said = told(write(tmp_path / "x.csv", ",", "utf-8", header), reading)
    assert rows == ROWS
    assert said == [f"{tmp_path / 'x.csv'}: read with ',' between fields, which it has, and not by --delimiter ';'."]
    assert read(write(tmp_path / "y.csv", ";", "utf-8", header), reading) == ROWS
    # A delimiter that fits is never replaced.
    path = tmp_path / "x.csv"
    path.write_text("text;label;text,label\none, two;a;x,y\nthree, four;b;x,y\n")
    assert read(path, Reading(delimiter=";")) == [("one, two", "a"), ("three, four", "b")]


def test_a_file_is_cleaned_as_it_is_read(tmp_path):
    train = write(tmp_path / "x.csv", ",", "utf-8")
    (tmp_path / "d.csv").write_text("index,label,decision,new_label\n0,a,relabel,b\n")
    with pytest.warns(UserWarning, match="read"):
        clean(train, tmp_path / "d.csv", tmp_path / "y.csv", reading=Reading(encoding="latin-1", delimiter=";"))
    assert (tmp_path / "y.csv").read_text("utf-8") == "text,label\ncafé,b\nnaïve,b\nplain,a\n"


def test_a_column_that_is_named_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="--text-columns: 'premise' is named twice; expected each column once"):
        Reading(("premise", "premise"))
    path = write(tmp_path / "x.csv", ",", "utf-8")
    assert "'1' and 'text' are the same column" in refused(path, Reading(("1", "text")))
