"""Model types of transformers: scores equal a loop over single examples through the embedding's output, on any batch size."""

import warnings

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import VOCABULARY, scatter_checkpoints, scores_by_loop, toy_texts
from captum_tracinwe.gradients.token_losses import TokenLoss

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 16, "max_position_embeddings": 40, "num_labels": 3}
CAUSAL = {**SMALL, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
}
SEQ2SEQ |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 40}
SEQ2SEQ |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
DISTIL = {"vocab_size": VOCABULARY, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "num_labels": 3}

# class, config class, its sizes, the kind of labels
MODELS = {
    "bert": ("BertForSequenceClassification", "BertConfig", SMALL, "class"),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", {**SMALL, "pad_token_id": 0}, "class"),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL, "class"),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**SMALL, "embedding_size": 4}, "class"),
    "deberta-v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", SMALL, "class"),
    "bert, regression": ("BertForSequenceClassification", "BertConfig", {**SMALL, "num_labels": 1}, "number"),
    "bert, multi-label": ("BertForSequenceClassification", "BertConfig", SMALL, "many"),
    "bert, tokens": ("BertForTokenClassification", "BertConfig", SMALL, "tokens"),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 8, "n_layer": 1, "n_head": 2},
        "next",
    ),
    "llama, untied": ("LlamaForCausalLM", "LlamaConfig", {**CAUSAL, "tie_word_embeddings": False}, "next"),
    "qwen2, tied": ("Qwen2ForCausalLM", "Qwen2Config", {**CAUSAL, "tie_word_embeddings": True}, "next"),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ, "target"),
}
LOSSES = {
    "class": nn.CrossEntropyLoss(reduction="none"),
    "number": lambda logits, labels: (logits[:, 0] - labels).square(),
    "many": nn.BCEWithLogitsLoss(reduction="none"),
    "tokens": TokenLoss(shift=False),
    "next": TokenLoss(),
    "target": TokenLoss(shift=False),
}


def made(name, **changes):
    cls, config, sizes, kind = MODELS[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, cls)(getattr(transformers, config)(**{**sizes, **changes}))
    return model.eval(), kind


def batch_of(count, seed, kind, side="right"):
    ids, mask, labels = toy_texts(count, seed=seed)
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    generator = torch.Generator().manual_seed(seed)
    if kind == "number":
        labels = torch.randn(count, generator=generator)
    elif kind == "many":
        labels = torch.randint(0, 2, (count, 3), generator=generator).float()
    elif kind == "tokens":
        labels = (ids % 3).masked_fill(mask == 0, -100)
    elif kind in ("next", "target"):
        labels = ids.masked_fill(mask == 0, -100)
        labels[0, :2] = -100  # a prompt
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def rows(batch):
    return [{key: value[i] for key, value in batch.items()} for i in range(len(batch["labels"]))]


def by_loop(model, checkpoints, test, train, loss):
    tables = list({id(m): m for m in model.modules() if getattr(m, "weight", None) is model.get_input_embeddings().weight
                   and isinstance(m, nn.Embedding)}.values())  # fmt: skip

    def losses(batch):
        def run(i):
            kept = batch["attention_mask"][i] != 0  # padding, left or right, is none of the text
            one = {
                key: value[i : i + 1, kept] if value.shape[:2] == batch["attention_mask"].shape else value[i : i + 1]
                for key, value in batch.items()
            }
            return loss(model(**one).logits, one["labels"]).sum()

        return [lambda i=i: run(i) for i in range(len(batch["labels"]))]

    padding = model.get_input_embeddings().padding_idx
    return scores_by_loop(model, tables, checkpoints, losses(test), losses(train), padding)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_a_loop_over_single_examples(name, side, tmp_path):
    model, kind = made(name)
    model.double()
    checkpoints = scatter_checkpoints(model, tmp_path, rates=(0.3, 1.7))
    test, train = batch_of(3, 2, kind, side), batch_of(5, 1, kind, side)
    if kind in ("number", "many"):
        test["labels"], train["labels"] = test["labels"].double(), train["labels"].double()
    expected = by_loop(model, checkpoints, test, train, LOSSES[kind])
    for size in (1, 2, 5):
        tracin = TracInWE(model, DataLoader(rows(train), size), checkpoints, loss_fn=LOSSES[kind])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = tracin.influence(test)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
        assert all("differ from those of each text alone" in str(one.message) for one in said)
        # Rotary positions count from anywhere, and here the padding token has no row that a wrong target could reach.
        assert bool(said) == (side == "left" and name not in ("llama, untied", "qwen2, tied"))


@pytest.mark.parametrize("name", ["bert", "bert, regression", "bert, multi-label"])
def test_a_models_own_loss_is_that_of_each_example(name, tmp_path):
    model, kind = made(name)
    checkpoints = scatter_checkpoints(model, tmp_path)
    test, train = batch_of(3, 2, kind), batch_of(5, 1, kind)
    own = TracInWE(model, DataLoader(rows(train), 5), checkpoints).influence(test)
    alone = TracInWE(model, DataLoader(rows(train), 1), checkpoints).influence(test)
    torch.testing.assert_close(own, alone, rtol=1e-4, atol=1e-5 * float(own.abs().max()))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama, untied"])
def test_gradient_checkpointing_and_compiling_change_nothing(name, tmp_path):
    model, kind = made(name)
    checkpoints = scatter_checkpoints(model, tmp_path)
    test, train = batch_of(3, 2, kind), DataLoader(rows(batch_of(5, 1, kind)), 2)
    expected = TracInWE(model, train, checkpoints, loss_fn=LOSSES[kind]).influence(test)
    compiled = torch.compile(model)
    torch.testing.assert_close(TracInWE(compiled, train, checkpoints, loss_fn=LOSSES[kind]).influence(test), expected)
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(TracInWE(model, train, checkpoints, loss_fn=LOSSES[kind]).influence(test), expected)


@pytest.mark.parametrize("name", ["bert", "llama, untied"])
def test_half_precision_weights_give_scores_near_those_of_float32(name, tmp_path):
    model, kind = made(name)
    checkpoints = scatter_checkpoints(model, tmp_path)
    test, train = batch_of(3, 2, kind), DataLoader(rows(batch_of(5, 1, kind)), 2)
    expected = TracInWE(model, train, checkpoints, loss_fn=LOSSES[kind]).influence(test)
    found = TracInWE(model.bfloat16(), train, checkpoints, loss_fn=LOSSES[kind]).influence(test)
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())
