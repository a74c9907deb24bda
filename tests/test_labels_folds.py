"""The recipe in folds, with real Trainers: what a model says of texts that it has not seen, and recipes that would leak."""

import os
import random
import re
from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

pytest.importorskip("accelerate")
from generated_data import Listed
from label_cases import average_precision
from label_cases import mislabelled as made_up
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from captum_tracinwe import TracInWE, save_checkpoint, suspects
from captum_tracinwe.labels.folds import out_of_fold, parts

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
FOLDS = 3


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def bert(classes=3, seed=0):
    """Small, and without dropout."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    zero = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(
        BertConfig(**sizes, **zero, intermediate_size=16, max_position_embeddings=16, num_labels=classes)
    )


def arguments(**changes):
    defaults = {"max_steps": 3, "learning_rate": 5e-3, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    return TrainingArguments(**{"output_dir": "run", **defaults, **changes})


def recipe(part, model=None, kind=Trainer, classes=3, **changes):
    of_trainer = {key: changes.pop(key) for key in list(changes) if key in ("data_collator", "compute_metrics")}
    trainer = kind(model or bert(classes), arguments(**changes), train_dataset=part, **of_trainer)
    trainer.pop_callback(next(c for c in trainer.callback_handler.callbacks if "Print" in type(c).__name__))
    return trainer


def rows(size=24, classes=3, share=0.1, seed=0):
    ids, truth, labels, wrong = made_up(size, classes, share, seed)
    examples = [{"input_ids": row.tolist(), "labels": int(y)} for row, y in zip(ids, labels, strict=True)]
    return examples, labels, wrong


def by_hand(examples, labels, folds=FOLDS, seed=0, **changes):
    """Of each text what the Trainer's model of its fold says of it alone."""
    fold = parts(labels, folds, seed)
    found = []
    models = []
    for number in range(folds):
        torch.manual_seed(seed + number)
        random.seed(seed + number)
        numpy.random.seed(seed + number)  # noqa: NPY002
        trainer = recipe([one for one, at in zip(examples, fold, strict=True) if at != number], **changes)
        trainer.train()
        models.append(trainer.model.eval())
    for example, at in zip(examples, fold, strict=True):
        with torch.no_grad():
            logits = models[at](torch.tensor([example["input_ids"]])).logits[0].double()
        found.append(logits.log_softmax(0))
    return torch.stack(found)


def test_each_text_is_judged_by_the_model_that_has_not_seen_it(capsys):
    examples, labels, _ = rows()
    found = out_of_fold(recipe, examples, FOLDS)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, by_hand(examples, labels), rtol=1e-4, atol=1e-5)
    assert re.search(r"the first of 3 folds took .+, all take about .+\.", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["datasets", "frame", "torch", "columns"])
def test_data_of_any_kind(kind):
    examples, labels, _ = rows()
    named = [{"label": one["labels"], "input_ids": one["input_ids"], "text": "a b"} for one in examples]
    if kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_list(named)
    elif kind == "frame":
        data = pytest.importorskip("pandas").DataFrame(named, index=[f"row {i}" for i in range(len(named))])
    elif kind == "columns":
        data = {key: [one[key] for one in named] for key in named[0]}
    else:
        data = Listed(named)
    torch.testing.assert_close(out_of_fold(recipe, data, FOLDS), out_of_fold(recipe, examples, FOLDS))


def lengthy(part, **changes):
    try:
        return recipe(part, train_sampling_strategy="group_by_length", **changes)
    except TypeError:  # transformers 4
        return recipe(part, group_by_length=True, **changes)


def test_the_arguments_of_training_do_not_shuffle_or_cut_what_is_predicted():
    examples, labels, _ = rows()
    for index, one in enumerate(examples):
        one["input_ids"] = one["input_ids"][: 3 + index % 6]
        one["attention_mask"] = [1] * len(one["input_ids"])

    def collate(batch):
        ids = [torch.tensor(one["input_ids"]) for one in batch]
        width = max(map(len, ids))
        return {
            "input_ids": torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in ids]),
            "attention_mask": torch.stack([(torch.arange(width) < len(row)).long() for row in ids]),
            "labels": torch.tensor([one["labels"] for one in batch]),
        }

    changes = {"data_collator": collate, "per_device_eval_batch_size": 3, "dataloader_drop_last": True}
    kept = []

    def odd(part):
        trainer = lengthy(part, prediction_loss_only=True, eval_do_concat_batches=False, **changes)
        kept.append(trainer.args)
        return trainer

    found = out_of_fold(odd, examples, FOLDS)
    assert found.isfinite().all()
    fold = parts(labels, FOLDS, 0)
    torch.manual_seed(0)
    trainer = lengthy([one for one, at in zip(examples, fold, strict=True) if at != 0], **changes)
    trainer.train()
    for index in (fold == 0).nonzero().flatten().tolist():
        with torch.no_grad():
            logits = trainer.model.eval()(torch.tensor([examples[index]["input_ids"]])).logits[0].double()
        torch.testing.assert_close(found[index], logits.log_softmax(0), rtol=1e-4, atol=1e-5)
    assert all(one.dataloader_drop_last and one.prediction_loss_only for one in kept)  # the user's stay as they are


class More(BertForSequenceClassification):
    """Its answer has something of another shape beside the logits."""

    def forward(self, input_ids, labels=None):
        output = super().forward(input_ids, labels=labels, output_hidden_states=True)
        return SequenceClassifierOutput(output.loss, output.logits, output.hidden_states)


def test_of_several_outputs_the_logits_are_taken():
    examples, *_ = rows()

    def more(part):
        return recipe(part, More(bert().config))

    found = out_of_fold(more, examples, FOLDS)
    assert found.shape == (24, 3)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(24, dtype=torch.float64))


class OneLogit(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.EmbeddingBag(90, 4)
        self.out = torch.nn.Linear(4, 1)

    def forward(self, input_ids, labels=None):
        logits = self.out(self.words(input_ids))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
        return {"loss": loss, "logits": logits}


def test_one_logit_is_of_class_1():
    examples, labels, _ = rows(size=60, classes=2, share=0)
    found = out_of_fold(lambda part: recipe(part, OneLogit(), max_steps=60, learning_rate=0.1), examples, 2)
    assert found.shape == (60, 2)
    assert float((found.argmax(1) == labels).double().mean()) > 0.8


def test_the_same_each_time_and_nothing_of_the_callers_is_changed():
    examples, *_ = rows()

    def elsewhere(part):
        os.makedirs("inner", exist_ok=True)
        os.chdir("inner")
        random.random()
        return recipe(part)

    folder, states = os.getcwd(), (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist())  # noqa: NPY002
    first = out_of_fold(elsewhere, examples, 2, seed=3)
    assert os.getcwd() == folder
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert numpy.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    torch.manual_seed(99)
    assert torch.equal(out_of_fold(recipe, examples, 2, seed=3), first)
    assert not torch.equal(out_of_fold(recipe, examples, 2, seed=4), first)
    assert not list(Path(folder).rglob("checkpoint-*"))


def test_classes_are_dealt_out_evenly():
    labels = torch.tensor([0] * 40 + [1] * 2 + [2] * 3 + [3])
    for seed in range(20):
        fold = parts(labels, 5, seed)
        assert torch.bincount(fold, minlength=5).tolist() == [10, 9, 9, 9, 9]
        for k in (0, 1, 2):
            assert all(bool((labels[fold != number] == k).any()) for number in range(5))
    assert not torch.equal(parts(labels, 5, 0), parts(labels, 5, 1))


def test_a_bar_is_shown_if_asked_for(capsys):
    examples, *_ = rows(12)
    out_of_fold(recipe, examples, 2, show_progress=True)
    assert "Training folds" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- in one call of suspects


class Backwards(SequentialSampler):
    def __iter__(self):
        return reversed(range(len(self.data_source)))


@pytest.mark.parametrize("own_order", [False, True])
def test_suspects_trains_the_recipe_in_folds(own_order):
    examples, _, wrong = rows(60, share=0.15)
    examples = [one | {"input_ids": torch.tensor(one["input_ids"])} for one in examples]
    model, data = bert(), Listed(examples)
    save_checkpoint("light/step-1.pt", model, 0.1)
    train = DataLoader(data, 8, sampler=Backwards(data)) if own_order else data
    tracin = TracInWE(model, train, "light/", batch_size=None if own_order else 8)

    def longer(part):
        return recipe(part, max_steps=25, learning_rate=0.02)

    found = suspects(tracin, folds=FOLDS, recipe=longer, limit=2)
    voice = out_of_fold(longer, examples, FOLDS)
    given = suspects(tracin, out_of_fold=voice, limit=2)
    assert found.order == given.order
    assert found.suspicions == pytest.approx(given.suspicions, abs=1e-9)
    assert average_precision(found.order, wrong) > 0.5


@pytest.mark.parametrize("kind", ["stream", "batches"])
def test_a_training_set_that_has_no_parts_is_refused_before_anything_is_done(kind):
    model = bert()
    save_checkpoint("light/step-1.pt", model, 0.1)
    batch = {key: torch.tensor([one[key] for one in rows()[0]]) for key in ("input_ids", "labels")}
    train = Stream() if kind == "stream" else DataLoader([batch, batch], batch_size=None)
    tracin = TracInWE(model, train, "light/", batch_size=8 if kind == "stream" else None)
    with pytest.raises(ValueError, match="`folds` needs a training set of which parts can be taken"):
        suspects(tracin, folds=2, recipe=untouched)


# ------------------------------------------------------------------------------------------------------- what is refused

SHARED = []


def same_model(part):
    SHARED[:] = SHARED or [bert()]
    return recipe(part, SHARED[0])


def same_weights(part):
    SHARED[:] = SHARED or [bert()]
    other = bert()
    other.bert = SHARED[0].bert
    return recipe(part, other)


def copied_weights(part):
    trainer = recipe(part)
    if SHARED:
        trainer.model.load_state_dict(SHARED[0].state_dict())
    SHARED[:] = [trainer.model]
    return trainer


def all_of_them(part):
    return recipe(rows()[0])


@pytest.mark.parametrize("leaking", [same_model, same_weights, copied_weights])
def test_a_model_that_has_seen_the_texts_is_refused(leaking):
    SHARED.clear()
    with pytest.raises(ValueError, match="a model that a fold before has trained"):
        out_of_fold(leaking, rows()[0], FOLDS)
    SHARED.clear()


def test_a_recipe_that_trains_on_all_is_refused():
    with pytest.raises(ValueError, match="is to be trained on 24 examples and was given 16"):
        out_of_fold(all_of_them, rows()[0], FOLDS)


class Shuffled(Trainer):
    def predict(self, test_dataset, **options):
        return super().predict(list(test_dataset)[::-1], **options)


class Classes(Trainer):
    def predict(self, test_dataset, **options):
        output = super().predict(test_dataset, **options)
        return output._replace(predictions=output.predictions.argmax(1))


class Diverged(Trainer):
    def predict(self, test_dataset, **options):
        output = super().predict(test_dataset, **options)
        output.predictions[1] = float("nan")
        return output


class Fewer(Trainer):
    def predict(self, test_dataset, **options):
        return super().predict(list(test_dataset)[:-1], **options)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Shuffled, "beside the prediction of example .* the Trainer has the label"),
        (Classes, r"predictions of 8 examples are \(8, 1\) of torch.int64: expected logits \(8, K\)"),
        (Diverged, "the prediction of example .* is NaN or infinite"),
        (Fewer, r"predictions of 8 examples are \(7, 3\)"),
    ],
)
def test_predictions_that_are_none_are_refused(kind, match):
    with pytest.raises(ValueError, match=match):
        out_of_fold(lambda part: recipe(part, kind=kind), rows()[0], FOLDS)


def test_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the label 2, and the recipe's model has 2 classes"):
        out_of_fold(lambda part: recipe(part, bert(2), kind=Unlearned), rows()[0], FOLDS)
    many = iter((3, 4, 5))
    with pytest.raises(ValueError, match="3 classes in one fold and 4 in another"):
        out_of_fold(lambda part: recipe(part, bert(next(many))), rows()[0], FOLDS)


class Unlearned(Trainer):
    """Neither trains nor takes a loss."""

    def train(self):
        pass

    def predict(self, test_dataset, **options):
        return super().predict([{**one, "labels": 0} for one in test_dataset], **options)


def test_checkpoints_of_another_run_are_not_written_over(tmp_path):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-3" / "kept").write_text("all")
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    with pytest.raises(ValueError, match="holds those of another run: expected that none is written over"):
        out_of_fold(lambda part: recipe(part, **saving), rows()[0], FOLDS)
    assert (tmp_path / "run" / "checkpoint-3" / "kept").read_text() == "all"
    assert out_of_fold(recipe, rows()[0], FOLDS).shape == (24, 3)  # which saves nothing
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint-3"]
    fresh = out_of_fold(lambda part: recipe(part, output_dir="own", **saving), rows()[0], FOLDS)
    assert fresh.shape == (24, 3)


class Stream(IterableDataset):
    def __iter__(self):
        yield from rows()[0]


def unlabelled(label):
    examples = rows()[0]
    examples[4] = {**examples[4], "labels": label} if label is not ... else {"input_ids": [1, 2]}
    return examples


def untouched(part):
    raise AssertionError("nothing is trained before the examples are looked at")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: out_of_fold(untouched, rows(4)[0], 5), ValueError, "4 examples and 5 folds"),
        (lambda: out_of_fold(untouched, rows()[0], 1), ValueError, "`folds` as a whole number of at least 2, got 1"),
        (
            lambda: out_of_fold(untouched, rows()[0], seed=-1),
            ValueError,
            "`seed` as a whole number of at least 0, got -1",
        ),
        (lambda: out_of_fold(None, rows()[0]), TypeError, "expected a recipe, .* got NoneType"),
        (lambda: out_of_fold(recipe(rows()[0]), rows()[0]), TypeError, "expected a recipe, .* got Trainer"),
        (lambda: out_of_fold(lambda part: None, rows()[0]), TypeError, "the recipe gave a NoneType"),
        (lambda: out_of_fold(untouched, Stream()), TypeError, "`dataset` of type Stream has no examples by number"),
        (lambda: out_of_fold(untouched, "data.csv"), TypeError, "`dataset` of type str has no examples by number"),
        (
            lambda: out_of_fold(untouched, {"train": Listed([]), "test": Listed([])}),
            ValueError,
            "holds data sets by name",
        ),
        (lambda: out_of_fold(untouched, unlabelled(...)), ValueError, "example 4 has no label"),
        (lambda: out_of_fold(untouched, unlabelled(0.5)), ValueError, "label of example 4 is 0.5"),
        (lambda: out_of_fold(untouched, unlabelled(-100)), ValueError, "label of example 4 is -100"),
        (lambda: out_of_fold(untouched, unlabelled("sea")), ValueError, "label of example 4 is 'sea'"),
        (lambda: out_of_fold(untouched, unlabelled([0.1, 0.9])), ValueError, r"label of example 4 is \[0.1, 0.9\]"),
        (lambda: out_of_fold(untouched, rows()[0], labels=[0, 1]), ValueError, "2 labels and 24 examples"),
        (lambda: out_of_fold(untouched, rows()[0], labels=[1] * 24), ValueError, "all 24 examples have the label 1"),
    ],
)
def test_what_cannot_be_a_recipe_or_its_data(call, error, match):
    with pytest.raises(error, match=match):
        call()
