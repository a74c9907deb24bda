"""Reading the user's files: every form it promises, and one clear line for everything else."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from captum_tracinwe.app.data import InputError, LabelledTexts, classes_of, read_rows, sample, with_classes

SHARED = Path(__file__).parents[1].parent / "shared"
ROWS = [("a café, open", 0, "shop"), ('say "hi"\nthere', 10, "talk"), ("plain", 2, "other")]


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_json(rows=ROWS):
    return "".join(json.dumps({"text": t, "label": n, "label_name": name}) + "\n" for t, n, name in rows)


def as_csv(delimiter=","):
    quoted = ['"' + text.replace('"', '""') + '"' for text, _, _ in ROWS]
    lines = [delimiter.join((text, str(n), name)) for text, (_, n, name) in zip(quoted, ROWS, strict=True)]
    return delimiter.join(("text", "label", "label_name")) + "\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "x.csv", "x.csv.gz", "x.tsv", "X.CSV"])
def test_every_form_reads_the_same_texts_and_labels(tmp_path, name):
    content = as_json() if ".js" in name else as_csv("\t" if "tsv" in name else ",")
    rows = read_rows(write(tmp_path / name, content))
    assert [(row.text, row.label, row.name) for row in rows] == [(t, str(n), name) for t, n, name in ROWS]
    texts = with_classes(rows, classes_of(rows, "x"), "x")
    assert texts.names == ("shop", "other", "talk")  # 0, 2, 10: integers in their order, not as strings
    assert texts.labels == (0, 2, 1)


def test_line_numbers_count_blank_lines_and_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    rows = read_rows(write(tmp_path / "x.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 2}\n'))
    assert [row.line for row in rows] == [1, 3]
    rows = read_rows(write(tmp_path / "x.csv", b"\xef\xbb\xbftext,label\nhello,yes\n"))
    assert rows[0].text == "hello"
    assert rows[0].name is None


def test_other_columns_and_their_names(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"body": "a", "topic": "x", "label_name": "no", "topic_name": "yes"}\n')
    (row,) = read_rows(path, text_column="body", label_column="topic")
    assert (row.text, row.label, row.name) == ("a", "x", "yes")


def test_a_whole_float_is_its_integer_and_a_boolean_keeps_its_json_spelling(tmp_path):
    path = write(tmp_path / "x.jsonl", "".join(f'{{"text": "a", "label": {v}}}\n' for v in ("1.0", "1", "true")))
    assert [row.label for row in read_rows(path)] == ["1", "1", "true"]


def test_names_that_two_labels_share_are_not_used():
    rows = [row_of("a", "0", "same"), row_of("b", "1", "same")]
    assert classes_of(rows, "x") == {"0": "0", "1": "1"}


def test_columns_that_are_not_read_may_share_a_name(tmp_path):
    (row,) = read_rows(write(tmp_path / "x.csv", "text,note,label,note,,\na,b,1,c,,\n"))
    assert (row.text, row.label) == ("a", "1")


def test_labels_that_are_whole_texts_are_shown_in_short():
    rows = [row_of(str(i), f"{i} " + "word " * 200) for i in range(50)]
    with pytest.raises(InputError) as caught:
        with_classes([row_of("a", "other " * 200, line=3)], classes_of(rows, "x.csv"), "y.csv")
    assert len(str(caught.value)) < 500
    assert str(caught.value).startswith("y.csv, line 3: the label 'other other")
    assert str(caught.value).endswith("…).")


def row_of(text, label, name=None, line=1):
    from captum_tracinwe.app.data import Row

    return Row(line, text, label, name)


OK = '{"text": "a", "label": 1}\n'
BAD = {
    "cut.jsonl": (OK + '{"text": "b", "lab', "line 2: not valid JSON"),
    "list.jsonl": (OK + "[1]", "line 2: a JSON list; expected one object per line"),
    "number.jsonl": ("7\n", "line 1: a JSON number"),
    "empty.jsonl": ("", "no rows in it"),
    "blank.jsonl": ("\n \n", "no rows in it"),
    "header.csv": ("text,label\n", "no rows in it"),
    "nolabel.jsonl": (
        '{"text": "a", "topic": 1}\n',
        "line 1: no column 'label'; there are: text, topic. Name the right",
    ),
    "notext.csv": (
        "body,label\na,1\n",
        "no column 'text'; there are: body, label. Name the right one with --text-column",
    ),
    "nulllabel.jsonl": (OK + '{"text": "a", "label": null}\n', "line 2: 'label' has no value here"),
    "emptytext.jsonl": (OK + '{"text": "  ", "label": 1}\n', "line 2: 'text' is empty"),
    "emptytext.csv": ("text,label\na,1\n,1\n", "line 3: 'text' is empty"),
    "emptylabel.csv": ("text,label\na,\n", "line 2: 'label' is empty"),
    "short.csv": ("text,label\na\n", "line 2: 'label' has no value here"),
    "long.csv": ("text,label\na,b,c\n", "line 2: more fields than the header has columns"),
    "quote.csv": ('text,label\n"a,1\n', "not valid CSV"),
    "listtext.jsonl": ('{"text": ["a"], "label": 1}\n', "line 1: 'text' is a list; expected a string"),
    "listed.csv": ('text,label\na,"[0.2, 0.8]"\n', "line 2: 'label' is [0.2, 0.8], a list of numbers"),
    "listlabel.jsonl": ('{"text": "a", "label": [1]}\n', "line 1: 'label' is a list"),
    "floatlabel.jsonl": (
        OK + '{"text": "a", "label": 1.5}\n',
        "line 2: 'label' is 1.5; expected an integer or a string",
    ),
    "infinitelabel.jsonl": ('{"text": "a", "label": -Infinity}\n', "line 1: 'label' is -inf; expected an integer or"),
    "twotexts.csv": ("text,label,text\na,1,b\n", "2 columns are called 'text'; expected one"),
    "threelabels.tsv": ("label\ttext\tlabel\tlabel\n1\ta\t2\t3\n", "3 columns are called 'label'; expected one"),
    "twonames.csv": ("text,label,label_name,label_name\na,1,b,c\n", "2 columns are called 'label_name'; expected one"),
    "latin.csv": (b"text,label\ncaf\xe9,1\n", "not UTF-8"),
    "data.txt": ("a", "expected a file name ending in .jsonl, .csv or .tsv"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_line_that_names_it(tmp_path, name):
    content, expected = BAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_directory_and_a_damaged_gzip(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "x.jsonl")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="not a file"):
        read_rows(tmp_path / "d.csv")
    whole = gzip.compress(as_json().encode() * 50)
    for damaged in (whole[: len(whole) // 2], b"not gzip at all", whole[:20] + b"\xff" * 20 + whole[40:]):
        (tmp_path / "x.jsonl.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.jsonl\.gz: cannot be read"):
            read_rows(tmp_path / "x.jsonl.gz")


def test_one_class_is_refused_and_so_is_a_test_label_that_training_lacks():
    with pytest.raises(InputError, match=r"train\.csv: all 2 texts have the label 'x'"):
        classes_of([row_of("a", "x"), row_of("b", "x")], "train.csv")
    classes = classes_of([row_of("a", "x"), row_of("b", "y")], "train.csv")
    with pytest.raises(InputError, match=r"test\.csv, line 7: the label 'z' is not in the training file \('x', 'y'\)"):
        with_classes([row_of("a", "x"), row_of("c", "z", line=7)], classes, "test.csv")


def test_a_sample_has_the_size_asked_for_keeps_the_shares_and_every_class():
    rng = random.Random(0)
    for _ in range(200):
        sizes = [rng.choice((1, 2, 30, 500)) for _ in range(rng.randint(2, 6))]
        labels = tuple(c for c, n in enumerate(sizes) for _ in range(n))
        lines = tuple(range(len(labels)))
        texts = LabelledTexts(("t",) * len(labels), labels, tuple(map(str, range(len(sizes)))), lines)
        size = rng.randint(len(sizes), len(labels) + 5)
        taken = sample(texts, size, seed=1)
        counts = Counter(taken.labels)
        assert len(taken) == min(size, len(labels))
        assert list(taken.lines) == sorted(set(taken.lines))
        assert len(counts) == len(sizes)
        shares = [size * n / len(labels) for n in sizes]
        if min(shares) >= 1 and size < len(labels):
            assert all(abs(counts[c] - share) <= 1 for c, share in enumerate(shares))
        assert sample(texts, size, seed=1) == taken


def test_a_sample_smaller_than_the_classes_is_refused():
    with pytest.raises(InputError, match="--limit 2: expected at least one training text for each of 3"):
        sample(LabelledTexts(("a", "b", "c"), (0, 1, 2), ("x", "y", "z"), (1, 2, 3)), 2)


def test_a_sample_does_without_classes_that_no_text_has():
    texts = LabelledTexts(("a",) * 9, (0, 3, 3) * 3, ("w", "x", "y", "z"), tuple(range(9)))
    assert sorted(sample(texts, 3).labels) == [0, 3, 3]
    with pytest.raises(InputError, match="--limit 1: expected at least one training text for each of 2"):
        sample(texts, 1)


def test_the_shared_news_file_reads():
    path = SHARED / "data" / "ag_news" / "test_2k.jsonl.gz"
    if not path.exists():
        pytest.skip("shared data not here")
    rows = read_rows(path)
    assert len(rows) == 2000
    assert len(classes_of(rows, path)) == 4
