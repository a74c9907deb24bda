"""The probe: silent on models whose batches don't matter, cheap, and not to be fooled by what is put in on purpose."""

import warnings
from typing import ClassVar

import pytest
import torch
import transformers
from cases import CASES, cross_entropy, tracin_of
from loops import ragged
from test_models import CAUSAL, LOSSES, MODELS, SMALL, batch_of, made, rows
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert
from captum_tracinwe.gradients.tried import TRIED
from captum_tracinwe.gradients.ways import EQUAL_LENGTHS

# class, config class, changes: models of which nothing else is asked in the tests
MORE = {
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**SMALL, "embedding_size": 8}),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", SMALL),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", "XLMRobertaConfig", {**SMALL, "pad_token_id": 0}),
    "modern bert": ("ModernBertForSequenceClassification", "ModernBertConfig", {**SMALL, "pad_token_id": 0}),
    "llama, classes": ("LlamaForSequenceClassification", "LlamaConfig", {**CAUSAL, "num_labels": 3}),
    "gpt-neox, classes": ("GPTNeoXForSequenceClassification", "GPTNeoXConfig", {**SMALL, "pad_token_id": 0}),
    "opt, classes": (
        "OPTForSequenceClassification",
        "OPTConfig",
        {**SMALL, "ffn_dim": 16, "word_embed_proj_dim": 8, "pad_token_id": 0},
    ),
}


def silent(model, train, test, checkpoints, loss, batch_size=4):
    tracin = TracInWE(model, train, checkpoints, loss_fn=loss, batch_size=batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracin.influence(test)
    found = list(tracin.probes.found.values())
    assert found
    assert {one.way.name for one in found} == {"as it is"}
    assert max(one.difference for one in found) < 1e-4
    assert max(one.passes for one in found) <= 2 + TRIED
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_probe_is_silent_on_models_whose_batches_do_not_matter(name, tmp_path):
    model, kind = made(name)
    train, test = batch_of(9, 1, kind), batch_of(5, 2, kind)
    silent(model, rows(train), test, scatter_checkpoints(model, tmp_path), LOSSES[kind])


@pytest.mark.parametrize("name", MORE)
def test_and_on_more_of_transformers(name, tmp_path):
    cls, config, sizes = MORE[name]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**sizes)).eval()
    train, test = (rows(batch_of(count, seed, "class")) for count, seed in ((9, 1), (5, 2)))
    silent(model, train, test, scatter_checkpoints(model, tmp_path), cross_entropy())


@pytest.mark.parametrize("name", CASES)
def test_and_on_models_of_ones_own(name, tmp_path):
    case = CASES[name]()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracin.influence(case.test)
    assert {one.way.name for one in tracin.probes.found.values()} == {"as it is"}


def test_each_form_of_batch_is_tried_once_at_each_checkpoint(tmp_path):
    model = tiny_bert()
    data = [{**one, "labels": max(0, one["labels"])} for one in ragged(12, seed=1)]
    tracin = TracInWE(model, data, scatter_checkpoints(model, tmp_path), loss_fn=cross_entropy(), batch_size=4)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    counts = []
    for _ in range(3):
        passes.clear()
        tracin.self_influence()
        counts.append(len(passes))
    assert counts[1] == counts[2] == 3 * 3  # batches x checkpoints
    assert counts[0] <= counts[1] + 3 * (2 + TRIED) + 4  # at each checkpoint; and whether the model comes back
    off = TracInWE(model, data, tracin.checkpoints, loss_fn=cross_entropy(), batch_size=4, probe=False)
    passes.clear()
    off.self_influence()
    assert len(passes) == 9


def test_a_model_that_answers_by_chance_is_refused(tmp_path):
    class Noisy(TinyCNN):
        def forward(self, ids):
            return super().forward(ids) + 0.5 * torch.rand(()) * super().forward(ids)

    model = Noisy(padding_idx=0)
    ids = torch.randint(1, 30, (8, 6))
    data = torch.utils.data.TensorDataset(ids, torch.zeros(8, dtype=torch.int64))
    tracin = TracInWE(model, data, scatter_checkpoints(model, tmp_path), loss_fn=cross_entropy(), batch_size=4)
    with pytest.raises(ValueError, match="other ones when they are computed again"):
        tracin.self_influence()


class Counting(TinyCNN):
    """Adds up what it has seen: its answer hangs on more than its weights."""

    def forward(self, ids):
        seen = self.__dict__.setdefault("_somewhere", [0.0])
        seen[0] += 1.0
        return super().forward(ids) * (1 + seen[0])


class Drifting(TinyCNN):
    """Its answer changes only once a checkpoint was in it."""

    STATE: ClassVar = []

    def forward(self, ids):
        norm = float(self.embedding.weight.detach().norm())
        if norm not in self.STATE:
            self.STATE.append(norm)
        return super().forward(ids) * len(self.STATE)


@pytest.mark.parametrize("kind", [Counting, Drifting])
def test_a_model_that_does_not_come_back_is_told_before_a_run(kind, tmp_path):
    model = kind(padding_idx=0)
    if kind is Drifting:
        kind.STATE = []
    ids = torch.randint(1, 30, (8, 6))
    data = torch.utils.data.TensorDataset(ids, torch.zeros(8, dtype=torch.int64))
    tracin = TracInWE(model, data, scatter_checkpoints(model, tmp_path), loss_fn=cross_entropy(), batch_size=4)
    with pytest.raises(
        (RuntimeError, ValueError), match="does not answer as before|other ones when they are computed again"
    ):
        tracin.self_influence()


def test_a_classifier_without_a_padding_token_is_taken_text_by_text(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2, "num_labels": 3}
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes)).eval()
    checkpoints = scatter_checkpoints(model, tmp_path)
    data = [{"input_ids": one["input_ids"], "labels": max(0, one["labels"])} for one in ragged(9, seed=1)]
    singly = TracInWE(model, data, checkpoints, loss_fn=cross_entropy()).influence(
        DataLoader(data, 1, collate_fn=_filled)
    )
    tracin = TracInWE(model, data, checkpoints, loss_fn=cross_entropy(), batch_size=4)
    with pytest.warns(UserWarning, match="does not take several texts at once. From here on each text is taken alone"):
        found = tracin.influence(data)
    torch.testing.assert_close(found, singly, rtol=1e-4, atol=1e-5 * float(singly.abs().max()))
    weighted = TracInWE(model, data, checkpoints, loss_fn=cross_entropy(), batch_size=4, preconditioner="idf")
    with pytest.warns(UserWarning, match="each text is taken alone"):
        found = weighted.influence(data)
    assert found.isfinite().all()


def _filled(examples):
    ids = nn.utils.rnn.pad_sequence([torch.tensor(one["input_ids"]) for one in examples], batch_first=True)
    return {"input_ids": ids, "labels": torch.tensor([one["labels"] for one in examples])}


def test_words_in_a_row_that_offsets_divide_are_never_put_together():
    one = (torch.tensor([3, 4]), torch.tensor([0]), torch.tensor([1]))
    parts = EQUAL_LENGTHS.parts((torch.zeros(2, 2),), lambda: [one, one])
    assert [(places, batch is one) for places, batch in parts] == [([0], True), ([1], True)]
    texts = [(torch.tensor([[3, 4]]), torch.tensor([1])), (torch.tensor([[5]]), torch.tensor([0]))]
    parts = EQUAL_LENGTHS.parts((torch.zeros(3, 2),), lambda: [texts[0], texts[1], texts[0]])
    assert [places for places, _ in parts] == [[0, 2], [1]]
    assert parts[0][1][0].tolist() == [[3, 4], [3, 4]]


class Sure(TinyCNN):
    """Sure of its answer, so that hardly any gradient is left to compare; kernels round otherwise for another number of texts."""

    def forward(self, ids):
        return super().forward(ids) + torch.tensor([15.0, 0.0, 0.0]) * (1 + 1e-5 * len(ids))


def test_what_rounding_leaves_of_no_gradient_is_no_difference(tmp_path):
    model = Sure()
    ids = torch.randint(1, 30, (12, 6))
    data = torch.utils.data.TensorDataset(ids, torch.zeros(12, dtype=torch.int64))
    silent(
        model,
        data,
        (ids[:5], torch.zeros(5, dtype=torch.int64)),
        scatter_checkpoints(model, tmp_path, scale=0.01),
        cross_entropy(),
    )
