"""Kind Q: a language model padded on the left. Padding neither moves the words nor predicts the first of them."""

import warnings

import pytest
import torch
import transformers
from captum_tracinwe.collate import Collate
from loops import alone, assert_close, looped, ragged
from test_models import CAUSAL

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import language_model_loss, scatter_checkpoints, tiny_gpt2
from captum_tracinwe.gradients.token_losses import TokenLoss


def left_filled(examples):
    width = max(len(one["input_ids"]) for one in examples)
    ids = [[1] * (width - len(one["input_ids"])) + one["input_ids"] for one in examples]
    mask = [[0] * (width - len(one["input_ids"])) + [1] * len(one["input_ids"]) for one in examples]
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    labels = (
        torch.tensor([one["labels"] for one in examples])
        if isinstance(examples[0]["labels"], int)
        else (ids.masked_fill(mask == 0, -100))
    )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gpt2():
    model = tiny_gpt2()
    return model, model.transformer.wte


def opt():
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    model = transformers.OPTForCausalLM(
        transformers.OPTConfig(**sizes, max_position_embeddings=40, word_embed_proj_dim=8, pad_token_id=None)
    )
    return model, model.get_input_embeddings()


def llama():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**CAUSAL, "pad_token_id": None}))
    return model, model.model.embed_tokens


def bloom():
    sizes = {"vocab_size": 30, "hidden_size": 8, "n_layer": 1, "n_head": 2}
    model = transformers.BloomForCausalLM(transformers.BloomConfig(**sizes, pad_token_id=None))
    return model, model.get_input_embeddings()


def stored(examples):
    """Examples that were padded before they were stored, as tokenizers do with padding='max_length'."""
    batch = left_filled([*examples, {"input_ids": [1] * 12, "labels": [1] * 12}])
    return [{key: value[i] for key, value in batch.items()} for i in range(len(examples))]


@pytest.mark.parametrize("how", ["collated", "stored"])
@pytest.mark.parametrize("made", [gpt2, opt, llama, bloom])
def test_a_language_models_left_padding_neither_moves_nor_predicts_words(made, how, tmp_path):
    torch.manual_seed(0)
    model, table = made()
    model.eval()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = ([{**one, "labels": one["input_ids"]} for one in ragged(count, seed=count)] for count in (7, 3))

    def loss(model, one):
        return language_model_loss(model(input_ids=one["input_ids"]).logits, one["labels"]).sum()

    expected = looped(model, table, checkpoints, loss, *([alone(one) for one in side] for side in (test, train)))
    data, options = (train, {"collate_fn": left_filled}) if how == "collated" else (stored(train), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch_size in (1, 3):
            tracin = TracInWE(model, data, checkpoints, loss_fn=TokenLoss(), batch_size=batch_size, **options)
            assert_close(tracin.influence(left_filled(test)), expected, 1e-3)
        output = TracInWE(model, data, checkpoints, loss_fn=TokenLoss(), batch_size=3, table="output", **options)
        unpadded = TracInWE(model, train, checkpoints, loss_fn=TokenLoss(), table="output", collate_fn=Collate(model))
        assert_close(output.influence(left_filled(test)), unpadded.influence(test), 1e-3)


def test_what_is_done_about_it_is_said_once_and_kept_to_be_looked_at(tmp_path):
    torch.manual_seed(0)
    model, _ = gpt2()
    train = [{**one, "labels": one["input_ids"]} for one in ragged(7, seed=7)]
    tracin = TracInWE(
        *(model, train, scatter_checkpoints(model, tmp_path)),
        **{"loss_fn": TokenLoss(), "collate_fn": left_filled, "batch_size": 3},
    )
    with pytest.warns(UserWarning, match="positions are counted from the first word and padding predicts no word"):
        tracin.self_influence()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracin.self_influence()
    found = list(tracin.probes.found.values())
    assert {one.way.name for one in found} == {"left padding"}
    assert all(one.difference > 0.01 and 0 < one.passes < 20 and one.seconds > 0 for one in found)
