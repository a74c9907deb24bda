"""Kind I: a checkpoint of the same architecture is taken, whatever its names are; one that has to be guessed is refused."""

import warnings

import pytest
import torch
import transformers
from torch import nn

from captum_tracinwe import TracInWE, load_checkpoint, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scores_by_loop, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.gradients.token_losses import TokenLoss

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def put_before(prefix):
    return lambda name: prefix + name


def put_within(name):
    """As where parts are wrapped, each by itself."""
    first, _, rest = name.partition(".")
    return f"_fsdp_wrapped_module.{first}._fsdp_wrapped_module._checkpoint_wrapped_module.{rest}"


NAMES = {
    "ddp": put_before("module."),
    "compiled": put_before("_orig_mod."),
    "ddp of compiled": put_before("module._orig_mod."),
    "compiled of ddp": put_before("_orig_mod.module."),
    "fsdp": put_before("_fsdp_wrapped_module."),
    "fsdp of parts": put_within,
    "lightning": put_before("model."),
    "lightning, other name": put_before("net."),
    "lightning of compiled": put_before("model._orig_mod."),
    "lightning by ddp": put_before("module.model."),
    "deep": put_before("trainer.student.encoder."),
}


@pytest.mark.parametrize("nest", [None, "state_dict", "model", "module", "net", "weights"])
@pytest.mark.parametrize("how", NAMES)
def test_wrappers_and_prefixes_are_taken_off_in_any_nest(tmp_path, how, nest):
    saved, other = TinyCNN(), TinyCNN()
    state = {NAMES[how](name): value for name, value in saved.state_dict().items()}
    torch.save({"lr": 0.5, **(state if nest is None else {nest: state, "config": {"depth": 3}})}, tmp_path / "a.pt")
    assert load_checkpoint(other, tmp_path / "a.pt") == 0.5
    assert same(other, saved)


def test_a_prefix_that_the_file_lacks_or_calls_otherwise_is_put_on(tmp_path):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = TinyCNN()

    saved = TinyCNN()
    for prefix in ("", "net.", "module.net."):
        other = Around()
        torch.save({"lr": 0.5, **{prefix + k: v for k, v in saved.state_dict().items()}}, tmp_path / "a.pt")
        load_checkpoint(other, tmp_path / "a.pt")
        assert same(other.model, saved)


def test_what_stands_beside_the_prefix_is_left_out_and_said_once(tmp_path):
    saved, other = TinyCNN(), TinyCNN()
    state = {f"model.{name}": value for name, value in saved.state_dict().items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": state, "lr": 0.5}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"holds more than the model TinyCNN: loss.weight \(1\)") as said:
        assert [load_checkpoint(other, tmp_path / "a.ckpt") for _ in range(2)] == [0.5, 0.5]
    assert len(said) == 1
    assert same(other, saved)


def test_two_that_could_be_meant_are_refused_and_the_model_unchanged(tmp_path):
    model, before = TinyCNN(), TinyCNN()
    model.load_state_dict(before.state_dict())
    both = {f"{who}.{name}": value for who in ("teacher", "student") for name, value in TinyCNN().state_dict().items()}
    torch.save(both, tmp_path / "prefixes.pt")
    with pytest.raises(ValueError, match=r"TinyCNN several times: 'student\.' and 'teacher\.'.*Save the state_dict"):
        load_checkpoint(model, tmp_path / "prefixes.pt")
    torch.save({"generator": TinyCNN().state_dict(), "ema": TinyCNN().state_dict()}, tmp_path / "nests.pt")
    with pytest.raises(ValueError, match="several times, under generator, ema: expected one"):
        load_checkpoint(model, tmp_path / "nests.pt")
    assert same(model, before)


def test_names_that_tell_nothing_are_refused_with_the_first_three_of_each_side(tmp_path):
    torch.save(
        {f"layer{i}.{name}": value for i, (name, value) in enumerate(TinyCNN().state_dict().items())}, tmp_path / "a"
    )
    with pytest.raises(
        ValueError,
        match=r"5 missing \(embedding.weight, conv.weight, conv.bias, \.\.\.\); 5 unexpected \(layer0.embedding.weight, "
        r"layer1.conv.weight, layer2.conv.bias, \.\.\.\).*save this model's state_dict\(\), or pass a checkpoints_load_func",
    ):
        load_checkpoint(TinyCNN(), tmp_path / "a")


def test_tied_weights_that_differ_in_the_file_are_refused(tmp_path):
    state = tiny_gpt2(tied=False).state_dict()
    torch.save({"model": state, "lr": 0.5}, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match="wte.weight and lm_head.weight are one tensor in the model, and two that differ"
    ):
        load_checkpoint(tiny_gpt2(tied=True), tmp_path / "a.pt")


# ------------------------------------------------------------------------------------------------------- old buffers


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2))


OLD = {
    "positions": (tiny_bert, {"bert.embeddings.position_ids": torch.arange(32)[None]}),
    "types": (tiny_bert, {"bert.embeddings.token_type_ids": torch.zeros(1, 32, dtype=torch.long)}),
    "masks": (
        tiny_gpt2,
        {
            "transformer.h.0.attn.bias": torch.ones(32, 32).tril().to(torch.uint8)[None, None],
            "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
        },
    ),
    "frequencies": (llama, {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(2)}),
}


@pytest.mark.parametrize("prefix", ["", "module.model."])
@pytest.mark.parametrize("which", OLD)
def test_buffers_of_older_versions_are_passed_over(tmp_path, which, prefix):
    make, old = OLD[which]
    saved, other = make(), make()
    state = {prefix + name: value for name, value in {**saved.state_dict(), **old}.items()}
    torch.save({"state_dict": state, "lr": 0.5}, tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(other, tmp_path / "a.pt") == 0.5
    assert same(other, saved)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bert.embeddings.position_ids", torch.arange(32).flip(0)),
        ("bert.encoder.attn.bias", torch.rand(8)),
        ("bert.adapter.weight", torch.rand(4, 4)),
    ],
)
def test_what_only_looks_like_an_old_buffer_is_refused(tmp_path, name, value):
    torch.save({**TinyCNN().state_dict(), name: value}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"1 unexpected \({name}\)"):
        load_checkpoint(TinyCNN(), tmp_path / "a.pt")


# ----------------------------------------------------------------------------------------------------- other layouts


def made(name, **options):
    config = getattr(transformers, f"{name}Config")(**SMALL, **options)
    return lambda: getattr(transformers, f"{name}ForCausalLM")(config)


LAYOUTS = {
    "Pythia": made("GPTNeoX"),
    "Mixtral": made("Mixtral", num_key_value_heads=2, num_local_experts=4),
    "Qwen2-MoE": made(
        "Qwen2Moe", num_key_value_heads=2, num_experts=4, moe_intermediate_size=8, shared_expert_intermediate_size=8
    ),
    "OLMoE": made("Olmoe", num_key_value_heads=2, num_experts=4),
    "ESM": lambda: transformers.EsmForMaskedLM(transformers.EsmConfig(**SMALL, pad_token_id=0, mask_token_id=1)),
}


@pytest.mark.parametrize("how", ["folder", "shards", "ddp"])
@pytest.mark.parametrize("family", LAYOUTS)
def test_the_layout_in_which_transformers_saves_is_its_own_to_turn(tmp_path, family, how, capfd):
    saved, other = LAYOUTS[family](), LAYOUTS[family]()
    saved.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if how == "shards" else {}))
    capfd.readouterr()
    path, drawn = tmp_path, torch.get_rng_state()
    if how == "ddp":
        from safetensors.torch import load_file

        state = {f"module.{name}": value for name, value in load_file(tmp_path / "model.safetensors").items()}
        path = tmp_path / "a.pt"
        torch.save({"model": state, "lr": 0.5}, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The checkpoint .* carries no learning rate")
        load_checkpoint(other, path)
    assert same(other, saved)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert capfd.readouterr() == ("", "")


def test_scores_of_a_mixture_from_its_saved_layout_are_those_of_a_loop(tmp_path):
    torch.manual_seed(0)
    make = LAYOUTS["Mixtral"]
    model = make().eval()
    for step in (1, 2):
        state = make().eval()
        state.save_pretrained(tmp_path / f"checkpoint-{step}")
        torch.save({"_last_lr": [0.3 * step]}, tmp_path / f"checkpoint-{step}" / "scheduler.pt")
        save_checkpoint(tmp_path / "plain" / f"{step}.pt", state, 0.3 * step)
    ids, mask, _ = toy_texts(5, seed=1)
    train = [{"input_ids": i[m.bool()], "labels": i[m.bool()]} for i, m in zip(ids, mask, strict=True)]
    loss = TokenLoss()
    losses = [lambda row=row: loss(model(row["input_ids"][None]).logits, row["labels"][None]).sum() for row in train]
    plain = [tmp_path / "plain" / f"{step}.pt" for step in (1, 2)]
    expected = scores_by_loop(model, [model.get_input_embeddings()], plain, losses[:2], losses)
    tracin = TracInWE(model, train, tmp_path, loss_fn=loss)
    found = torch.cat([tracin.influence({name: value[None] for name, value in row.items()}) for row in train[:2]])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_base_model_is_read_from_one_with_a_head_and_never_the_reverse(tmp_path):
    saved = tiny_bert()
    torch.save({"model": saved.state_dict(), "lr": 0.5}, tmp_path / "head.pt")
    torch.save({"model": saved.bert.state_dict(), "lr": 0.5}, tmp_path / "base.pt")
    base = tiny_bert().bert
    with pytest.warns(UserWarning, match=r"classifier.weight, classifier.bias \(2\). That is not used"):
        load_checkpoint(base, tmp_path / "head.pt")
    assert same(base, saved.bert)
    with pytest.raises(ValueError, match="does not fit the model BertForSequenceClassification: 41 missing"):
        load_checkpoint(tiny_bert(), tmp_path / "base.pt")


# -------------------------------------------------------------------------------------------------- tables that grew

GROWN = {
    "copies": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "a tied copy": {"modules_to_save": ["embed_tokens"]},
    "tokens": {"trainable_token_indices": [40, 41]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [40, 41], "lm_head": [40, 41]}},
    "tokens, tied": {"trainable_token_indices": [40, 41]},
    "layers alone": {},
}


@pytest.fixture
def grown(request, tmp_path):
    """A PEFT model whose table has two more rows than the base model's, saved by PEFT as Trainer does, and how to make one."""
    peft = pytest.importorskip("peft")
    tied = "tied" in request.param
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=tied)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")

    def make():
        base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
        base.resize_token_embeddings(42, mean_resizing=False)
        options = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], **GROWN[request.param])
        return peft.get_peft_model(base, options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = make()
        with torch.no_grad():
            for parameter in saved.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter) * parameter.requires_grad)
        saved.save_pretrained(tmp_path / "run" / "checkpoint-1")
        torch.save({"_last_lr": [0.5]}, tmp_path / "run" / "checkpoint-1" / "scheduler.pt")
    return saved, make, tmp_path / "run"


@pytest.mark.parametrize("grown", GROWN, indirect=True)
def test_a_table_that_grew_comes_back_from_an_adapters_file(grown):
    saved, make, run = grown
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = make()
    assert load_checkpoint(other, run / "checkpoint-1") == 0.5
    assert same(other, saved)


@pytest.mark.parametrize("grown", ["copies", "a tied copy", "layers alone"], indirect=True)
def test_a_run_whose_table_grew_is_read_from_its_directory(grown):
    saved, _, run = grown
    ids, mask, _ = toy_texts(5, seed=1)
    train = [{"input_ids": i, "attention_mask": m, "labels": i} for i, m in zip(ids, mask, strict=True)]
    tracin = TracInWE.from_pretrained_run(run, train)
    assert load_checkpoint(tracin.model, run / "checkpoint-1") == 0.5
    assert len(tracin.model.get_input_embeddings().weight) == 42
    saved.eval(), tracin.model.eval()
    assert torch.equal(tracin.model(ids).logits, saved(ids).logits)


@pytest.mark.parametrize("grown", ["layers alone"], indirect=True)
def test_a_table_that_grew_and_is_not_all_there_is_refused_and_the_base_model_as_it_was(grown, tmp_path):
    from safetensors.torch import load_file, save_file

    _, _, run = grown
    file = run / "checkpoint-1" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "lm_head" not in name}, file)
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with pytest.raises(ValueError, match="a table of 42 rows, and lm_head.weight, which grows with it, is not in it"):
        TracInWE.from_pretrained_run(run, [{"input_ids": torch.arange(4)}], model=base)
    assert base.config.vocab_size == 40
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
