"""`captum-tracinwe suspects --folds` and `--trusted`: what they add, what they cost, and where they cannot work."""

import csv
import io
import json
import re
import shutil

import pytest
import torch
from test_cli_suspects import SMALL, TEXTS, WRONG, decide, refused, run, write

from captum_tracinwe import save_checkpoint
from captum_tracinwe.app import recipes, training
from captum_tracinwe.app.data import LabelledTexts
from captum_tracinwe.labels.folds import parts

TRAIN = ["--train", "train.csv"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv")
    return tmp_path


@pytest.fixture
def trainings(monkeypatch):
    """The texts of each training."""
    done, before = [], training.train

    def train(model, texts, *args, **options):
        done.append(texts)
        return before(model, texts, *args, **options)

    monkeypatch.setattr(training, "train", train)
    return done


def saved(name, epochs=0, texts=TEXTS):
    """A tiny model of two named classes in a folder, trained on the texts for some epochs."""
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    labels = [("pets", "boats").index(label) for _, label in texts]
    with training.seeded(0), training.quiet_transformers():
        made = training.small_bert(len(tokenizer), ("pets", "boats"), width=32, positions=16)
        if epochs:
            encoded = training.EncodedTexts([text for text, _ in texts], labels, tokenizer, 12)
            training.train(made, encoded, "away", epochs=epochs, batch_size=8, learning_rate=3e-3, checkpoints=0)
        made.save_pretrained(name)
        tokenizer.save_pretrained(name)
    return made


def table(name):
    with open(name, newline="") as file:
        return list(csv.DictReader(io.StringIO(file.read(), newline="")))


# --------------------------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("given", [[], ["--model", "model"]])
def test_each_fold_is_trained_without_the_texts_that_it_is_asked_about(capsys, trainings, given):
    if given:
        saved("model")
    code, out, err = run(capsys, *TRAIN, *given, "--folds", "3", "--csv", "s.csv", *SMALL)
    assert code == 0, err
    lengths = [len(texts) for texts in trainings]
    assert lengths == [60, 40, 40, 40]
    ids = {tuple(one) for one in trainings[0].fields["input_ids"]}
    held = [ids - {tuple(one) for one in texts.fields["input_ids"]} for texts in trainings[1:]]
    assert set.union(*held) == ids
    assert [len(one) for one in held] == [20, 20, 20]
    # Told before the folds, after the one training by which the time is known.
    assert re.search(r"Trained for 4 epochs in .*\n--folds 3: 3 more are trained, .*; about .+ s\.", out)
    assert {int(row["index"]) for row in table("s.csv")[:2]} == set(WRONG)


def test_a_fold_says_what_a_model_trained_by_hand_on_the_rest_says():
    texts = LabelledTexts(
        tuple(text for text, _ in TEXTS),
        tuple(("boats", "pets").index(label) for _, label in TEXTS),
        ("boats", "pets"),
        tuple(range(60)),
    )
    recipe, _ = recipes.recipe_of(None, texts, max_length=12, epochs=2, batch_size=8, learning_rate=None, say=print)
    found = recipes.out_of_fold(recipe, texts, 3, 5, 1.0, "away", print)
    fold = parts(torch.tensor(texts.labels), 3, 5)
    for number in range(3):
        taught = texts.take((fold != number).nonzero().flatten().tolist())
        torch.manual_seed(5 + number)
        model = training.small_bert(len(recipe.tokenizer), texts.names, positions=64)
        encoded = training.EncodedTexts(taught.texts, taught.labels, recipe.tokenizer, 12)
        training.train(model, encoded, "away", epochs=2, batch_size=8, learning_rate=1e-3, seed=5 + number)
        for index in (fold == number).nonzero().flatten().tolist():
            one = recipe.tokenizer(texts.texts[index], truncation=True, max_length=12, return_tensors="pt")
            with torch.no_grad():
                alone = model(**one).logits[0].double().log_softmax(0)
            torch.testing.assert_close(found[index], alone, rtol=1e-4, atol=1e-5)


def test_folds_are_the_same_of_the_same_seed_and_leave_nothing_behind(capsys, folder):
    for name in ("one.csv", "two.csv"):
        assert run(capsys, *TRAIN, "--folds", "2", "--csv", name, *SMALL, "--epochs", "1")[0] == 0
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "captum-tracinwe-suspects.html",
        "one.csv",
        "train.csv",
        "two.csv",
    ]


def test_folds_are_refused_where_the_recipe_is_not_known(capsys, folder, trainings):
    save_checkpoint("checkpoints/step-1.pt", saved("model"), 0.1)
    folds = [*TRAIN, "--model", "model", "--folds", "3"]
    said = refused(capsys, folder, *folds, "--checkpoints", "checkpoints")
    assert "--folds 3: --model model is asked at its checkpoints, and how it was trained is not known" in said
    assert "Give the pretrained model that it began from as --model" in said
    assert "suspects(tracin, folds=3, recipe=...)" in said
    shutil.copytree("checkpoints", "model/checkpoint-1")
    assert "how it was trained is not known" in refused(capsys, folder, *folds)
    assert not trainings


def test_folds_of_a_model_that_knows_the_labels_already_are_refused(capsys, folder, trainings):
    saved("taught", epochs=4)
    trainings.clear()
    said = refused(capsys, folder, *TRAIN, "--model", "taught", "--folds", "3")
    assert re.search(r"--folds 3: --model taught names \d+% of these labels before it is trained here", said)
    assert "give the pretrained one that it began from as --model" in said
    assert not trainings


@pytest.mark.parametrize(("given", "said"), [("1", "at least 2, got '1'"), ("x", "at least 2, got 'x'")])
def test_a_number_of_folds_that_is_none_is_refused(capsys, given, said):
    code, _, err = run(capsys, *TRAIN, "--folds", given)
    assert code == 2
    assert "argument --folds: expected a whole number of " + said in err


def test_more_folds_than_texts_are_refused(capsys, folder, trainings):
    said = refused(capsys, folder, *TRAIN, "--folds", "61")
    assert "--folds 61: train.csv has 60 texts; expected a text at least for each fold" in said
    assert not trainings


# ------------------------------------------------------------------------------------------------------------- trusted


def judged(capsys, *options):
    code, out, err = run(capsys, *TRAIN, "--csv", "s.csv", *SMALL, "--epochs", "1", *options)
    assert code == 0, err
    return table("s.csv"), out


def right(index):
    return {"pets": "boats", "boats": "pets"}[TEXTS[index][1]] if index in WRONG else TEXTS[index][1]


def test_trusted_texts_are_not_suspected_and_teach_the_others(capsys, trainings):
    """All but ten texts are known to be of the other class than in the file: the rest are then what is wrong."""
    other = {"pets": "boats", "boats": "pets"}
    write("trusted.csv", [(text, other[right(i)]) for i, (text, _) in enumerate(TEXTS) if i >= 10])
    rows, out = judged(capsys, "--trusted", "trusted.csv")
    assert {int(row["index"]) for row in rows} == set(range(10))
    assert rows[-1]["index"] == "3"  # the one of the first ten whose label the others now have
    assert "Known: 50 labels, 49 of them other than in train.csv." in out
    classes = ("boats", "pets")
    assert [classes[label] for label in trainings[0].labels[10:]] == [other[right(i)] for i in range(10, 60)]


def test_decisions_of_the_page_are_trusted_and_a_drop_says_no_label(capsys, trainings):
    decide("3,pets,relabel,boats", "4,pets,keep,", "10,boats,drop,")
    rows, out = judged(capsys, "--trusted", "decisions.csv")
    assert {int(row["index"]) for row in rows} == set(range(60)) - {3, 4}
    assert "Known: 2 labels, 1 of them other than in train.csv." in out
    assert [("boats", "pets")[trainings[0].labels[i]] for i in (3, 4, 10)] == ["boats", "pets", "boats"]


def test_a_trusted_text_that_stands_in_the_file_twice_is_known_at_both_places(capsys):
    write("train.csv", [*TEXTS, TEXTS[0]])
    write("trusted.csv", [TEXTS[0]])
    rows, _ = judged(capsys, "--trusted", "trusted.csv")
    assert {int(row["index"]) for row in rows} == set(range(1, 60))


def test_with_a_models_checkpoints_its_training_labels_stay_those_of_the_file(capsys, monkeypatch):
    save_checkpoint("checkpoints/step-1.pt", saved("model"), 0.1)
    write("trusted.csv", [(TEXTS[3][0], "boats")])
    asked, before = [], training.EncodedTexts

    def encoded(texts, labels, *args):
        asked.append(list(labels))
        return before(texts, labels, *args)

    monkeypatch.setattr(training, "EncodedTexts", encoded)
    of_model = ["--model", "model", "--checkpoints", "checkpoints"]
    code, _, err = run(capsys, *TRAIN, *of_model, "--trusted", "trusted.csv", "--csv", "s.csv")
    assert code == 0, err
    assert asked == [[("pets", "boats").index(label) for _, label in TEXTS]]
    assert 3 not in {int(row["index"]) for row in table("s.csv")}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([("no such text", "pets")], "line 2: 'no such text' is no text of train.csv; expected texts of that file"),
        ([TEXTS[0], (TEXTS[0][0], "boats")], f"line 3: '{TEXTS[0][0]}' has another label in line 2"),
        ([(TEXTS[0][0], "cars")], "line 2: the label 'cars' is not in the training file"),
        (TEXTS, "all 60 texts of train.csv are in it"),
        ([(text, "pets") for text, label in TEXTS if label == "boats"], "all 60 texts of train.csv are 'pets'"),
        ([], "no rows in it"),
    ],
)
def test_trusted_texts_that_do_not_fit_are_refused_before_the_work(capsys, folder, trainings, texts, said):
    write("trusted.csv", texts)
    assert said in refused(capsys, folder, *TRAIN, "--trusted", "trusted.csv")
    assert not trainings


def test_trusted_decisions_that_do_not_fit_are_refused_by_the_options_name(capsys, folder, trainings):
    decide("60,pets,keep,")
    said = refused(capsys, folder, *TRAIN, "--trusted", "decisions.csv")
    assert "--trusted decisions.csv, line 2: the index is 60" in said
    decide("0,pets,drop,")
    said = refused(capsys, folder, *TRAIN, "--trusted", "decisions.csv")
    assert "--trusted decisions.csv: no label in it that is known; expected decisions to keep or to relabel" in said
    decide()
    assert "--trusted decisions.csv: no decisions in it" in refused(
        capsys, folder, *TRAIN, "--trusted", "decisions.csv"
    )
    assert "nothere.csv: no such file" in refused(capsys, folder, *TRAIN, "--trusted", "nothere.csv")
    (folder / "t.jsonl").write_text(json.dumps({"text": TEXTS[0][0]}) + "\n")
    assert "no column 'label'" in refused(capsys, folder, *TRAIN, "--trusted", "t.jsonl")
    said = refused(capsys, folder, *TRAIN, "--trusted", "decisions.csv", "--csv", "decisions.csv")
    assert "that is an input file" in said
    assert not trainings


def test_neither_says_anything_about_a_cleaned_file(capsys, folder):
    decide("0,pets,keep,")
    cleaned = [*TRAIN, "--decisions", "decisions.csv", "--clean", "clean.csv"]
    for option in (["--folds", "3"], ["--trusted", "train.csv"]):
        assert f"{option[0]} is given with --clean" in refused(capsys, folder, *cleaned, *option)
