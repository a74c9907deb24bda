"""Texts by length: less padding, the same scores in the same places."""

import pytest
import torch
from cases import Examples, bert_mapping, cnn
from torch.utils.data import DataLoader, IterableDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert, tiny_t5, toy_texts
from captum_tracinwe.batches.lengths import order_by_length, trim_padding
from captum_tracinwe.gradients.token_losses import TokenLoss


@pytest.fixture
def both(tmp_path):
    case = bert_mapping().to(torch.float64)
    paths = scatter_checkpoints(case.model, tmp_path)
    make = {"loss_fn": case.loss, "batch_size": 2}
    plain = TracInWE(case.model, case.dataset(), paths, **make)
    return case, plain, TracInWE(case.model, case.dataset(), paths, order_by_length=True, **make)


def test_results_come_in_the_original_order(both):
    case, plain, ordered = both
    close = {"rtol": 0, "atol": 1e-12}
    assert not torch.equal(ordered.live_source.examples.by_length.order, torch.arange(7))
    torch.testing.assert_close(ordered.influence(case.test), plain.influence(case.test), **close)
    torch.testing.assert_close(ordered.self_influence(), plain.self_influence(), **close)
    torch.testing.assert_close(ordered.self_influence(outer_loop_by_checkpoints=True), plain.self_influence(), **close)
    torch.testing.assert_close(ordered.self_influence(case.test), plain.self_influence(case.test), **close)
    a, b = ordered.row_gradients(), plain.row_gradients()
    assert torch.equal(a.ids, b.ids)
    torch.testing.assert_close(a.values, b.values, **close)
    for proponents in (True, False):
        a, b = (t.influence(case.test, k=4, proponents=proponents) for t in (ordered, plain))
        assert a.indices.tolist() == b.indices.tolist()
        torch.testing.assert_close(a.influence_scores, b.influence_scores, **close)
    words = [t.word_influence(case.test, [[6, 2], [0], []]) for t in (ordered, plain)]
    for row, other in zip(*words, strict=True):
        assert [w.train_index for w in row] == [w.train_index for w in other]
        for w, v in zip(row, other, strict=True):
            torch.testing.assert_close(w.token_shares, v.token_shares, **close)


def test_equal_scores_rank_by_index_across_blocks(both, tmp_path):
    case, _, _ = both
    double = {key: torch.cat([value, value]) for key, value in case.train.items()}
    make = {"loss_fn": case.loss, "batch_size": 3, "memory_limit": 1}
    paths = scatter_checkpoints(case.model, tmp_path / "more")
    ordered = TracInWE(case.model, Examples(double), paths, order_by_length=True, **make)
    scores = ordered.influence(case.test)
    assert all(len(set(row)) < 14 for row in scores.tolist())  # there are ties
    found = ordered.influence(case.test, k=14)
    assert torch.equal(found.indices, torch.sort(scores, dim=1, descending=True, stable=True).indices)


def test_padding_is_trimmed_on_the_right_only(both):
    case, _, ordered = both
    widths = [batch["input_ids"].shape[1] for batch in ordered.train_dataloader]
    assert widths == sorted(widths)
    assert widths[0] < 9
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0]])
    batch = {"attention_mask": mask, "input_ids": mask, "labels": torch.rand(2, 4), "name": "x"}
    trimmed = trim_padding(batch)
    assert trimmed["input_ids"].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert trimmed["labels"].shape == (2, 4)
    assert trim_padding({"attention_mask": mask * 0})["attention_mask"].shape == (2, 4)


@pytest.mark.parametrize("name", ["labels", "target"])
def test_a_label_behind_the_texts_is_not_cut_off(name):
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    batch = {"input_ids": mask, "attention_mask": mask, name: torch.tensor([[5, 6, 7, -100], [5, -100, -100, -100]])}
    whole = trim_padding(batch, label_names=("target",))
    assert all(torch.equal(whole[key], batch[key]) for key in batch)
    batch[name] = torch.tensor([[5, 6, -100, -100], [5, -100, -100, -100]])
    assert {value.shape[1] for value in trim_padding(batch, label_names=("target",)).values()} == {2}
    decoder = {**batch, "decoder_input_ids": torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])}
    assert trim_padding(decoder, label_names=("target",))["decoder_input_ids"].shape == (2, 4)


def loss_by_views(logits, labels):
    losses = torch.nn.functional.cross_entropy(logits.reshape(-1, 3), labels.view(-1), reduction="none")
    return losses.view(labels.shape).sum(1)


@pytest.mark.parametrize("name", ["T5", "Bart", "BERT, a loss of one's own"])
def test_a_trimmed_batch_may_be_viewed_in_another_shape(name, tmp_path):
    """As T5's and Bart's own losses do, and many people's: ``labels.view(-1)``."""
    from transformers import BartConfig, BartForConditionalGeneration, BertForTokenClassification

    bart = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
    model, loss = {
        "T5": lambda: (tiny_t5(), TokenLoss(shift=False)),
        "Bart": lambda: (
            BartForConditionalGeneration(BartConfig(vocab_size=30, d_model=8, pad_token_id=0, **bart)),
            TokenLoss(shift=False),
        ),
        "BERT, a loss of one's own": lambda: (BertForTokenClassification(tiny_bert().config), loss_by_views),
    }[name]()
    ids, mask, _ = toy_texts(6, seed=1)
    ids, mask = (torch.nn.functional.pad(one, (0, 3)) for one in (ids, mask))
    batch = {"input_ids": ids, "attention_mask": mask, "labels": (ids % 3).masked_fill(mask == 0, -100)}
    paths = scatter_checkpoints(model, tmp_path, rates=(0.3,))
    plain, ordered = (
        TracInWE(model, Examples(batch), paths, batch_size=2, loss_fn=loss, order_by_length=by_length).self_influence()
        for by_length in (False, True)
    )
    torch.testing.assert_close(ordered, plain, rtol=1e-4, atol=1e-6 * float(plain.max()))


def test_a_broken_example_is_named_by_its_own_index(both):
    case, _, ordered = both
    case.train["labels"][:] = 0
    case.train["labels"][5] = 2
    ordered.loss_fn = lambda prediction, labels: prediction.sum(1) / (labels - 2)
    with pytest.raises(ValueError, match="training example 5 is NaN"):
        ordered.influence(case.test)


class Stream(IterableDataset):
    def __iter__(self):
        yield {}


def test_what_has_no_length_is_refused(tmp_path):
    case = cnn()
    paths = scatter_checkpoints(case.model, tmp_path)
    with pytest.raises(ValueError, match="mappings with an `attention_mask`.*example 0 is tuple"):
        TracInWE(case.model, case.dataset(), paths, loss_fn=case.loss, order_by_length=True)
    with pytest.raises(ValueError, match="a DataLoader has its own order"):
        TracInWE(case.model, DataLoader(case.dataset(), 2), paths, loss_fn=case.loss, order_by_length=True)
    with pytest.raises(ValueError, match="length and random access, got Stream"):
        order_by_length(Stream(), 2)


def test_a_batch_whose_collator_leaves_the_mask_out_stays_as_it_is():
    batch = {"input_ids": torch.tensor([[3, 4, 5, 6]]), "position_ids": torch.tensor([[0, 1, 0, 1]])}
    assert trim_padding(batch) == batch
