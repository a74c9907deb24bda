"""From a Trainer run to influence: data, collator, checkpoints with the scheduler's rates, loss; with real Trainers."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

pytest.importorskip("accelerate")
from safetensors.torch import save_file
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, Trainer, TrainingArguments

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.testing import language_model_loss, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.checkpoints.rates import trainer_rate
from captum_tracinwe.checkpoints.trainer import SaveCheckpoints
from captum_tracinwe.gradients.token_losses import TokenLoss


class Texts(Dataset):
    def __init__(self, count=12, seed=1, language=False):
        ids, mask, labels = toy_texts(count, seed=seed)
        if language:
            labels = ids.masked_fill(mask == 0, -100)
        self.rows = [
            {"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Rates(SaveCheckpoints):
    """Light checkpoints, and what the scheduler said beside them."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = {}

    def on_step_end(self, args, state, control, **given):
        self.seen[state.global_step] = given["lr_scheduler"].get_last_lr()[0]
        super().on_step_end(args, state, control, **given)


def trained(folder, model=None, texts=None, **changes):
    torch.manual_seed(0)
    callback = Rates(folder / "light", every=3)
    of_trainer = {key: changes.pop(key) for key in ("data_collator", "processing_class") if key in changes}
    arguments = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8, "learning_rate": 3e-3, **changes}
    arguments = TrainingArguments(
        str(folder / "run"),
        per_device_train_batch_size=3,
        report_to=[],
        disable_tqdm=True,
        **{"logging_steps": 1} | arguments,
    )
    trainer = Trainer(
        model or tiny_bert(), arguments, train_dataset=texts or Texts(), callbacks=[callback], **of_trainer
    )
    trainer.train()
    return trainer, callback


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trainer"), lr_scheduler_type="cosine", warmup_steps=2)


def scores_of(run, test, loss, checkpoints, rates):
    """Scores by the plain constructor, with rates handed over by a loader function."""

    def load(model, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_checkpoint(model, path)
        return rates[path]

    return TracInWE(run.model, run.train_dataset, checkpoints, load, loss_fn=loss, batch_size=5).influence(test)


def test_three_lines_from_a_trainer_to_answers(run):
    trainer, callback = run
    tracin = TracInWE.from_trainer(trainer)
    test = torch.utils.data.default_collate([Texts(3, seed=2)[i] for i in range(3)])
    with pytest.warns(UserWarning, match="learning rate of 0"):
        scores = tracin.influence(test)
    steps = [int(path.rsplit("-", 1)[1]) for path in tracin.checkpoints]
    assert steps == [2, 4, 6, 8]
    rates = {path: callback.seen[step] for path, step in zip(tracin.checkpoints, steps, strict=True)}
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    torch.testing.assert_close(scores, scores_of(trainer, test, loss, tracin.checkpoints, rates))


def test_recovered_rates_are_the_schedulers(run):
    trainer, callback = run
    table = trainer.model.get_input_embeddings().weight
    for path in TracInWE.from_trainer(trainer).checkpoints:
        step = int(path.rsplit("-", 1)[1])
        assert abs(trainer_rate(Path(path), table) - callback.seen[step]) < 1e-9


def test_light_checkpoints_carry_the_rate_of_their_step(run):
    trainer, callback = run
    tracin = TracInWE.from_trainer(trainer, checkpoints=callback.directory)
    assert [path.rsplit("/", 1)[1] for path in tracin.checkpoints] == ["step-3.pt", "step-6.pt"]
    for path, step in zip(tracin.checkpoints, (3, 6), strict=True):
        assert load_checkpoint(tiny_bert(), path) == callback.seen[step]


def test_a_finished_run_is_read_from_its_directory(run):
    trainer, _ = run
    live = TracInWE.from_trainer(trainer)
    finished = TracInWE.from_pretrained_run(trainer.args.output_dir, trainer.train_dataset)
    test = torch.utils.data.default_collate([Texts(3, seed=2)[i] for i in range(3)])
    with pytest.warns(UserWarning, match="learning rate of 0"):
        torch.testing.assert_close(finished.influence(test), live.influence(test))


def test_a_language_model_sums_over_the_tokens_of_each_text(tmp_path):
    trainer, callback = trained(tmp_path, tiny_gpt2(tied=False), Texts(language=True), max_steps=4)
    tracin = TracInWE.from_trainer(trainer, checkpoints=callback.directory)
    test = torch.utils.data.default_collate([Texts(3, seed=2, language=True)[i] for i in range(3)])
    plain = TracInWE(
        trainer.model, trainer.train_dataset, callback.directory, loss_fn=language_model_loss, batch_size=5
    )
    torch.testing.assert_close(tracin.influence(test), plain.influence(test))


def columns(count, seed):
    """Lists of each text's own length, with columns that no model takes, as `datasets.map(tokenize)` leaves them."""
    rows = []
    for number, row in enumerate(Texts(count, seed).rows):
        length = int(row["attention_mask"].sum())
        lists = {key: row[key][:length].tolist() for key in ("input_ids", "attention_mask")}
        rows.append({"idx": number, "text": "a b", "label": int(row["labels"]), **lists})
    return rows


def test_a_dataset_with_columns_of_no_use_live_and_finished(tmp_path):
    datasets = pytest.importorskip("datasets")
    tokenizer = words_tokenizer(["a b c"])
    data, test = datasets.Dataset.from_list(columns(12, 1)), columns(3, 2)
    trainer, callback = trained(
        tmp_path, texts=data, max_steps=4, data_collator=DataCollatorWithPadding(tokenizer), processing_class=tokenizer
    )
    live = TracInWE.from_trainer(trainer, checkpoints=callback.directory)
    expected = live.influence(torch.utils.data.default_collate([Texts(3, seed=2)[i] for i in range(3)]))
    torch.testing.assert_close(live.influence(test), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(live.influence(datasets.Dataset.from_list(test)), expected, rtol=1e-4, atol=1e-6)
    output = trainer.args.output_dir
    finished = TracInWE.from_pretrained_run(output, data, checkpoints=callback.directory)
    torch.testing.assert_close(finished.influence(test), expected, rtol=1e-4, atol=1e-6)
    renamed = data.rename_column("label", "topic")
    finished = TracInWE.from_pretrained_run(output, renamed, checkpoints=callback.directory, label_names="topic")
    test = [{("topic" if key == "label" else key): value for key, value in row.items()} for row in test]
    torch.testing.assert_close(finished.influence(test), expected, rtol=1e-4, atol=1e-6)


def test_a_trainer_of_answers_in_texts(tmp_path):
    from transformers import BertForQuestionAnswering

    torch.manual_seed(0)
    model = BertForQuestionAnswering(tiny_bert(classes=2).config)
    rows = []
    for row in Texts().rows:
        place = row.pop("labels")
        rows.append({**row, "start_positions": place, "end_positions": place + 1})
    trainer, callback = trained(tmp_path, model, rows, max_steps=4)
    tracin = TracInWE.from_trainer(trainer, checkpoints=callback.directory)
    assert tracin.label_names == ("start_positions", "end_positions")
    assert TracInWE.from_pretrained_run(trainer.args.output_dir, rows).label_names == tracin.label_names
    alone = TracInWE.from_trainer(trainer, checkpoints=callback.directory, batch_size=1, loss_fn=None)
    expected = alone.self_influence()
    torch.testing.assert_close(tracin.self_influence(), expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_what_a_trainer_does_its_own_way_is_said(run, tmp_path):
    _, callback = run

    class Own(Trainer):
        def compute_loss(self, *args, **options):
            return super().compute_loss(*args, **options)

    arguments = TrainingArguments(str(tmp_path), report_to=[], label_smoothing_factor=0.1)
    trainer = Own(tiny_bert(), arguments, train_dataset=Texts())
    with pytest.warns(
        UserWarning, match=r"loss of its own \(label_smoothing_factor=0.1, compute_loss\).*Pass loss_fn="
    ):
        TracInWE.from_trainer(trainer, checkpoints=callback.directory)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        TracInWE.from_trainer(trainer, checkpoints=callback.directory, loss_fn=torch.nn.CrossEntropyLoss())
    collator = DataCollatorForLanguageModeling(words_tokenizer(["a b"]))
    trainer = Trainer(
        tiny_bert(), TrainingArguments(str(tmp_path), report_to=[]), train_dataset=Texts(), data_collator=collator
    )
    with pytest.warns(UserWarning, match="another batch of the same examples each time"):
        TracInWE.from_trainer(trainer, checkpoints=callback.directory)


def groups_of(directory, rates, shapes):
    """A checkpoint directory's optimiser files with one parameter of a shape in each group."""
    groups = [{"lr": rate, "params": [i]} for i, rate in enumerate(rates)]
    state = {i: {"exp_avg": torch.zeros(shape)} for i, shape in enumerate(shapes)}
    torch.save({"param_groups": groups, "state": state}, directory / "optimizer.pt")


def test_the_group_that_trains_the_embedding_has_the_say(tmp_path):
    table = torch.zeros(30, 8)
    groups_of(tmp_path, [0.1, 0.02], [(4, 4), (30, 8)])
    assert trainer_rate(tmp_path, table) == 0.02
    torch.save({"_last_lr": [0.3, 0.04]}, tmp_path / "scheduler.pt")
    assert trainer_rate(tmp_path, table) == 0.04
    groups_of(tmp_path, [0.1, 0.02], [(4, 4), (5, 5)])
    with pytest.warns(UserWarning, match=r"different learning rates \[0.3, 0.04\].*first group, 0.3, is used"):
        assert trainer_rate(tmp_path, table) == 0.3


def test_without_optimiser_files_the_log_has_the_say(tmp_path):
    history = [{"step": 2, "learning_rate": 0.5}, {"step": 4, "loss": 1.0}, {"step": 6, "learning_rate": 0.1}]
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 2, "log_history": history}))
    with pytest.warns(UserWarning, match="rate logged at step 2, 0.5, is used for the step after its step 2"):
        assert trainer_rate(tmp_path, None) == 0.5
    state.write_text(json.dumps({"global_step": 4, "log_history": history}))
    with pytest.warns(UserWarning, match="rate logged at step 2, 0.5, is used for the step after its step 4"):
        assert trainer_rate(tmp_path, None) == 0.5
    state.write_text(json.dumps({"global_step": 1, "log_history": history}))
    assert trainer_rate(tmp_path, None) is None
    state.unlink()
    assert trainer_rate(tmp_path, None) is None


@pytest.mark.parametrize("name", ["scheduler.pt", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80damaged")
    with pytest.raises(ValueError, match=rf"cannot be read: {name} is"):
        trainer_rate(tmp_path, torch.zeros(2, 2))


def test_runs_without_what_is_needed_are_refused(tmp_path):
    arguments = TrainingArguments(str(tmp_path / "run"), report_to=[])
    with pytest.raises(ValueError, match="no checkpoint-"):
        TracInWE.from_trainer(Trainer(tiny_bert(), arguments, train_dataset=Texts()))
    with pytest.raises(ValueError, match="has no train_dataset"):
        TracInWE.from_trainer(Trainer(tiny_bert(), arguments))
    with pytest.raises(TypeError, match="[Ee]xpected a transformers.Trainer that has trained, got NoneType"):
        TracInWE.from_trainer(None)
    for place, said in (
        (tmp_path / "nowhere", "nowhere' is not there: expected a directory"),
        (Path(__file__), "test_trainer.py' is a file: expected a directory"),
        (tmp_path, "no checkpoint-"),
    ):
        with pytest.raises(ValueError, match=said):
            TracInWE.from_pretrained_run(place, Texts())
    half = tmp_path / "half" / "checkpoint-3"
    half.mkdir(parents=True)
    save_file(tiny_bert().state_dict(), half / "model.safetensors")
    with pytest.raises(ValueError, match=r"is one checkpoint of a run: expected the directory of the run.*half'"):
        TracInWE.from_pretrained_run(half, Texts())
    with pytest.raises(ValueError, match="no config.json in .*half.*pass the model as model="):
        TracInWE.from_pretrained_run(tmp_path / "half", Texts())
    (half / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["NoSuchModel"]}))
    with pytest.raises(ValueError, match="NoSuchModel"):
        TracInWE.from_pretrained_run(tmp_path / "half", Texts())
    for options in ({}, {"steps": [1], "every": 2}, {"every": 0}):
        with pytest.raises(ValueError, match="either `steps`"):
            SaveCheckpoints(tmp_path, **options)


CUT = {
    "model.safetensors": lambda place: (place / "model.safetensors").write_bytes(whole_file(place)[:-100]),
    "header": lambda place: (place / "model.safetensors").write_bytes(whole_file(place)[:50]),
    "pytorch_model.bin": lambda place: torch.save(torch.zeros(999), place / "pytorch_model.bin"),
    "a shard": lambda place: (place / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    ),
    "all": lambda place: None,
}
SAID = {"a shard": "is not whole: expected the shards", "all": "is not a checkpoint: expected one of"}


def whole_file(place):
    save_file(tiny_bert().state_dict(), place / "model.safetensors")
    return (place / "model.safetensors").read_bytes()


@pytest.mark.parametrize("what", CUT)
def test_a_checkpoint_that_a_killed_run_left_half_written_is_named_before_any_work(run, tmp_path, what):
    trainer, _ = run
    shutil.copytree(trainer.args.output_dir, tmp_path / "run")
    place = tmp_path / "run" / "checkpoint-9"
    place.mkdir()
    CUT[what](place)
    if what == "pytorch_model.bin":
        file = place / what
        file.write_bytes(file.read_bytes()[:-100])
    said = SAID.get(what, "cannot be read: it is truncated")
    with pytest.raises(
        ValueError, match=f"checkpoint-9.*{said}.*stopped while it saves.*remove it, or pass checkpoints="
    ):
        TracInWE.from_pretrained_run(tmp_path / "run", Texts())
    shutil.rmtree(place)
    (tmp_path / "run" / "checkpoint-best").mkdir()  # not of Trainer's making
    assert len(TracInWE.from_pretrained_run(tmp_path / "run", Texts()).checkpoints) == 4


def test_token_losses_are_those_of_single_targets():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.tensor([[1, 2, -100, 3, 4], [5, -100, -100, -100, 6]])
    single = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(TokenLoss(shift=False)(logits, labels), single.sum(1))
    torch.testing.assert_close(
        TokenLoss(shift=False, reduction="mean")(logits, labels), single.sum(1) / torch.tensor([4, 2])
    )
    torch.testing.assert_close(TokenLoss()(logits, labels), language_model_loss(logits, labels))
    part = TokenLoss(shift=False, start=1, stop=3)(logits, labels)
    torch.testing.assert_close(part, torch.stack([single[0, 1] + single[0, 3], single[1, 4]]))
    torch.testing.assert_close(TokenLoss(shift=False, start=-1)(logits, labels), single[:, 4])
    early = TokenLoss(shift=False, stop=-3)(logits[:1], labels[:1])  # of four targets the first
    torch.testing.assert_close(early, single[:1, 0])


@pytest.mark.parametrize("shift", [True, False])
def test_a_token_loss_has_torchs_gradient_and_keeps_nothing_of_its_size_beside_the_logits(shift):
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (3, 6)).masked_fill(torch.rand(3, 6) < 0.3, -100)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        losses = TokenLoss(shift=shift)(logits, labels)
    assert {tensor.data_ptr() for tensor in kept if tensor.numel() >= logits.numel()} == {logits.data_ptr()}
    weights = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(losses @ weights, logits)
    own = logits[:, :-1] if shift else logits
    own = torch.nn.functional.cross_entropy(
        own.transpose(1, 2), labels[:, 1:] if shift else labels, ignore_index=-100, reduction="none"
    )
    (expected,) = torch.autograd.grad(own.sum(1) @ weights, logits)
    torch.testing.assert_close(losses, own.sum(1))
    torch.testing.assert_close(found, expected)


def test_losses_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="reduction 'sum' or 'mean'"):
        TokenLoss(reduction="none")
    with pytest.raises(ValueError, match=r"logits \(N, T, V\) and labels \(N, T\), got \(2, 3\) and \(2,\)"):
        TokenLoss()(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_rates_from_the_log_are_the_schedulers_where_every_step_is_logged(tmp_path):
    trainer, callback = trained(tmp_path, logging_steps=1, save_only_model=True)
    directories = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert not list((tmp_path / "run").glob("checkpoint-*/scheduler.pt"))
    for directory in directories[:-1]:
        assert abs(trainer_rate(directory, None) - callback.seen[int(directory.name.split("-")[1])]) < 1e-9
    with pytest.warns(UserWarning, match="rate logged at step 8, .* is used for the step after its step 8"):
        trainer_rate(directories[-1], None)


def test_checkpoints_of_which_only_some_tell_their_rate_are_refused(tmp_path):
    trainer, _ = trained(tmp_path, logging_steps=3, save_only_model=True)
    with pytest.raises(ValueError, match="of 4 checkpoints checkpoint-2 tell no learning rate, and the others do"):
        TracInWE.from_trainer(trainer)


def test_a_finished_run_of_a_language_model_fills_up_its_labels(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = words_tokenizer(["a b c d e f g h i j k l m n o p"])
    rows = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100, *ids[1:]]}
        for ids in ([5, 6, 7], [8, 9, 10, 11, 12], [13, 14], [15, 16, 17, 18])
    ]
    collator = transformers.DataCollatorForSeq2Seq(tokenizer)
    trainer, _ = trained(tmp_path, tiny_gpt2(), rows, data_collator=collator, processing_class=tokenizer)
    paths = sorted(str(path) for path in (tmp_path / "run").glob("checkpoint-*"))[:2]
    live = TracInWE.from_trainer(trainer, checkpoints=paths)
    finished = TracInWE.from_pretrained_run(tmp_path / "run", rows, checkpoints=paths)
    torch.testing.assert_close(finished.influence(rows[:2]), live.influence(collator(rows[:2])))


def steps_of(tracin):
    return [int(Path(path).name.removeprefix("checkpoint-")) for path in tracin.checkpoints]


def again(folder, steps, every, resume=False, **changes):
    """A run into ``folder`` / "run", without light checkpoints."""
    arguments = {"max_steps": steps, "save_steps": every, "learning_rate": 3e-3, "logging_steps": 1, **changes}
    arguments = TrainingArguments(
        str(folder / "run"), per_device_train_batch_size=3, report_to=[], disable_tqdm=True, **arguments
    )
    torch.manual_seed(0)
    trainer = Trainer(tiny_bert(), arguments, train_dataset=Texts())
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


@pytest.mark.parametrize("logging_steps", [1, 500])
def test_checkpoints_of_an_earlier_run_in_the_same_directory_do_not_count(tmp_path, logging_steps):
    again(tmp_path, 12, 3, logging_steps=logging_steps)
    trainer = again(tmp_path, 5, 2, logging_steps=logging_steps)
    with pytest.warns(
        UserWarning, match=r"checkpoint-3, checkpoint-6, .*another run.*: checkpoint-2, checkpoint-4, ch"
    ):
        tracin = TracInWE.from_trainer(trainer)
    assert steps_of(tracin) == [2, 4, 5]
    untrained = Trainer(tiny_bert(), trainer.args, train_dataset=Texts())
    with pytest.raises(ValueError, match="has not trained, so no checkpoint-.*by from_pretrained_run"):
        TracInWE.from_trainer(untrained)
    said = r"of 2 runs .*checkpoint-3, .*\(of 12 steps\); checkpoint-2, checkpoint-4, checkpoint-5 \(of 5 steps, the newest\)"
    with pytest.raises(ValueError, match=f"from_pretrained_run: .*{said}.*Pass checkpoints="):
        TracInWE.from_pretrained_run(tmp_path / "run", Texts())
    with pytest.raises(ValueError, match=said):
        TracInWE(tiny_bert(), Texts(), tmp_path / "run")
    finished = TracInWE.from_pretrained_run(tmp_path / "run", Texts(), checkpoints=tracin.checkpoints)
    assert steps_of(finished) == [2, 4, 5]
    for step in (2, 4, 5):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(ValueError, match="are of another run than the Trainer's, which has saved none"):
        TracInWE.from_trainer(trainer)


def test_a_run_that_is_resumed_is_one_run(tmp_path):
    again(tmp_path, 4, 2)
    live = again(tmp_path, 8, 2, resume=True)
    assert steps_of(TracInWE.from_trainer(live)) == [2, 4, 6, 8]
    finished = TracInWE.from_pretrained_run(tmp_path / "run", Texts())
    assert steps_of(finished) == [2, 4, 6, 8]


def test_a_run_that_was_begun_anew_and_stopped_is_told_without_a_log(tmp_path):
    """Of the same plan, with another seed; and a copy, whose files are of any time, is not taken for several runs."""
    again(tmp_path, 8, 2, logging_steps=500)
    for step in (2, 4, 6, 8):  # the other way round
        os.utime(tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json", (1000 - step, 1000 - step))
    assert steps_of(TracInWE.from_pretrained_run(tmp_path / "run", Texts())) == [2, 4, 6, 8]
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "run", old)
    shutil.rmtree(tmp_path / "run")
    again(tmp_path, 8, 2, logging_steps=500, seed=3)
    for step in (2, 4):
        shutil.rmtree(old / f"checkpoint-{step}")
        shutil.copytree(tmp_path / "run" / f"checkpoint-{step}", old / f"checkpoint-{step}")
    with pytest.raises(ValueError, match="of 2 runs .*checkpoint-6, checkpoint-8.*; checkpoint-2, checkpoint-4"):
        TracInWE.from_pretrained_run(old, Texts())


def test_light_checkpoints_of_an_earlier_run_are_refused_unless_it_goes_on(tmp_path):
    trainer, callback = trained(tmp_path)
    with pytest.raises(ValueError, match=r"light' holds step-3.pt, step-6.pt of an earlier run.*another directory"):
        trainer.train()
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert sorted(path.name for path in callback.directory.iterdir()) == ["step-3.pt", "step-6.pt"]
    (callback.directory / "step-7.pt").touch()  # not what this run will replace
    with pytest.raises(ValueError, match=r"light' holds step-7.pt of"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))


def test_checkpoints_that_are_named_are_taken_whatever_else_lies_there(run, tmp_path):
    trainer, callback = run
    shutil.copytree(trainer.args.output_dir, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-9").mkdir()  # half made
    paths = [tmp_path / "run" / f"checkpoint-{step}" for step in (2, 4)]
    assert steps_of(TracInWE.from_pretrained_run(tmp_path / "run", Texts(), checkpoints=paths)) == [2, 4]
