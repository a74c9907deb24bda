"""Forty hostile texts and more, through every command: nothing is obeyed by a terminal or a spreadsheet, and nothing is lost."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hostile import HOSTILE, obeyed
from suspect_cases import found_of, one_suspect

from captum_tracinwe import save_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.cleaning import read_decisions
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.data import read_rows
from captum_tracinwe.exports import to_csv
from captum_tracinwe.tabular import as_meant, csv_text, harmless, json_document, json_text

FORMULAS = [
    *["=1+1", "+1", "-1+1", "@SUM(1)", "=cmd|' /C calc'!A0", '=HYPERLINK("http://x","y")', '=IMPORTXML("http://x")'],
    *["\t=1", "\r=1", "\n=1", " =1", "\xa0=1", "\u200b=1", "\ufeff=1", "＝1+1", "＋1", "－1", "＠x", "'=1", "''+1"],
]
MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style>",
    "a,b;c\td",
    '"',
    "'",
    "a\r\nb",
]
TEXTS = [name for name in HOSTILE if len(name) < 10_000 and not any("\ud800" <= c <= "\udfff" for c in name)]
TEXTS = [f"{text} {('the cat sat', 'a ship left')[i % 2]}" for i, text in enumerate((*FORMULAS, *MARKUP, *TEXTS))]
LABELS = ("=evil()", "\u202e<b>-1\x1b[31m")
# What a spreadsheet begins a formula with, whatever stands before it that it does not show.
OBEYED = re.compile("[\\s\0\u200b\ufeff]*[=+\\-@＝＋－＠]|[\t\r\n]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with these texts, a tiny classifier with these classes, its checkpoint and its index."""
    folder = tmp_path_factory.mktemp("hostile")
    lines = [json.dumps({"text": text, "label": LABELS[i % 2]}) for i, text in enumerate(TEXTS)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "test.jsonl").write_text("\n".join(lines))
    tokenizer = training.words_tokenizer(TEXTS)
    with training.seeded(0), training.quiet_transformers():
        model = training.small_bert(len(tokenizer), LABELS, width=32, positions=16)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    save_checkpoint(folder / "steps" / "step-1.pt", model, 0.1)
    return folder


MODEL = ["--model", "model", "--checkpoints", "steps", "--max-length", "16"]
ASKED = ["--index", "index", "--train", "train.jsonl", *MODEL]
COMMANDS = {
    "info": [],
    "index": ["--train", "train.jsonl", "--out", "index", *MODEL],
    "query": ["--test", "test.jsonl", "--test-limit", "20", "--k", "3", "--out", "q.html", *ASKED],
    "browse": ["--texts", "68", "--k", "1", "--out", "b.html", *ASKED],
    "suspects": [
        "--train",
        "train.jsonl",
        "--epochs",
        "1",
        "--max-length",
        "16",
        "--out",
        "s.html",
        "--argilla",
        "a.jsonl",
    ],
    "demo": [
        *["--train", "train.jsonl", "--test", "test.jsonl", "--epochs", "1", "--max-length", "16", "--k", "2"],
        *["--test-limit", "20", "--out", "d.html"],
    ],
}
# Columns that hold a text as a file has it.
WHOLE = ("text", "test_text", "train_text", "label", "suggested", "test_label", "prediction", "train_label")


def test_there_are_more_than_forty():
    assert len(TEXTS) > 60
    assert sum(bool(OBEYED.match(text)) for text in TEXTS) >= 18


def test_every_command_hands_on_what_is_there_and_nothing_is_obeyed(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    for command, options in COMMANDS.items():
        for more in (["--csv", f"{command}.csv", "--json", f"{command}.json"], ["--json", "-"]):
            if more[-1] == "-" and command not in ("info", "query"):
                continue  # all print JSON by one function
            code = main([command, *options, *more])
            out, err = capsys.readouterr()
            assert (code, err) == (0, ""), (command, err)
            assert not obeyed(out), command
        told = Path(f"{command}.json").read_bytes().decode()
        assert not obeyed(told), command
        known = json.loads(told)
        rows = [row for value in known.values() if isinstance(value, list) for row in value if isinstance(row, dict)]
        found = {row[name] for row in rows for name in WHOLE if row.get(name)}
        if command not in ("info", "index"):
            assert found <= {*TEXTS, *LABELS}, command
            assert len(found) > (40 if command in ("browse", "suspects") else 20), command
            lines = list(csv.DictReader(io.StringIO(Path(f"{command}.csv").read_bytes().decode(), newline="")))
            assert {as_meant(row[name]) for row in lines for name in WHOLE if row.get(name)} <= {*TEXTS, *LABELS}
        table = csv.reader(io.StringIO(Path(f"{command}.csv").read_bytes().decode(), newline=""))
        for row in table:
            for cell in row:
                assert not OBEYED.match(cell) or re.fullmatch(r"-?[\d.e+-]+", cell), (command, cell)


def test_pages_hold_none_of_it_as_markup_and_link_only_within(made):
    html5lib = pytest.importorskip("html5lib")
    for name in ("q.html", "b.html"):
        page = (made / name).read_text("utf-8")
        assert not obeyed(page.replace("\t", "")), name
        tree = html5lib.parse(page, namespaceHTMLElements=False)
        assert {element.tag for element in tree.iter() if isinstance(element.tag, str)}.isdisjoint(
            {"script", "img", "link"}
        )
        for element in tree.iter():
            assert re.fullmatch(r"#t\d+", element.get("href", "#t1")), name
            assert not any(key.startswith("on") or key == "src" for key in element.attrib)


# ------------------------------------------------------------------------------------------------------ the two functions


def test_a_cell_is_no_formula_and_gives_back_its_text():
    for text in (*FORMULAS, *MARKUP, *HOSTILE, "", "plain", "''", "'x", "a=1", "−1"):
        for given in (text, f"'{text}", f"''{text}"):
            assert not OBEYED.match(harmless(given)), given[:40]
            assert as_meant(harmless(given)) == given
    assert all(harmless(text) == f"'{text}" for text in FORMULAS)
    assert all(harmless(text) == text for text in ("plain", "'x", "a=1", "−1", "", "1-1"))
    assert csv_text(["=a"], [{"=a": -0.5}, {"=a": "-0.5"}, {"=a": ["=1"]}, {"=a": None}]) == (
        '\'=a\n-0.5\n\'-0.5\n"[""=1""]"\n""\n'
    )


def test_json_is_obeyed_by_no_terminal_and_equal_when_read():
    for text in (*FORMULAS, *MARKUP, *HOSTILE, "שלום 👩\u200d👧 é"):
        for ascii_only in (False, True):
            told = json_text({text: [text]}, ascii_only)
            assert not obeyed(told)
            assert "\n" not in told
            assert json.loads(told) == {text: [text]}
            assert told.isascii() or not ascii_only
            told.encode("utf-8")  # half a character by its number
        document = json_document({"schema_version": 1, "rows": [{"text": text}, {"text": "b"}], text: None})
        assert json.loads(document)["rows"][0] == {"text": text}
    with pytest.raises(ValueError, match="JSON"):
        json_text(float("nan"))


# ------------------------------------------------------------------------------------------------- what is read back


def test_a_table_of_suspects_is_no_formula(capsys):
    found = found_of(one_suspect(0, "=a", "@b", 0.9, "=x", "-y", "+z"), size=1)
    rows = list(csv.DictReader(io.StringIO(found.to_csv(), newline="")))
    assert (rows[0]["label"], rows[0]["suggested"], rows[0]["text"]) == ("'=a", "'@b", "'=x -y +z")
    assert rows[0]["suspicion"] == "0.9"
    assert to_csv(found.to_table()) == found.to_csv()


def test_decisions_with_labels_that_are_formulas_are_taken_and_the_cleaned_file_has_the_users_own_text(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    labels = ("-x", "=x", "'=x")
    texts = [("=1+1", "-x"), ("@home", "=x"), ("'=quoted", "'=x"), ("plain", "-x")] * 2
    with open("train.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    lines = [
        ("0", "-x", "relabel", "=x"),
        ("1", "=x", "keep", ""),
        ("2", "'=x", "relabel", "-x"),
        ("3", "-x", "drop", ""),
    ]
    rows = [dict(zip(("index", "label", "decision", "new_label"), line, strict=True)) for line in lines]
    Path("decisions.csv").write_text(csv_text(("index", "label", "decision", "new_label"), rows))
    assert [(one.label, one.new_label) for one in read_decisions(Path("decisions.csv"))] == [
        (row["label"], row["new_label"]) for row in rows
    ]
    done = main(["suspects", "--train", "train.csv", "--decisions", "decisions.csv", "--clean", "clean.csv"])
    assert (done, capsys.readouterr().err) == (0, "")
    assert [(row.text, row.label) for row in read_rows("clean.csv")] == [
        *[("=1+1", "=x"), ("@home", "=x"), ("'=quoted", "-x")],
        *texts[4:],
    ]
    # As an older page exported them, without apostrophes: a label that begins with one itself is ambiguous, no other.
    with open("decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([rows[0].keys(), *(row.values() for row in rows if row["label"] != labels[2])])
    assert [one.label for one in read_decisions(Path("decisions.csv"))] == ["-x", "=x", "-x"]
