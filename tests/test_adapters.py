"""PEFT adapters: checkpoints that hold the adapter alone, a frozen embedding whose gradient still tells."""

import copy
import json
import shutil
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("accelerate")
pytest.importorskip("peft")
import peft
from transformers import BertForTokenClassification, Trainer, TrainingArguments

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import scores_by_loop, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.checkpoints.trainer import SaveCheckpoints
from captum_tracinwe.gradients.live import Asked
from captum_tracinwe.gradients.token_losses import TokenLoss

LOSS = nn.CrossEntropyLoss(reduction="none")
EMBEDDING = "bert.embeddings.word_embeddings"


def texts(count=7, seed=1, language=False):
    ids, mask, labels = toy_texts(count, seed=seed)
    labels = ids.masked_fill(mask == 0, -100) if language else labels
    return [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]


def collated(rows):
    return torch.utils.data.default_collate(rows)


def with_lora(model=None, task="SEQ_CLS", **options):
    options = {"r": 2, "target_modules": ["query", "value"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model or tiny_bert(), peft.LoraConfig(task_type=task, **options))


def shaken(model, folder, rates=(0.3, 1.7)):
    """Checkpoints of a model whose trained weights have noise in each."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = [str(folder / f"step-{i}.pt") for i in range(len(rates))]
    for path, rate in zip(paths, rates, strict=True):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        save_checkpoint(path, model, rate)
        model.load_state_dict(before)
    return paths


def by_loop(model, paths, test, train, loss=LOSS):
    model.eval()
    table = model.get_base_model().get_input_embeddings()
    table = getattr(table, "base_layer", table)

    def losses(rows):
        return [lambda row=row: alone(row) for row in rows]

    def alone(row):
        one = collated([row])
        return loss(model(**one).logits, one["labels"]).sum()

    return scores_by_loop(model, [table], paths, losses(test), losses(train), table.padding_idx)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    base = tiny_bert()
    base.save_pretrained(folder / "base")
    base = type(base).from_pretrained(folder / "base")
    arguments = TrainingArguments(
        str(folder / "run"),
        per_device_train_batch_size=3,
        save_strategy="steps",
        save_steps=2,
        max_steps=5,
        learning_rate=0.03,
        report_to=[],
        disable_tqdm=True,
    )
    callback = SaveCheckpoints(folder / "light", every=2)
    trainer = Trainer(with_lora(base), arguments, train_dataset=texts(), callbacks=[callback])
    trainer.train()
    shutil.rmtree(folder / "run" / "checkpoint-5")  # the schedule's end, where the rate is 0
    return trainer, folder


@pytest.mark.parametrize("options", [{}, {"target_modules": ["query", "word_embeddings"]}], ids=["frozen", "adapted"])
def test_scores_of_a_peft_model_are_those_of_a_loop(options, tmp_path):
    model = with_lora(**options).double()
    paths = shaken(model, tmp_path)
    expected = by_loop(model, paths, texts(3, 2), texts())
    for size in (1, 3, 7):
        tracin = TracInWE(model, texts(), paths, loss_fn=LOSS, batch_size=size)
        assert tracin.embedding.name.startswith(f"base_model.model.{EMBEDDING}")
        torch.testing.assert_close(tracin.influence(collated(texts(3, 2))), expected, rtol=1e-8, atol=1e-12)


def test_a_causal_lm_with_lora(tmp_path):
    model = with_lora(tiny_gpt2(), "CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True).double()
    paths = shaken(model, tmp_path)
    test, train = texts(3, 2, language=True), texts(language=True)
    tracin = TracInWE(model, train, paths, loss_fn=TokenLoss(), batch_size=3)
    expected = by_loop(model, paths, test, train, TokenLoss())
    torch.testing.assert_close(tracin.influence(collated(test)), expected, rtol=1e-8, atol=1e-12)


def test_a_trained_copy_of_the_table_is_the_one_that_counts(tmp_path):
    model = with_lora(modules_to_save=["word_embeddings", "classifier"])
    paths = shaken(model, tmp_path)
    tracin = TracInWE(model, texts(), paths, loss_fn=LOSS)
    assert tracin.embedding.module.weight.requires_grad
    saved = torch.load(paths[0], weights_only=True)["model_state_dict"]
    assert len(saved) < len(model.state_dict())  # the frozen table is not in it
    assert any("word_embeddings" in name for name in saved)
    assert tracin.influence(collated(texts(3, 2))).abs().sum() > 0


def test_from_trainer_reads_adapters_and_the_schedulers_rates(run):
    trainer, folder = run
    tracin = TracInWE.from_trainer(trainer)
    rates = [load_checkpoint(copy.deepcopy(trainer.model), path) for path in tracin.checkpoints]
    assert rates == pytest.approx([0.03 * 3 / 5, 0.03 * 1 / 5], abs=1e-12)
    expected = by_loop(trainer.model, tracin.checkpoints, texts(3, 2), texts())
    found = tracin.influence(collated(texts(3, 2)))
    assert expected.abs().max() > 0
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_light_checkpoints_hold_the_adapter_alone(run):
    trainer, folder = run
    path = folder / "light" / "step-2.pt"
    state = torch.load(path, weights_only=True)["model_state_dict"]
    assert sorted(state) == sorted(peft.get_peft_model_state_dict(trainer.model))
    light = TracInWE.from_trainer(trainer, checkpoints=folder / "light")
    test = collated(texts(3, 2))
    torch.testing.assert_close(light.influence(test), TracInWE.from_trainer(trainer).influence(test))
    save_checkpoint(folder / "one.safetensors", trainer.model, 0.5)
    assert load_checkpoint(trainer.model, folder / "one.safetensors") == 0.5


def test_a_finished_run_finds_its_base_model_or_takes_it(run):
    trainer, folder = run
    test, output = collated(texts(3, 2)), trainer.args.output_dir
    expected = TracInWE.from_trainer(trainer).influence(test)
    base = type(trainer.model.get_base_model()).from_pretrained(folder / "base")
    for given in ({}, {"model": base}, {"model": trainer.model}):
        found = TracInWE.from_pretrained_run(output, texts(), **given)
        torch.testing.assert_close(found.influence(test), expected)


def test_the_model_is_given_back_as_it_was(run):
    trainer, _ = run
    tracin = TracInWE.from_trainer(trainer)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in trainer.model.parameters()]
    tracin.self_influence()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert wanted == [parameter.requires_grad for parameter in trainer.model.parameters()]


def test_an_adapter_of_another_name_and_one_added_by_transformers(tmp_path):
    named = with_lora()
    named.add_adapter("second", peft.LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query"]))
    named.set_adapter("second")
    named.save_pretrained(tmp_path / "checkpoint-1", selected_adapters=["second"])
    cases = [(named, "checkpoint-1", "second")]
    native = tiny_bert()
    try:
        native.add_adapter(peft.LoraConfig(r=2, target_modules=["query"]))
    except ValueError as error:  # transformers 5.24 asks for a PEFT that is not out yet
        if "version of PEFT" not in str(error):
            raise
    else:
        native.save_pretrained(tmp_path / "native")
        cases.append((native, "native", "lora_B"))
    for model, place, part in cases:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                if part in name:
                    parameter.add_(1.0)
        with pytest.warns(UserWarning, match="carries no learning rate"):
            load_checkpoint(changed, tmp_path / place)
        for key, value in model.state_dict().items():
            assert torch.equal(changed.state_dict()[key], value), key


def test_what_does_not_fit_is_refused_in_words(run, tmp_path):
    trainer, folder = run
    adapter = f"{trainer.args.output_dir}/checkpoint-2"
    with pytest.raises(ValueError, match="holds an adapter only .*peft.PeftModel.from_pretrained"):
        load_checkpoint(tiny_bert(), adapter)
    with pytest.raises(ValueError, match="does not fit the model PeftModel.*unexpected"):
        load_checkpoint(with_lora(target_modules=["query"]), adapter)
    prompts = peft.get_peft_model(tiny_gpt2(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompts.save_pretrained(tmp_path / "prompts")
    with pytest.raises(ValueError, match="kind PROMPT_TUNING.*peft.set_peft_model_state_dict"):
        load_checkpoint(prompts, tmp_path / "prompts")
    shutil.copytree(adapter, tmp_path / "run" / "checkpoint-2")
    (tmp_path / "run" / "checkpoint-2" / "adapter_config.json").write_text('{"base_model_name_or_path": "no/where"}')
    with pytest.raises(ValueError, match="adapter of the base model 'no/where', which is no directory here. Pass"):
        TracInWE.from_pretrained_run(tmp_path / "run", texts())
    (tmp_path / "run" / "checkpoint-2" / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="without a whole adapter_config.json"):
        TracInWE.from_pretrained_run(tmp_path / "run", texts())


def test_adapters_on_weights_that_are_kept_in_int8(tmp_path):
    """Weights of 8 bits, turned to floats where they are used, as in QLoRA: what trains is the adapter."""

    class Int8(nn.Module):
        def __init__(self, linear):
            super().__init__()
            scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
            self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
            self.register_buffer("scale", scale)
            self.bias = linear.bias

        def forward(self, x):
            return nn.functional.linear(x, self.weight * self.scale, self.bias)

    base = tiny_bert()
    for layer in base.bert.encoder.layer:
        layer.output.dense = Int8(layer.output.dense)
    model = with_lora(base)
    paths = shaken(model, tmp_path)
    expected = by_loop(model, paths, texts(3, 2), texts())
    tracin = TracInWE(model, DataLoader(texts(), 3), paths, loss_fn=LOSS)
    found = tracin.influence(collated(texts(3, 2)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert base.bert.encoder.layer[0].output.dense.weight.dtype == torch.int8


@pytest.mark.parametrize("change", [{"r": "many"}, {"peft_type": "NOBODY"}, {"target_modules": ["nowhere"]}, {"r": 3}])
def test_a_model_that_an_adapter_cannot_be_put_on_is_as_it_was(run, tmp_path, change):
    _, folder = run
    shutil.copytree(folder / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    config = tmp_path / "checkpoint-2" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    model = tiny_bert()
    parts = [(name, id(part), set(vars(part))) for name, part in model.named_modules()]
    weights = [(name, id(weight), weight.requires_grad) for name, weight in model.named_parameters()]
    with pytest.raises(
        ValueError, match=r"adapter in '.*checkpoint-2' cannot be put on the model .*[Ee]xpected an adapter_con"
    ):
        TracInWE.from_pretrained_run(tmp_path, texts(), model=model)
    assert [(name, id(part), set(vars(part))) for name, part in model.named_modules()] == parts
    assert [(name, id(weight), weight.requires_grad) for name, weight in model.named_parameters()] == weights


def with_prompts(base, task, kind):
    kinds = {
        "prompt tuning": lambda: peft.PromptTuningConfig(task_type=task, num_virtual_tokens=2),
        "p-tuning": lambda: peft.PromptEncoderConfig(task_type=task, num_virtual_tokens=3, encoder_hidden_size=8),
        "prefix tuning": lambda: peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3),
    }
    torch.manual_seed(0)
    return peft.get_peft_model(base, kinds[kind]())


def own_losses(model, paths, test, train, table_of):
    """(N, M) of PEFT's own loss of each example, times its targets."""
    total = 0
    for path in paths:
        rate = load_checkpoint(model, path)
        table, sides = table_of(model.eval()), []
        for rows in (test, train):
            found = []
            for row in rows:
                leaf = table.weight.detach().clone().requires_grad_()
                before, table.weight = table.weight, nn.Parameter(leaf)
                output = model(**{key: value[None] for key, value in row.items()}, use_cache=False)
                shift = "CausalLM" in type(model).__name__
                virtual = output.logits.shape[1] > len(row["labels"])
                targets = int((row["labels"][1 if shift and not virtual else 0 :] != -100).sum())
                found.append(torch.autograd.grad(output.loss * targets, table.weight)[0].flatten().double())
                table.weight = before
            sides.append(torch.stack(found))
        total = total + rate * sides[0] @ sides[1].T
    return total


@pytest.mark.parametrize("kind", ["prompt tuning", "p-tuning", "prefix tuning"])
def test_token_losses_of_tuned_prompts_are_pefts_own(kind, tmp_path):
    model = with_prompts(tiny_gpt2(), "CAUSAL_LM", kind)
    paths, train, test = shaken(model, tmp_path), texts(language=True), texts(3, 2, language=True)
    table_of = lambda m: m.get_base_model().transformer.wte  # noqa: E731
    expected = own_losses(copy.deepcopy(model), paths, test, train, table_of)
    for batch_size in (1, 3):
        tracin = TracInWE(model, train, paths, loss_fn=TokenLoss(), batch_size=batch_size, collate_fn=collated)
        found = tracin.influence(test).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_words_to_predict_after_tuned_prompts_have_rows_of_their_own(tmp_path):
    """Also in the pass that sees tokens alone: the last virtual token predicts the first word."""
    model = with_prompts(tiny_gpt2(), "CAUSAL_LM", "prompt tuning")
    paths, rows = shaken(model, tmp_path), texts(3, 2, language=True)
    tracin = TracInWE(model, rows, paths[:1], loss_fn=TokenLoss(), table="output", batch_size=3, collate_fn=collated)
    found = tracin.row_gradients()
    for place, row in enumerate(rows):
        assert found.select([place]).ids.tolist() == row["labels"][row["labels"] != -100].unique().tolist()
    (tokens,) = tracin.live.token_blocks(tracin.batches_of(collated(rows)), Asked(TokenLoss()))
    assert torch.equal(tokens.ids, found.ids)


def test_labels_of_tokens_after_tuned_prompts_stand_where_their_tokens_do(tmp_path):
    base = BertForTokenClassification(tiny_bert().config)
    model = with_prompts(base, "TOKEN_CLS", "prompt tuning")
    rows = [{**row, "labels": (row["input_ids"] % 3).masked_fill(row["attention_mask"] == 0, -100)} for row in texts()]
    paths, loss = shaken(model, tmp_path), TokenLoss(shift=False)
    found = TracInWE(model, rows, paths, loss_fn=loss, batch_size=3, collate_fn=collated).influence(rows[:3])
    alone = copy.deepcopy(model)
    total = 0
    for path in paths:
        rate = load_checkpoint(alone, path)
        table = alone.eval().get_base_model().bert.embeddings.word_embeddings.weight.requires_grad_()
        grads = []
        for row in rows:
            logits = alone(row["input_ids"][None], row["attention_mask"][None]).logits[0, -len(row["labels"]) :]
            one = nn.functional.cross_entropy(logits, row["labels"], reduction="sum")
            grads.append(torch.autograd.grad(one, table)[0].index_fill(0, torch.tensor([0]), 0).flatten().double())
        total = total + rate * torch.stack(grads[:3]) @ torch.stack(grads).T
    torch.testing.assert_close(found.double(), total, rtol=1e-4, atol=1e-5 * float(total.abs().max()))


def test_a_loss_of_ones_own_that_leaves_virtual_tokens_out_gets_labels_as_they_are(tmp_path):
    model = with_prompts(tiny_gpt2(), "CAUSAL_LM", "prompt tuning")
    paths, rows = shaken(model, tmp_path), texts(3, 2, language=True)

    def own(logits, labels):
        before = torch.full_like(labels[:, :2], -100)
        return TokenLoss()(logits, torch.cat([before, labels], 1))

    options = {"batch_size": 3, "collate_fn": collated}
    found = TracInWE(model, rows, paths, loss_fn=own, **options).influence(rows)
    torch.testing.assert_close(found, TracInWE(model, rows, paths, loss_fn=TokenLoss(), **options).influence(rows))
    with pytest.raises(ValueError, match=r"Where the model puts tokens of its own before a text.*labels.shape\[1\]:"):
        TokenLoss()(torch.zeros(1, 5, 4), torch.zeros(1, 3, dtype=torch.long))
