"""JSON: an object a line, a list, an object of columns; which it is, the file says, and what is wrong is told by its place."""

import json

import pytest
from files_read import refused

from captum_tracinwe.app.files import read_texts

RECORDS = [{"text": "a é", "label": 0, "label_name": "x"}, {"text": "b\nc", "label": 1, "label_name": "y"}]
FOUND = [("a é", "0", "x"), ("b\nc", "1", "y")]
COLUMNS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
BY_INDEX = {
    name: {str(n): value for n, value in enumerate(values)} for name, values in COLUMNS.items()
}  # as pandas writes


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        "\n" + LINES,
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2, ensure_ascii=False),
        " \n" + json.dumps(RECORDS) + "\n",
        json.dumps(COLUMNS),
        json.dumps(COLUMNS, indent=1),
        json.dumps(BY_INDEX),
    ],
)
def test_each_form_is_found(tmp_path, name, content, encoding):
    rows = read_texts(write(tmp_path / name, content, encoding))
    assert [(row.text, row.label, row.name) for row in rows] == FOUND


def test_one_object_alone_is_a_line(tmp_path):
    assert [row.text for row in read_texts(write(tmp_path / "x.json", '{"text": "a", "label": 1}'))] == ["a"]


def test_places_are_lines_items_and_rows(tmp_path):
    for content, place in ((LINES, "line 2"), (json.dumps(RECORDS), "item 2"), (json.dumps(COLUMNS), "row 2")):
        assert read_texts(write(tmp_path / "x.json", content))[1].place == place


BAD = {
    '[{"text": "a", "label": 1}, 7, {"text": "", "label": 1}]': "2 of 3 cannot be used: item 2: a JSON number; expected a list",
    '[{"text": "a", "label": 1},\n{"text": "b" "label": 1}]': "line 2: not valid JSON (Expecting ',' delimiter)",
    '[{"text": "a", "label": 1}\n{"text": "b", "label": 1}]': "line 2: not valid JSON",
    '[{"text": "a", "label": 1},\n]': "line 2: not valid JSON",
    '[{"text": "a", "label": 1}': "not valid JSON",
    '[{"text": "a", "label": 1}]\n[]': "line 2: something stands behind the end of the list",
    "[]": "no rows in it",
    '{"text": ["a", "b"], "label": [1]}': "'text' has 2 values and 'label' has 1",
    '{"text": {"0": "a"}, "label": {"1": 1}}': "or they go by other keys",
    '{"data": [{"text": "a", "label": 1}]}': "no column 'text' in this JSON object; there are: data",
    '{"text": [], "label": []}': "no rows in it",
    '{"text": ["a", 7], "label": [1, 1]}': "row 2: 'text' is a number; expected a string",
    '{"text": "a", "label": 1}\n{"text": "b", "lab\nnull\n{"text": "c", "label": 2}\n': "2 of 4 cannot be used: line 2: not",
    '{"text": "a", "label": ' + "1" * 5000 + "}": "line 1: not valid JSON (Exceeds the limit",
    "[" * 100_000: "nested too deeply",
    '{"a": ' * 100_000: "nested too deeply",
}


@pytest.mark.parametrize("content", BAD)
def test_what_is_wrong_is_told_by_its_place(tmp_path, content):
    path = write(tmp_path / "x.json", content)
    said = refused(path)
    assert BAD[content] in said
    assert str(path) in said
