"""Tokens of the training rows without gradients: those of the gradient pass, by as little of the model as shows them."""

import copy

import pytest
import torch
from captum_tracinwe.losses import TokenLoss
from cases import CASES, Stream, assert_same_state, cnn, state_of, tracin_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import RowGradients, TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, tiny_t5, toy_texts, toy_tracin

pytestmark = [
    pytest.mark.filterwarnings("ignore:Since `.*loss_fn.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unable to determine the number of batches:UserWarning"),
]
LOSS = nn.CrossEntropyLoss(reduction="none")


def tokens_of(tracin):
    return RowGradients.cat(list(tracin.source.row_blocks(values=False)))


def assert_tokens_of_the_gradient_pass(tracin):
    found, expected = tokens_of(tracin), RowGradients.cat(list(tracin.source.row_blocks()))
    assert torch.equal(found.ptr, expected.ptr)
    assert torch.equal(found.ids, expected.ids)
    assert found.width == 0
    assert found.values.dtype == expected.values.dtype
    assert found.num_rows > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exclude_tokens": [3, 7, 8]},
        {"memory_limit": 1},
        {"batch_size": 1},
        {"top_k_words": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_the_gradient_pass(name, options, tmp_path):
    case = CASES[name]()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), **options)
    before = state_of(case.model)
    assert_tokens_of_the_gradient_pass(tracin)
    assert_same_state(case.model, before)


def test_tokens_of_a_stream_and_of_texts_in_order_of_length(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    stream = tracin_of(case, paths, data=DataLoader(Stream(case.dataset()), 3))
    assert torch.equal(tokens_of(stream).ids, tokens_of(tracin_of(case, paths)).ids)
    case = CASES["bert, mappings"]()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path / "bert"), order_by_length=True)
    assert_tokens_of_the_gradient_pass(tracin)


class Bag(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.words = nn.EmbeddingBag(30, 6, **options)
        self.out = nn.Linear(6, 3)

    def forward(self, ids, offsets=None):
        return self.out(self.words(ids, offsets))


@pytest.mark.parametrize("padding_idx", [None, 0, -30])
def test_tokens_of_bags(padding_idx, tmp_path):
    ids, _, labels = toy_texts(7, seed=1)
    model = Bag(padding_idx=padding_idx)
    paths = scatter_checkpoints(model, tmp_path)
    assert_tokens_of_the_gradient_pass(TracInWE(model, TensorDataset(ids, labels), paths, loss_fn=LOSS, batch_size=2))
    words = torch.tensor([4, 5, 4, 9, 1, 2, 3, 3, 3])
    batches = [(words, torch.tensor([0, 4, 6]), labels[:3]), (words[2:], torch.tensor([0, 1, 5]), labels[3:6])] * 2
    assert_tokens_of_the_gradient_pass(TracInWE(model, DataLoader(batches, batch_size=None), paths, loss_fn=LOSS))


def test_texts_without_targets_have_no_tokens(tmp_path):
    case = CASES["gpt2, untied"]()
    case.train[2][1] = -100
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), loss_fn=TokenLoss())
    with pytest.warns(UserWarning, match="have no target"):
        assert_tokens_of_the_gradient_pass(tracin)
    assert tokens_of(tracin).ptr.diff()[1] == 0


@pytest.mark.parametrize("table", ["output", "both", ("input", "bag"), "bag"], ids=str)
def test_tokens_of_all_tables(table, tmp_path):
    if "bag" in table:
        case = CASES["bert, mappings"]()
        tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), table=table, exclude_tokens=[4])
        return assert_tokens_of_the_gradient_pass(tracin)
    for name in ("gpt2, untied", "gpt2, tied", "t5"):
        case = CASES[name]()
        model = getattr(case.model, "model", case.model)
        ids, mask, targets = case.train.values() if isinstance(case.train, dict) else case.train
        texts = [{"input_ids": i, "attention_mask": m, "labels": t} for i, m, t in zip(ids, mask, targets, strict=True)]
        texts[1]["labels"] = torch.full_like(texts[1]["labels"], -100)
        paths = scatter_checkpoints(model, tmp_path / name)
        tracin = TracInWE(
            *(model, texts, paths), loss_fn=TokenLoss(shift=name != "t5"), batch_size=2, table=table, exclude_tokens=[4]
        )
        with pytest.warns(UserWarning, match="have no target"):
            assert_tokens_of_the_gradient_pass(tracin)
    return None


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_tokens_of_one_side(side, tmp_path):
    case = CASES["t5"]()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), side=side)
    assert_tokens_of_the_gradient_pass(tracin)


# ---------------------------------------------------------------------------------------------------- how little is run


class Counted:
    """Calls of a model's modules and backward passes while it is asked."""

    def __init__(self, model, *modules):
        self.calls, self.backward = dict.fromkeys(modules, 0), 0
        for name in modules:
            model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: self.count(name))

    def count(self, name):
        self.calls[name] += 1


@pytest.fixture
def no_backward(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a gradient is computed")

    monkeypatch.setattr(torch.autograd, "grad", refused)
    monkeypatch.setattr(torch.autograd, "backward", refused)


def test_no_gradient_is_computed_and_no_layer_above_the_embedding_runs_after_the_first_batch(no_backward, tmp_path):
    ids, mask, labels = toy_texts(9, seed=1)
    model = tiny_bert()
    texts = [{"input_ids": i, "attention_mask": m, "labels": n} for i, m, n in zip(ids, mask, labels, strict=True)]
    tracin = TracInWE(model, texts, scatter_checkpoints(model, tmp_path), loss_fn=LOSS, batch_size=2)
    counted = Counted(model, "bert.embeddings.word_embeddings", "bert.encoder", "classifier")
    tokens_of(tracin)
    assert counted.calls == {"bert.embeddings.word_embeddings": 5, "bert.encoder": 1, "classifier": 1}


@pytest.mark.parametrize(
    "order", [("attention_mask", "input_ids", "labels"), ("labels", "token_type_ids", "input_ids")]
)
def test_entries_of_other_types_beside_the_ids_are_none_of_them(order, no_backward, tmp_path):
    ids, mask, labels = toy_texts(6, seed=1)
    model = tiny_bert()
    texts = [
        {"input_ids": i, "attention_mask": m.float(), "token_type_ids": m.int(), "labels": n}
        for i, m, n in zip(ids, mask, labels, strict=True)
    ]
    texts = [{key: text[key] for key in order} for text in texts]
    tracin = TracInWE(model, texts, scatter_checkpoints(model, tmp_path), loss_fn=LOSS, batch_size=2)
    counted = Counted(model, "bert.encoder")
    assert tokens_of(tracin).num_rows > 0
    assert counted.calls == {"bert.encoder": 1}


def test_of_an_encoder_no_decoder_runs_after_the_first_batch(no_backward, tmp_path):
    case = CASES["t5"]()
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), side="encoder", batch_size=1)
    counted = Counted(case.model, "encoder", "encoder.block.0", "decoder")
    tokens_of(tracin)
    assert counted.calls == {"encoder": 5, "encoder.block.0": 1, "decoder": 1}


def test_words_to_predict_take_no_pass_at_all(no_backward, tmp_path):
    model = tiny_t5()
    ids, mask, _ = toy_texts(4, seed=1)
    texts = [{"input_ids": i, "attention_mask": m, "labels": i.flip(0)} for i, m in zip(ids, mask, strict=True)]
    tracin = TracInWE(
        *(model, texts, scatter_checkpoints(model, tmp_path)), loss_fn=TokenLoss(shift=False), table="output"
    )
    counted = Counted(model, "encoder", "decoder")
    assert tokens_of(tracin).num_rows > 0
    assert counted.calls == {"encoder": 0, "decoder": 0}


def test_idf_and_lengths_take_no_gradient_before_the_question(no_backward):
    tracin, test = toy_tracin(preconditioner="idf", normalize="words")
    question = tracin.question(test)
    assert question.length.statistics.examples == question.preconditioner.statistics.examples == 12


class Windows(nn.Module):
    """Looks words up one after the other, or in windows: the first batch, of one word, shows a single look-up."""

    def __init__(self, size):
        super().__init__()
        self.words, self.out, self.size = nn.Embedding(30, 5), nn.Linear(5, 3), size

    def forward(self, ids):
        return self.out(sum(self.words(part).sum(1) for part in ids.split(self.size, dim=1)))


@pytest.mark.parametrize("size", [1, 3])
def test_a_model_that_looks_up_parts_of_a_text_is_run_to_the_end(size, tmp_path):
    ids, _, labels = toy_texts(6, seed=1)
    model = Windows(size)
    batches = [(ids[:2, :size], labels[:2]), (ids[2:4], labels[2:4]), (ids[4:, :size], labels[4:])]
    loader = DataLoader(batches, batch_size=None)
    assert_tokens_of_the_gradient_pass(TracInWE(model, loader, scatter_checkpoints(model, tmp_path), loss_fn=LOSS))


class MayBeTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(30, 5), nn.Linear(5, 3)

    def forward(self, input_ids, second=None):
        return self.out(self.words(input_ids).mean(1) + (0 if second is None else self.words(second).mean(1)))


def test_batches_of_another_form_are_looked_at_anew(tmp_path):
    ids, _, labels = toy_texts(6, seed=1)
    model = MayBeTwo()
    batches = [
        {"input_ids": ids[:2], "labels": labels[:2]},
        {"input_ids": ids[2:4], "second": ids[2:4] // 2, "labels": labels[2:4]},
        {"input_ids": ids[4:], "labels": labels[4:]},
    ]
    loader = DataLoader(batches, batch_size=None)
    assert_tokens_of_the_gradient_pass(TracInWE(model, loader, scatter_checkpoints(model, tmp_path), loss_fn=LOSS))


class Careless(nn.Module):
    """Puts another forward on a layer for the time of a pass, as transformers does to collect hidden states."""

    def __init__(self, quiet):
        super().__init__()
        self.words, self.out, self.quiet = nn.Embedding(30, 5), nn.Linear(5, 3), quiet

    def forward(self, ids):
        self.out.forward = lambda hidden: nn.Linear.forward(self.out, hidden)
        try:
            logits = self.out(self.words(ids).mean(1))
        except Exception:
            if not self.quiet:
                raise
            logits = self.out(self.words(ids // 2).mean(1))
        del self.out.forward
        return logits


@pytest.mark.parametrize("quiet", [False, True])
def test_a_pass_that_was_cut_short_leaves_no_trace_and_is_no_error_of_the_models(quiet, tmp_path):
    ids, _, labels = toy_texts(6, seed=1)
    model = Careless(quiet)
    tracin = TracInWE(
        model, TensorDataset(ids, labels), scatter_checkpoints(model, tmp_path), loss_fn=LOSS, batch_size=2
    )
    before = state_of(model), copy.copy(model.out.__dict__)
    assert_tokens_of_the_gradient_pass(tracin)
    tokens_of(tracin)  # after the passes that went to their end
    assert_same_state(model, before[0])
    assert model.out.__dict__.keys() == before[1].keys()


def test_an_embedding_that_is_not_used_is_said_so(tmp_path):
    class Unused(MayBeTwo):
        def forward(self, ids):
            return self.out(torch.ones(len(ids), 5))

    ids, _, labels = toy_texts(4, seed=1)
    model = Unused()
    tracin = TracInWE(model, TensorDataset(ids, labels), scatter_checkpoints(model, tmp_path), loss_fn=LOSS)
    with pytest.raises(ValueError, match="The embedding 'words' is not used in the forward pass: expected"):
        tokens_of(tracin)
