"""Tables as text: delimiter, quotes and encoding are found or given, with or without a header, and all bad lines are told."""

import gzip
import os
import sys

import pytest
from files_read import read, refused

from captum_tracinwe.app.files import Reading, read_texts

ROWS = [("a café, open; late", "shop"), ('say "hi"\nthere\tnow', "talk"), ("plain | text", "shop")]
BY_NUMBER = Reading(("1",), "2")


def write(path, content, encoding="utf-8"):
    data = content.encode(encoding) if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(delimiter, rows=ROWS, header=("text", "label"), quote='"'):
    def quoted(cell):
        return quote + cell.replace(quote, quote * 2) + quote

    return "".join(delimiter.join(map(quoted, row)) + "\n" for row in ([header, *rows] if header else rows))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_whatever_the_name_says(tmp_path, name, delimiter):
    assert read(write(tmp_path / name, table(delimiter))) == ROWS


@pytest.mark.parametrize("delimiter", ["~", "^", ":", " "])
def test_a_rare_delimiter_is_given(tmp_path, delimiter):
    path = write(tmp_path / "x.csv", table(delimiter))
    assert read(path, Reading(delimiter=delimiter)) == ROWS
    assert "--delimiter" in refused(path)
    path = write(tmp_path / "x.csv", f"text{delimiter}label\na{delimiter}b\n")
    assert "parted by another character, give it with --delimiter" in refused(path)


def test_a_table_of_any_name_is_read_with_its_delimiter(tmp_path):
    path = write(tmp_path / "x.txt", table(";"))
    assert read(path, Reading(delimiter=";")) == ROWS
    assert "for a table of another name, give its --delimiter" in refused(path)


def test_single_quotes_are_found(tmp_path):
    rows = [("it's, well", "a"), ("b", "b")]
    assert read(write(tmp_path / "x.csv", table(",", rows, quote="'"))) == rows


def test_quotes_that_open_no_field_are_letters_of_a_table_with_tabs(tmp_path):
    """Read as quotes they would swallow the lines up to the next one."""
    lines = ["text\tlabel", '"Hello\tpos', "good\tpos", 'bye "now"\tneg', '"whole"\tneg', 'the end"\tneg']
    rows = read(write(tmp_path / "x.tsv", "\n".join(lines) + "\n"))
    assert rows == [tuple(line.split("\t")) for line in lines[1:]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_the_encoding_is_found(tmp_path, encoding):
    assert read(write(tmp_path / "x.csv", table(";"), encoding)) == ROWS


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "cp437"])
def test_the_encoding_is_given_and_a_file_with_a_mark_is_read_by_its_mark(tmp_path, encoding):
    assert read(write(tmp_path / "x.csv.gz", table(","), encoding), Reading(encoding=encoding)) == ROWS
    for marked in ("utf-8-sig", "utf-16"):
        assert read(write(tmp_path / "y.csv", table(","), marked), Reading(encoding=encoding)) == ROWS


def test_another_encoding_is_refused_with_its_lines_and_the_way_out(tmp_path):
    content = "text,label\n" + "plain,a\n" * 3000 + "café,b\n" + "naïve,b\n"  # beyond what is decoded at once
    said = refused(write(tmp_path / "x.csv", content, "latin-1"))
    assert "2 of 3,003 cannot be used: line 3002: not UTF-8 text (byte 4 of the line is 0xe9)" in said
    assert "line 3003: not UTF-8 text (byte 3" in said
    assert "--encoding cp1252 or latin-1" in said
    said = refused(write(tmp_path / "x.csv", table(","), "utf-16-be"))
    assert "Give --encoding utf-16-be" in said
    assert "Give --encoding utf-16-le" in refused(write(tmp_path / "x.csv", table(","), "utf-16-le"))
    assert "not text in ascii" in refused(write(tmp_path / "x.csv", "é"), Reading(encoding="ascii"))
    assert "not text in utf-16" in refused(write(tmp_path / "x.csv", b"\xff\xfea\x00b"))


@pytest.mark.parametrize("encoding", ["klingon", "hex", "rot13", "zip", "", "undefined", "a\nb", "\ud800"])
def test_an_encoding_that_is_none_is_refused(tmp_path, encoding):
    assert "Python knows no such encoding" in refused(write(tmp_path / "x.csv", "a"), Reading(encoding=encoding))


# ------------------------------------------------------------------------------------------------------- no header


def test_columns_are_given_by_number(tmp_path):
    path = write(
        tmp_path / "x.csv", table(",", [("1", "t one", "x"), ("2", "t two", "x"), ("1", "t three", "x")], None)
    )
    assert read(path, Reading(("2",), "1")) == [("t one", "1"), ("t two", "2"), ("t three", "1")]
    assert [row.line for row in read_texts(path, Reading(("2",), "1"))] == [1, 2, 3]
    assert "no column 4; expected the name of a column, or a number from 1 to 3" in refused(path, Reading(("4",), "1"))
    assert "no column 0" in refused(path, Reading(("0",), "1"))


def test_a_column_that_is_called_by_a_number_goes_before_that_number(tmp_path):
    path = write(tmp_path / "x.csv", "2,1\nthe text,the label\n")
    assert read(path, BY_NUMBER) == [("the label", "the text")]


def test_one_column_by_name_and_one_by_number_have_a_header(tmp_path):
    path = write(tmp_path / "x.csv", "what,text,text\na,one,two\n")
    assert read(path, Reading(("3",), "what")) == [("two", "a")]


def test_a_header_is_seen_where_columns_are_numbers_and_said(tmp_path):
    path = write(tmp_path / "x.csv", "sentence,label\none,a\ntwo,b\n")
    with pytest.warns(UserWarning, match="line 1 \\('sentence', 'label'\\) is taken for a header"):
        assert [row.text for row in read_texts(path, BY_NUMBER)] == ["one", "two"]
    path = write(tmp_path / "x.csv", "sentence,label\none,a\ntwo,label\n")  # here it is a class
    assert read(path, BY_NUMBER) == [("sentence", "label"), ("one", "a"), ("two", "label")]


@pytest.mark.parametrize("turned", [False, True])
def test_no_header_is_seen_where_that_is_safe_and_said(tmp_path, turned):
    rows = [(f"text {n}, and more", "spam" if n % 3 else "ham") for n in range(9)]
    path = write(tmp_path / "x.csv", table(";", [row[::-1] for row in rows] if turned else rows, None))
    said = "column 2 is read as the text, column 1" if turned else "column 1 is read as the text, column 2"
    with pytest.warns(UserWarning, match=f"no header line; {said} as the label \\('ham', 'spam'\\)"):
        assert [(row.text, row.label) for row in read_texts(path)] == rows


@pytest.mark.parametrize(
    ("content", "reading"),
    [
        ("body,topic\none,a\ntwo,b\nthree,a\nfour,b\n", None),  # a header of other names
        ("one,a\ntwo,b\n", None),  # labels that do not repeat
        ("one,a,x\ntwo,b,x\nthree,a,x\nfour,b,x\n", None),  # three columns
        ("x,x\nx,y\ny,x\ny,y\nx,x\n", None),  # either could be the label
        ("one,a\ntwo,b\nthree,a\nfour,b\n", Reading(("body",), "topic")),  # names were given
    ],
)
def test_no_header_is_not_guessed(tmp_path, content, reading):
    said = refused(write(tmp_path / "x.csv", content), reading)
    assert "line 1: no column" in said
    assert "If line 1 is a text and no header, count: --text-column 1 --label-column 2" in said


# -------------------------------------------------------------------------------------------------------- bad lines


def test_all_bad_lines_are_told_the_first_ten_by_number(tmp_path):
    lines = ["text,label", *(",a" if n % 2 else f"text {n}," for n in range(14)), "fine,a", "more,a,b"]
    path = write(tmp_path / "x.csv", "\n".join(lines) + "\n")
    assert refused(path) == (
        f"{path}: 15 of 16 cannot be used: the first 10: lines 2, 4, 6, 8 and 10: 'label' is empty; expected an integer or a "
        f"string; lines 3, 5, 7, 9 and 11: 'text' is empty; remove the line or give it a text."
    )


def test_one_bad_line_is_told_as_before(tmp_path):
    path = write(tmp_path / "x.csv", "text,label\na,1\n,1\n")
    assert refused(path) == f"{path}, line 3: 'text' is empty; remove the line or give it a text."


def test_quotes_that_never_close_are_told_where_they_open(tmp_path):
    content = 'text,label\na,1\n"b,1\n' + "c,1\n" * 5
    assert "line 3: not valid CSV (the quotes that begin here do not close" in refused(
        write(tmp_path / "x.csv", content)
    )
    content = 'text,label\na,1\n"b,1\n' + "c,1\n" * 50_000
    assert "line 3: not valid CSV (a field of more than 131,072 characters); close its quotes" in refused(
        write(tmp_path / "y.csv", content)
    )


def test_a_bad_line_does_not_hide_the_next(tmp_path):
    path = write(tmp_path / "x.csv", 'text,label\n"a"b,1\nc,1\n"d"e,2\n')
    said = refused(path)
    assert "2 of 3 cannot be used: lines 2 and 4: not valid CSV" in said


def test_a_header_that_is_no_csv_a_header_alone_and_one_twice(tmp_path):
    assert "line 1: not valid CSV" in refused(write(tmp_path / "x.csv", '"text"x,label\na,1\n'))
    assert "no rows in it" in refused(write(tmp_path / "x.csv", "text;label\n"))
    assert "no rows in it" in refused(write(tmp_path / "x.csv", "\n\n"))
    assert "2 columns are called 'text'; expected one" in refused(write(tmp_path / "x.csv", "text;text;label\na;b;c\n"))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json", "x.csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 5000,
        bytes(range(256)) * 40,
        b"text,label\na\0b,1\n\0,2\n",
        os.urandom(3000),
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"x" * 300_000,
        b'"' * 300_001,
        b"[" * 200_000,
        b"{" * 200_000,
    ],
)
def test_what_is_no_text_is_never_a_raw_error(tmp_path, name, content):
    path = write(tmp_path / name, content)
    if content.startswith(b"text") and not name.startswith("x.json") and sys.version_info >= (3, 11):
        assert read_texts(path)[0].text == "a\0b"
    else:
        assert str(path) in refused(path)


def test_a_line_of_many_mb_is_refused_or_read(tmp_path):
    path = write(tmp_path / "x.csv", b"text,label\n" + b"a " * 4_000_000 + b",1\n")
    assert "line 2: not valid CSV (a field of more than" in refused(path)
    path = write(tmp_path / "x.jsonl", b'{"label": 1, "text": "' + b"a " * 4_000_000 + b'"}\n')
    assert len(read(path)[0][0]) == 8_000_000
