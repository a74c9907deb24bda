"""What has no single right label, several of a text, numbers, soft or missing ones: what `suspects` and its command say."""

import csv
import functools
import json

import pytest
import torch
from one_by_one import OneByOne
from test_cli_suspects import SMALL, TEXTS, decide, refused, run, write
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, save_checkpoint, suspects
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, toy_texts
from captum_tracinwe.gradients.answers import answers_of

SIZE = 12


@pytest.fixture
def texts():
    return toy_texts(SIZE, seed=3)


def bert(problem, classes=3):
    model = tiny_bert(classes=classes)
    model.config.problem_type = problem
    return model


def rows(ids, mask, labels):
    return OneByOne({"input_ids": ids, "attention_mask": mask, "labels": labels})


# --------------------------------------------------------------------------------------------------------- from Python


def both_ways(model, train, tmp_path, **options):
    """What is said of it live, and of an index if it can be built."""
    save_checkpoint(tmp_path / "step-1.pt", model, 0.1)
    paths = [str(tmp_path / "step-1.pt")]
    made = functools.partial(TracInWE, model, train, paths, batch_size=4, **options)
    yield made
    built = made()
    built.build_index(tmp_path / "index")
    yield functools.partial(made, index=tmp_path / "index")


@pytest.mark.parametrize("several", [True, False], ids=["several", "one-hot"])
def test_a_model_of_several_labels_is_refused_live_and_from_an_index(texts, tmp_path, several):
    ids, mask, labels = texts
    given = functional.one_hot(labels, 3).float()
    given[::2, 0] = 1 if several else given[::2, 0]
    for made in both_ways(bert("multi_label_classification"), rows(ids, mask, given), tmp_path):
        with pytest.raises(
            ValueError, match=r"several labels of a text \(problem_type='multi_label_classification'"
        ) as e:
            suspects(made())
        assert "Ask about one label at a time" in str(e.value)


def test_a_model_of_several_labels_with_class_numbers_is_told_so(texts, tmp_path):
    model = bert("multi_label_classification")
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1,))
    tracin = TracInWE(model, rows(*texts), paths, batch_size=4)
    with pytest.raises(ValueError, match="suspects: the model is trained on several labels of a text"):
        suspects(tracin)
    with pytest.raises(ValueError, match=r"The labels are class numbers, shape \(4,\), .*[Ee]xpected shape \(4, 3\)"):
        tracin.influence({"input_ids": texts[0][:4], "attention_mask": texts[1][:4], "labels": texts[2][:4]})


@pytest.mark.filterwarnings("ignore:What judges labels:UserWarning")
def test_one_label_of_several_is_judged(texts, tmp_path):
    ids, mask, labels = texts
    one = (labels > 0).float()[:, None]
    for made in both_ways(bert("multi_label_classification", classes=1), rows(ids, mask, one), tmp_path):
        assert len(suspects(made())) == SIZE


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(reduction="none"),
        nn.SmoothL1Loss(reduction="none"),
        functional.huber_loss,
        functools.partial(functional.l1_loss, reduction="none"),
    ],
)
def test_a_number_learned_by_any_loss_of_torch_is_no_class_even_where_it_is_0_or_1(texts, tmp_path, loss):
    ids, _, labels = texts
    model = TinyCNN(classes=1)
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1,))
    tracin = TracInWE(model, TensorDataset(ids, (labels > 0).float()[:, None]), paths, loss_fn=loss, batch_size=1)
    with pytest.raises(ValueError, match="is that of a regression: expected a classifier"):
        suspects(tracin)


class Sigmoid(TinyCNN):
    def forward(self, input_ids):
        return super().forward(input_ids).sigmoid()


def test_probabilities_of_one_class_are_taken_as_such_from_the_function_too(texts, tmp_path):
    ids, _, labels = texts
    model = Sigmoid(classes=1)
    paths = scatter_checkpoints(model, tmp_path, rates=(0.1,))
    train = TensorDataset(ids, (labels > 0).float()[:, None])
    losses = (nn.BCELoss(reduction="none"), functools.partial(functional.binary_cross_entropy, reduction="none"))
    found = [
        answers_of(TracInWE(model, train, paths, loss_fn=loss, batch_size=4).live_source).log_probabilities
        for loss in losses
    ]
    torch.testing.assert_close(found[1], found[0])


def test_an_example_without_a_label_is_told_with_what_was_expected(texts, tmp_path):
    ids, mask, labels = texts
    train = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    del train[2]["labels"]
    paths = scatter_checkpoints(tiny_bert(), tmp_path, rates=(0.1,))
    with pytest.raises(
        ValueError, match=r"lacks the column 'labels'.* Expected the same columns in each: complete the"
    ):
        suspects(TracInWE(tiny_bert(), train, paths, batch_size=4))


# -------------------------------------------------------------------------------------------------- from the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv")
    return tmp_path


def saved(problem, names):
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    with training.seeded(0), training.quiet_transformers():
        made = training.small_bert(len(tokenizer), names, width=32, positions=16)
        made.config.problem_type = problem
        made.save_pretrained("model")
        tokenizer.save_pretrained("model")
    save_checkpoint("checkpoints/step-1.pt", made, 0.1)


KINDS = [
    ("multi_label_classification", ["pets", "boats"], "trained on several labels of a text"),
    ("regression", ["pets", "boats"], "trained on a number for each text"),
    (None, ["score"], r"trained on a number for each text (problem_type='regression' and num_labels=1"),
]


@pytest.mark.parametrize(("problem", "names", "said"), KINDS)
def test_a_model_of_another_task_is_not_asked(capsys, folder, problem, names, said):
    saved(problem, names)
    of_model = ["--model", "model", "--checkpoints", "checkpoints"]
    shown = refused(capsys, folder, "--train", "train.csv", *of_model)
    assert said in shown
    assert "expected a classifier of one class for each text" in shown
    assert main(["index", "--train", "train.csv", "--out", "index", *of_model]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "index").exists()


@pytest.mark.parametrize(("problem", "names"), [kind[:2] for kind in KINDS])
def test_a_model_of_another_task_is_fine_tuned_as_a_classifier_and_its_decisions_can_be_done(
    capsys, folder, problem, names
):
    saved(problem, names)
    code, _, err = run(capsys, "--train", "train.csv", "--model", "model", "--csv", "s.csv", *SMALL)
    assert code == 0, err
    with open("s.csv", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"pets", "boats"}
    decide("0,pets,relabel,boats")
    options = ["--decisions", "decisions.csv", "--clean", "clean.csv", "--model", "model"]
    code, _, err = run(capsys, "--train", "train.csv", *options)
    assert code == 0, err
    assert (folder / "clean.csv").read_text().splitlines()[1].endswith(",boats")
    tune = ["demo", "--train", "train.csv", "--test", "train.csv", "--model", "model", "--epochs", "1"]
    assert main([*tune, "--test-limit", "1", "--max-length", "12"]) == 0


@pytest.mark.parametrize("label", ["-100", "nan", "NaN", "<NA>"])
def test_what_programs_write_for_no_label_is_no_class(capsys, folder, label):
    write("train.csv", [*TEXTS[:5], (TEXTS[5][0], label), *TEXTS[6:]])
    shown = refused(capsys, folder, "--train", "train.csv")
    assert f"train.csv, line 7: 'label' is {label}, by which programs say that there is no label" in shown
    assert "Remove the line; if it is a class, give it another name" in shown


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (
            ["pets", "boats"],
            "'label' is a list; expected an integer or a string: one class of each text. Of several labels",
        ),
        (0.7, "'label' is 0.7; expected an integer or a string: which class the text is of."),
    ],
)
def test_several_and_soft_labels_of_a_file_are_refused_with_a_way_out(capsys, folder, label, said):
    records = [{"text": text, "label": label} for text, _ in TEXTS]
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert said in refused(capsys, folder, "--train", "t.jsonl")
