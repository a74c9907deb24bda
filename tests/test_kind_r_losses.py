"""Kind R: a loss that is put in the place of the model's own is held against it, and what is missing in it is said."""

import functools
import re
import types
import warnings

import pytest
import torch
import transformers
from cases import Examples
from torch import nn
from transformers import Trainer, TrainingArguments

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import (
    language_model_loss,
    scatter_checkpoints,
    scores_by_loop,
    tiny_bert,
    tiny_gpt2,
    tiny_t5,
    toy_texts,
)
from captum_tracinwe.checkpoints.trainer_loss import loss_in_place
from captum_tracinwe.gradients.token_losses import TokenLoss, span_loss

SAID = "Gradients are not those of training. Pass loss_fn=None, batch_size=1"


def texts(count, seed, labels="next"):
    ids, mask, _ = toy_texts(count, seed=seed)
    ids = ids.clamp_min(1) * mask
    found = {"next": ids.masked_fill(mask == 0, -100), "classes": (ids % 3).masked_fill(mask == 0, -100)}
    return {"input_ids": ids, "attention_mask": mask, "labels": found[labels]}


SIZES = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}
EXPERTS = {"output_router_logits": True, "router_aux_loss_coef": 0.02, "num_experts_per_tok": 2}


def mixtral(**changes):
    config = transformers.MixtralConfig(**SIZES, **HEADS, **{**EXPERTS, **changes}, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def qwen(**changes):
    options = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    return transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(**SIZES, **HEADS, **{**EXPERTS, **options, **changes})
    )


def switch(**changes):
    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "num_experts": 2}
    options = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    config = transformers.SwitchTransformersConfig(
        **sizes, **{**options, **changes}, decoder_start_token_id=0, pad_token_id=0
    )
    return Routed(config)


class Routed(transformers.SwitchTransformersForConditionalGeneration):
    """Asked for its routers, whose two losses then count."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        return super().forward(input_ids, attention_mask=attention_mask, labels=labels, output_router_logits=True)


class WeightedForTokenClassification(transformers.BertForTokenClassification):
    """Token classification with weights of classes in its forward pass."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        output = super().forward(input_ids, attention_mask=attention_mask)
        loss = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), torch.tensor([1.0, 5.0, 9.0]))
        output["loss"] = loss
        return output


class WithZLossForCausalLM(transformers.GPT2LMHeadModel):
    """A language model that keeps its logits small, as PaLM does."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        output = super().forward(input_ids, attention_mask=attention_mask, labels=labels)
        if labels is not None:
            output["loss"] = output.loss + 1e-2 * output.logits.logsumexp(-1).square().mean()
        return output


class Smoothed(transformers.T5ForConditionalGeneration):
    """Label smoothing of the model's own."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        output = super().forward(input_ids, attention_mask=attention_mask, labels=labels)
        output["loss"] = nn.functional.cross_entropy(
            output.logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.1
        )
        return output


class OneSidedForQuestionAnswering(transformers.BertForQuestionAnswering):
    """An answer's start counts twice its end."""

    def forward(self, input_ids=None, attention_mask=None, start_positions=None, end_positions=None):
        output = super().forward(input_ids, attention_mask=attention_mask)
        sides = [nn.functional.cross_entropy(output.start_logits, start_positions)]
        sides += [nn.functional.cross_entropy(output.end_logits, end_positions)]
        output["loss"] = (2 * sides[0] + sides[1]) / 3
        return output


def of_bert(kind):
    return kind(tiny_bert().config)


def of_answers(kind):
    model = kind(tiny_bert(classes=2).config)
    return model, [
        {"input_ids": ids, "attention_mask": mask, "start_positions": label, "end_positions": label + 1}
        for ids, mask, label in zip(*toy_texts(5, seed=1), strict=True)
    ]


OTHER = {
    "Mixtral's router": (mixtral, "next", r"aux_loss = [\d.]+ in it"),
    "Qwen's router": (qwen, "next", r"aux_loss = [\d.]+ in it"),
    "Switch's routers": (switch, "next", r"encoder_z_loss = [\d.]+, .*decoder_aux_loss = [\d.]+ in it"),
    "weights of classes": (lambda: of_bert(WeightedForTokenClassification), "classes", "TokenLoss.shift=False."),
    "z-loss": (lambda: WithZLossForCausalLM(tiny_gpt2().config), "next", "TokenLoss.shift=True."),
    "smoothing": (lambda: Smoothed(tiny_t5().config), "next", "TokenLoss.shift=False."),
}


def trainer_of(model, data, folder, **options):
    return Trainer(model, TrainingArguments(str(folder), report_to=[], use_cpu=True, **options), train_dataset=data)


@pytest.mark.parametrize("name", OTHER)
def test_a_loss_that_has_more_is_told_with_both_numbers(name, tmp_path):
    make, labels, said = OTHER[name]
    model, batch = make().eval(), texts(5, 1, labels)
    trainer = trainer_of(model, Examples(batch), tmp_path)
    with pytest.warns(UserWarning, match=SAID) as found:
        tracin = TracInWE.from_trainer(trainer, checkpoints=scatter_checkpoints(model, tmp_path, rates=[0.1]))
    told = [str(one.message) for one in found if SAID in str(one.message)]
    assert len(told) == 1

    assert re.search(said, told[0])
    number, own, ours = re.search(r"example (\d+) is ([\d.]+).* gives ([\d.]+) for each target", told[0]).groups()
    one = {key: value[int(number)][None] for key, value in batch.items()}
    with torch.no_grad():
        output = model(**one)
    assert float(own) == pytest.approx(float(output.loss), rel=1e-4)
    shift = tracin.loss_fn.shift
    logits, wanted = (output.logits[:, :-1], one["labels"][:, 1:]) if shift else (output.logits, one["labels"])
    mean = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    assert float(ours) == pytest.approx(float(mean), rel=1e-4)


def test_the_way_out_gives_the_models_own_loss_of_each_example_alone(tmp_path):
    model = mixtral().eval()
    train, test = texts(4, 1), texts(2, 2)
    paths = scatter_checkpoints(model, tmp_path, rates=[0.3, 0.1], scale=0.1)
    trainer = trainer_of(model, Examples(train), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracin = TracInWE.from_trainer(trainer, checkpoints=paths, loss_fn=None, batch_size=1)
        found = tracin.influence(list(Examples(test)[i] for i in range(2)))
    runs = [
        [lambda i=i, b=b: model(**{k: v[i : i + 1] for k, v in b.items()}).loss for i in range(len(b["labels"]))]
        for b in (test, train)
    ]
    expected = scores_by_loop(model, [model.get_input_embeddings()], paths, *runs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_answers_in_texts_with_a_loss_of_their_own_are_told(tmp_path):
    model, rows = of_answers(OneSidedForQuestionAnswering)
    with pytest.warns(UserWarning, match=f"and span_loss, which is used.*{SAID}"):
        TracInWE.from_trainer(trainer_of(model, rows, tmp_path), checkpoints=scatter_checkpoints(model, tmp_path))


def test_a_finished_run_tells_it_too(tmp_path):
    model = mixtral().eval()
    data = Examples(texts(5, 1))
    trainer = trainer_of(model, data, tmp_path / "run", max_steps=2, save_steps=1, disable_tqdm=True, logging_steps=1)
    trainer.train()
    with pytest.warns(UserWarning, match=f"from_pretrained_run: the model's own loss.*{SAID}"):
        TracInWE.from_pretrained_run(tmp_path / "run", data)


class ShiftedBeforeForCausalLM(transformers.GPT2LMHeadModel):
    """A language model whose labels the data set has shifted already."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        output = super().forward(input_ids, attention_mask=attention_mask)
        if labels is not None:
            output["loss"] = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        return output


PLAIN = {
    "gpt2": (tiny_gpt2, "next", TokenLoss, True),
    "t5": (tiny_t5, "next", TokenLoss, False),
    "mixtral without its router's loss": (lambda: mixtral(output_router_logits=False), "next", TokenLoss, True),
    "bert, tokens": (lambda: of_bert(transformers.BertForTokenClassification), "classes", TokenLoss, False),
    "bert, masks": (lambda: of_bert(transformers.BertForMaskedLM), "next", TokenLoss, False),
    "gpt2 in bfloat16": (lambda: tiny_gpt2().bfloat16(), "next", TokenLoss, True),
    "labels that are shifted already": (lambda: ShiftedBeforeForCausalLM(tiny_gpt2().config), "next", TokenLoss, False),
}


@pytest.mark.parametrize("name", PLAIN)
def test_where_both_are_one_loss_nothing_is_said_and_the_model_is_as_it_was(name, tmp_path):
    make, labels, kind, shift = PLAIN[name]
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = trainer_of(model, Examples(texts(5, 1, labels)), tmp_path)
    paths = scatter_checkpoints(model, tmp_path, rates=[0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracin = TracInWE.from_trainer(trainer, checkpoints=paths)
    assert isinstance(tracin.loss_fn, kind)
    assert tracin.loss_fn.shift is shift
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_labels_at_the_models_own_place_give_the_scores_of_its_own_loss(tmp_path):
    model = ShiftedBeforeForCausalLM(tiny_gpt2(tied=False).config).double().eval()
    train, test = texts(4, 1), texts(2, 2)
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE.from_trainer(trainer_of(model, Examples(train), tmp_path), checkpoints=paths)

    def run(batch, i):
        one = {key: value[i : i + 1] for key, value in batch.items()}
        return model(**one).loss * (one["labels"] != -100).sum()

    runs = [[lambda i=i, b=b: run(b, i) for i in range(len(b["labels"]))] for b in (test, train)]
    expected = scores_by_loop(model, [model.get_input_embeddings()], paths, *runs)
    torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-5, atol=1e-8 * float(expected.abs().max()))


def test_a_plain_question_answerer_is_taken_without_a_word_also_where_an_answer_lies_beyond_its_text(tmp_path):
    model, rows = of_answers(transformers.BertForQuestionAnswering)
    rows[0]["end_positions"] = torch.tensor(99)
    paths = scatter_checkpoints(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert TracInWE.from_trainer(trainer_of(model, rows, tmp_path), checkpoints=paths).loss_fn is span_loss


def test_what_cannot_be_asked_is_left_for_where_it_is_used():
    model = tiny_gpt2()
    without_labels = [{"input_ids": torch.tensor([1, 2, 3])}]
    for data in (without_labels, ["raw text"], [], torch.utils.data.DataLoader([texts(2, 1)], batch_size=None)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert isinstance(loss_in_place(model, data, (), "from_trainer"), TokenLoss)


def test_a_loss_that_is_given_is_not_held_against_anything(tmp_path):
    model = mixtral()
    trainer = trainer_of(model, Examples(texts(4, 1)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        TracInWE.from_trainer(trainer, checkpoints=scatter_checkpoints(model, tmp_path), loss_fn=language_model_loss)


# ------------------------------------------------------------------------------------- a loss that the Trainer was given


def three_times(trainer, model, inputs, return_outputs=False, **others):
    output = model(**inputs)
    return (3 * output.loss, output) if return_outputs else 3 * output.loss


def on_the_trainer(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "compute_loss", types.MethodType(three_times, trainer), raising=False)


def as_a_function(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "compute_loss", functools.partial(three_times, trainer))


def wrapped(trainer, monkeypatch):
    how = trainer.compute_loss
    monkeypatch.setattr(trainer, "compute_loss", functools.wraps(how)(lambda *given, **named: 3 * how(*given, **named)))


def on_their_class(trainer, monkeypatch):
    monkeypatch.setattr(Trainer, "compute_loss", three_times)


def smoothed_later(trainer, monkeypatch):
    trainer.label_smoother = transformers.trainer_pt_utils.LabelSmoother(0.1)


OWN = [on_the_trainer, as_a_function, wrapped, on_their_class, smoothed_later]


@pytest.mark.parametrize("way", [None, *OWN])
def test_a_loss_put_onto_a_trainer_is_told_however_it_came_there(way, tmp_path, monkeypatch):
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no"
    )
    trainer = Trainer(tiny_bert(classes=2), arguments, train_dataset=Examples({"labels": torch.tensor([0, 1])}))
    trainer.state.global_step = 1
    if way is not None:
        way(trainer, monkeypatch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        TracInWE.from_trainer(trainer, checkpoints=[tmp_path / "step-1.pt"])
    what = "label_smoother" if way is smoothed_later else "compute_loss"
    expected = f"has a loss of its own ({what}), and the model's is used: gradients are not those of training"
    assert [expected in str(one.message) for one in said] == ([] if way is None else [True])
