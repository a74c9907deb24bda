"""Kind I: an adapter's weights are taken by a model with the settings that they were trained with, and by no other."""

import json
import warnings

import pytest
import torch
from loops import alone, assert_close, looped, ragged

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.testing import tiny_bert

peft = pytest.importorskip("peft")

TRAIN = ragged(6)


def base(name="org/base-a"):
    torch.manual_seed(0)
    model = tiny_bert(classes=3)
    model.name_or_path = name
    return model.eval()


def lora(**settings):
    given = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query", "value"], "init_lora_weights": False}
    return peft.LoraConfig(**{**given, **settings})


def kind(name, **settings):
    given = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"], "init_weights": False}
    return getattr(peft, f"{name}Config")(**{**given, **settings})


def saved(config, folder, name="org/base-a"):
    """A PEFT model whose adapter lies in a folder, with a rate."""
    model = peft.get_peft_model(base(name), config).eval()
    model.save_pretrained(folder / "checkpoint-1")
    torch.save({"_last_lr": [0.5]}, folder / "checkpoint-1" / "scheduler.pt")
    return model


# What it was trained with, what the model has, and the words.
OTHER = {
    "alpha": (lambda: lora(lora_alpha=32), lambda: lora(lora_alpha=2), "lora_alpha 32, the model's 2"),
    "rank-stabilised": (lambda: lora(use_rslora=True), lora, "use_rslora True, the model's False"),
    "not rank-stabilised": (lora, lambda: lora(use_rslora=True), "use_rslora False, the model's True"),
    "rank": (lambda: lora(r=4), lora, "r 4, the model's 2"),
    "alpha of one layer": (
        lambda: lora(alpha_pattern={"query": 64}),
        lora,
        r"alpha_pattern \{'query': 64\}, the model's None",
    ),
    "several": (lambda: lora(r=4, lora_alpha=16), lora, "r 4, the model's 2; lora_alpha 16, the model's 8"),
    "LoHa": (lambda: kind("LoHa", r=2, alpha=16), lambda: kind("LoHa", r=2, alpha=4), "alpha 16, the model's 4"),
    "LoKr": (lambda: kind("LoKr", r=2, alpha=16), lambda: kind("LoKr", r=2, alpha=4), "alpha 16, the model's 4"),
    "another kind": (
        lambda: kind("LoHa", r=2, alpha=8),
        lora,
        "trained with peft_type 'LOHA', the model's 'LORA'",
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_an_adapter_of_other_settings_is_refused_with_both_and_the_model_is_as_it_was(what, tmp_path):
    trained, has, words = OTHER[what]
    saved(trained(), tmp_path)
    model = peft.get_peft_model(base(), has())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=rf"{words}: expected a model with the same settings.*Make it with peft.PeftMo"
    ):
        load_checkpoint(model, tmp_path / "checkpoint-1")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("what", ["alpha", "rank-stabilised", "alpha of one layer", "LoKr"])
def test_the_way_out_has_the_scores_of_a_loop_over_the_model_that_was_trained(what, tmp_path):
    trained = saved(OTHER[what][0](), tmp_path)
    with pytest.raises(ValueError, match="peft.PeftModel.from_pretrained"):
        TracInWE(peft.get_peft_model(base(), OTHER[what][1]()), TRAIN, tmp_path).influence(TRAIN[:2])
    model = peft.PeftModel.from_pretrained(base(), tmp_path / "checkpoint-1")
    rows = [alone(row) for row in TRAIN]
    table = trained.get_base_model().get_input_embeddings()
    torch.save({"model": trained.state_dict(), "lr": 0.5}, tmp_path / "whole.pt")
    expected = looped(trained, table, [tmp_path / "whole.pt"], lambda m, one: m(**one).loss, rows[:2], rows)
    assert_close(TracInWE(model, TRAIN, tmp_path / "checkpoint-1", batch_size=3).influence(TRAIN[:2]), expected)


def test_transformers_own_adapters_are_held_against_their_settings_too(tmp_path):
    saved(lora(lora_alpha=32), tmp_path)
    model = base()
    model.add_adapter(lora(lora_alpha=2))
    with pytest.raises(ValueError, match="lora_alpha 32, the model's 2"):
        load_checkpoint(model, tmp_path / "checkpoint-1")


def changed(folder, **settings):
    file = folder / "checkpoint-1" / "adapter_config.json"
    content = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in content.items() if value != "left out"}))


def test_what_an_older_peft_did_not_write_is_as_it_was_then(tmp_path):
    saved(lora(), tmp_path)
    changed(tmp_path, use_rslora="left out", use_dora="left out", alpha_pattern=None, base_model_name_or_path=None)
    assert load_checkpoint(peft.get_peft_model(base(), lora()), tmp_path / "checkpoint-1") == 0.5
    with pytest.raises(ValueError, match="use_rslora False, the model's True"):
        load_checkpoint(peft.get_peft_model(base(), lora(use_rslora=True)), tmp_path / "checkpoint-1")


def test_settings_that_cannot_be_read_are_said_to_be_that(tmp_path):
    saved(lora(), tmp_path)
    (tmp_path / "checkpoint-1" / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(ValueError, match=r"adapter_config.json' cannot be read .*Restore it, or remove it if"):
        load_checkpoint(peft.get_peft_model(base(), lora()), tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    ("trained", "told"),
    [("org/base-b", True), ("/runs/7/base-a", False), ("C:\\models\\base-a\\", False), ("", False)],
)
def test_an_adapter_of_another_base_model_is_told_once(trained, told, tmp_path):
    saved(lora(), tmp_path)
    changed(tmp_path, base_model_name_or_path=trained)
    model = peft.get_peft_model(base(), lora())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [load_checkpoint(model, tmp_path / "checkpoint-1") for _ in range(2)] == [0.5] * 2
    expected = "was trained on the base model 'org/base-b', and the model's is 'org/base-a'"
    assert [expected in str(one.message) for one in said] == [True] * told
