"""Labels as files have them, and texts of several columns: read as a pair, or joined, and by the model alike."""

import json

import pytest
from transformers import PreTrainedTokenizerBase

from captum_tracinwe.app.data import classes_of, with_classes
from captum_tracinwe.app.files import InputError, Reading, Row, in_one, read_texts
from captum_tracinwe.app.training import EncodedTexts, small_bert, wordpiece_tokenizer, words_tokenizer
from captum_tracinwe.words.texts import tokenize


def rows_of(*labels):
    return [Row(n, f"text {n}", label) for n, label in enumerate(labels, 2)]


def test_numbers_among_names_are_said_and_shown():
    with pytest.warns(
        UserWarning, match=r"x.csv: some labels are numbers \('1', '2', '10'\) and some are names \('a', 'b'\)"
    ) as said:
        assert list(classes_of(rows_of("10", "a", "2", "1", "b", "a"), "x.csv")) == ["1", "2", "10", "a", "b"]
    assert "they count as 5 different classes. If the numbers stand for names, write one of both in all lines." in str(
        said[0].message
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [("1", "2"), ("a", "b"), ("-1", "1"), ("1st", "2nd"), ("true", "false")])
def test_labels_of_one_kind_are_not_remarked_on(labels):
    assert len(classes_of(rows_of(*labels), "x.csv")) == 2


def test_whole_numbers_with_a_point_are_whole_where_all_are(tmp_path):
    def labels(*written):
        path = tmp_path / "x.csv"
        path.write_text("text,label\n" + "".join(f"a,{label}\n" for label in written))
        return [row.label for row in read_texts(path)]

    assert labels("1.0", "2.00", "-1.0") == ["1", "2", "-1"]
    assert labels("1.0", "2", "1") == ["1", "2", "1"]
    assert labels("1.0", "1.5", "2.0") == ["1.0", "1.5", "2.0"]
    assert labels("1.0", "beta", "2.0") == ["1.0", "beta", "2.0"]
    assert labels("007", "7") == ["007", "7"]


def test_all_labels_that_training_lacks_are_told():
    classes = classes_of(rows_of("a", "b"), "train.csv")
    with pytest.raises(InputError) as caught:
        with_classes(rows_of("a", *["c"] * 11, "d", "b"), classes, "test.csv")
    assert str(caught.value) == (
        "test.csv: 12 of 14 cannot be used: the first 10: lines 3, 4, 5, 6, 7, 8, 9, 10, 11 and 12: the label 'c' is not in the "
        "training file ('a', 'b')."
    )


def test_a_text_keeps_its_place_through_a_sample(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([{"text": str(n), "label": n % 2} for n in range(4)]))
    rows = read_texts(tmp_path / "x.json")
    texts = with_classes(rows, classes_of(rows, "x"), "x").take([3, 1])
    assert texts.places == ("item 4", "item 2")
    assert not texts.pairs


# ------------------------------------------------------------------------------------------------- several columns

PAIR = Reading(("premise", "hypothesis"), "gold")
PAIRS = [("a dog runs", "an animal moves"), ("a man sleeps", "he runs away")]


@pytest.fixture(params=["x.jsonl", "x.csv", "x.parquet"])
def pairs(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".jsonl":
        records = [{"premise": a, "hypothesis": b, "gold": n, "note": "n"} for n, (a, b) in enumerate(PAIRS)]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".csv":
        path.write_text(
            "gold;hypothesis;note;premise\n" + "".join(f"{n};{b};n;{a}\n" for n, (a, b) in enumerate(PAIRS))
        )
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {
            "premise": [a for a, _ in PAIRS],
            "hypothesis": [b for _, b in PAIRS],
            "gold": [0, 1],
            "note": ["n"] * 2,
        }
        parquet.write_table(arrow.table(columns), path)
    return path


def test_two_columns_are_a_pair_and_more_are_joined(pairs):
    assert [row.text for row in read_texts(pairs, PAIR)] == PAIRS
    assert in_one(PAIRS[0]) == "a dog runs │ an animal moves"
    three = Reading(("note", "hypothesis", "premise"), "gold")
    assert [row.text for row in read_texts(pairs, three)] == [f"n\n{b}\n{a}" for a, b in PAIRS]
    assert "pair: premise │ hypothesis." in PAIR.said
    assert "note, hypothesis and premise, a line each" in three.said
    with pytest.raises(InputError, match=r"no column 'body'; there are: .*Name the right one with --text-columns"):
        read_texts(pairs, Reading(("premise", "body"), "gold"))


def test_an_empty_half_of_a_pair_is_told_by_its_column(tmp_path):
    (tmp_path / "x.csv").write_text("premise,hypothesis,gold\na,b,1\na,,1\n")
    with pytest.raises(InputError, match="line 3: 'hypothesis' is empty"):
        read_texts(tmp_path / "x.csv", PAIR)


@pytest.mark.parametrize("made", [words_tokenizer, wordpiece_tokenizer])
def test_a_model_reads_both_texts_of_a_pair_as_they_are_shown(made):
    tokenizer: PreTrainedTokenizerBase = made(PAIRS)
    encoded = EncodedTexts(PAIRS, [0, 1], tokenizer, 64)
    batch = encoded.collate([encoded[0], encoded[1]])
    shown = tokenize(PAIRS, tokenizer, max_length=64)
    for ids, kinds, mask, text in zip(
        batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], shown, strict=True
    ):
        assert tuple(ids[mask.bool()].tolist()) == text.token_ids
        second = [text.spans[n] is not None and text.spans[n][0] > text.text.index("│") for n in range(len(text.spans))]
        assert [bool(kind) for kind in kinds[mask.bool()].tolist()][:-1] == second[:-1]
        assert text.token_names.count("[SEP]") == 2
    model = small_bert(len(tokenizer), ["a", "b"], width=32, positions=32).eval()
    swapped = EncodedTexts([pair[::-1] for pair in PAIRS], [0, 1], tokenizer, 64)
    other = swapped.collate([swapped[0], swapped[1]])
    assert not model(**batch).logits.allclose(model(**other).logits)
