"""The small model: tokenizers that cover the texts, checkpoints that carry true rates, nothing left behind."""

import contextlib
import os
import subprocess
import sys

import pytest
import torch

from captum_tracinwe import load_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.data import InputError

TEXTS = ["The cat sat here.", "A dog ran there!", "the cat ran", "a dog sat down"] * 6
LABELS = [0, 1, 0, 1] * 6
NAMES = ("cat", "dog")


@pytest.fixture
def parts():
    tokenizer = training.words_tokenizer(TEXTS)
    torch.manual_seed(0)
    model = training.small_bert(len(tokenizer), NAMES, width=32, positions=16)
    return model, tokenizer, training.EncodedTexts(TEXTS, LABELS, tokenizer, 16)


@pytest.mark.parametrize("make", [training.words_tokenizer, training.wordpiece_tokenizer])
def test_tokenizers_know_their_texts_and_put_ends_around_them(make):
    tokenizer = make(TEXTS)
    ids = tokenizer("The cat sat, Здравствуй")["input_ids"]
    names = tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.pad_token_id == 0
    assert names[:3] == ["[CLS]", "the", "cat"]
    assert names[-2:] == ["[UNK]", "[SEP]"]


def test_the_same_texts_give_the_same_pieces_in_every_process():
    """Here and in one whose strings hash otherwise."""
    code = (
        "from captum_tracinwe.training import wordpiece_tokenizer as learn\n"
        "texts = [f'{a}{b}{c} {c}{a}' for a in 'abcdefg' for b in 'hijkl' for c in 'mnopq']\n"
        "pieces = sorted(learn(texts, 100).get_vocab().items())"
    )
    here = {}
    exec(code, here)
    other = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    command = [sys.executable, "-c", code + "\nprint(pieces)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=other).stdout
    assert there == f"{here['pieces']}\n"
    assert "##a" in dict(here["pieces"])


def test_batches_are_padded_to_their_longest_text_and_cut_at_the_maximum(parts):
    _, tokenizer, encoded = parts
    batch = encoded.collate([encoded[0], encoded[2]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"][1, -1] == tokenizer.pad_token_id
    assert batch["attention_mask"].sum(1).tolist() == [len(encoded[0]["input_ids"]), len(encoded[2]["input_ids"])]
    assert batch["labels"].tolist() == [0, 0]
    assert len(training.EncodedTexts(["the cat " * 50], [0], tokenizer, 16)[0]["input_ids"]) == 16


def test_training_learns_and_its_checkpoints_are_even_carry_their_rate_and_end_with_the_model(parts, tmp_path):
    model, _, encoded = parts
    run = training.train(model, encoded, tmp_path / "new", epochs=10, batch_size=8, learning_rate=2e-3, checkpoints=3)
    assert run.steps == (10, 20, 30)
    assert run.losses[-1] < run.losses[0]
    assert not model.training
    for path, step, rate in zip(run.checkpoints, run.steps, run.learning_rates, strict=True):
        # step s is made with the rate after s − 1 decays: from 1 at the first to 0.1 after the last
        assert rate == pytest.approx(2e-3 * (1 - 0.9 * (step - 1) / 30))
        other = training.small_bert(model.config.vocab_size, NAMES, width=32, positions=16)
        assert load_checkpoint(other, path) == rate
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    right = training.logits_of(model, encoded).argmax(1) == torch.tensor(LABELS)
    assert right.all()


def test_the_same_seed_trains_the_same_model_and_leaves_torchs_generator(parts, tmp_path):
    model, _, encoded = parts
    start = {key: value.clone() for key, value in model.state_dict().items()}
    ends = []
    for _ in range(2):
        model.load_state_dict(start)
        state = torch.get_rng_state()
        training.train(model, encoded, tmp_path, epochs=1, batch_size=8, learning_rate=1e-3, seed=5)
        assert torch.equal(torch.get_rng_state(), state)
        ends.append({key: value.clone() for key, value in model.state_dict().items()})
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_fewer_steps_than_checkpoints_gives_one_checkpoint_per_step(parts, tmp_path):
    model, _, encoded = parts
    run = training.train(model, encoded, tmp_path, epochs=1, batch_size=12, learning_rate=1e-3, checkpoints=8)
    assert run.steps == (1, 2)


def test_a_local_directory_loads_with_a_head_for_the_classes_at_hand(parts, tmp_path):
    model, tokenizer, encoded = parts
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with training.quiet_transformers():
        loaded, same = training.load_model(tmp_path, ("x", "y", "z"))
    assert loaded.config.num_labels == 3
    assert same(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
    embedding = loaded.get_input_embeddings().weight
    assert torch.equal(embedding, model.get_input_embeddings().weight)
    assert training.logits_of(loaded, encoded).shape == (len(TEXTS), 3)


def test_a_directory_that_is_no_model_is_refused_in_one_line(tmp_path):
    for path, expected in ((tmp_path / "none", "no such directory"), (tmp_path, r"no config\.json in it")):
        with pytest.raises(InputError, match=expected):
            training.load_model(path, NAMES)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="not a text classification model") as caught:
        training.load_model(tmp_path, NAMES)
    assert "\n" not in str(caught.value)


def test_transformers_settings_are_put_back():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with contextlib.suppress(RuntimeError), training.quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
        raise RuntimeError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
