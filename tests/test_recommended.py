"""preconditioner="auto": what it stands for, by the kind of model, and beside what is given."""

import pytest
import torch
from cases import Examples
from torch import nn

from captum_tracinwe import TracInWE, save_checkpoint, word_report
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.gradients import TokenLoss
from captum_tracinwe.gradients.recommended import CLASSIFIER, LANGUAGE_MODEL, WORDS_READ
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.preconditioners import Cooccurrence, Idf

LOSS = nn.CrossEntropyLoss(reduction="none")


def asked(tracin):
    return tracin.preconditioner, tracin.normalize, tracin.tables


def of(best):
    return best.preconditioner, best.normalize, Tables.of(best.table, best.shares)


def mappings(count, seed, of_tokens=False):
    ids, mask, labels = toy_texts(count, seed=seed)
    if of_tokens:
        labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def rows(batch):
    return [{name: field[i] for name, field in batch.items()} for i in range(len(batch["labels"]))]


class WithItsLoss(nn.Module):
    """Answers with one loss for each example."""

    def __init__(self):
        super().__init__()
        self.inner = TinyCNN(padding_idx=0)
        self.embedding = self.inner.embedding

    def forward(self, ids, labels):
        return LOSS(self.inner(ids), labels)


def test_each_kind_of_model_gets_its_own(tmp_path):
    ids, _, labels = toy_texts(8, seed=1)
    pairs, cnn = Examples((ids, labels)), TinyCNN(padding_idx=0)
    paths = scatter_checkpoints(cnn, tmp_path)
    assert asked(TracInWE(cnn, pairs, paths, loss_fn=LOSS, preconditioner="auto")) == of(CLASSIFIER)
    bert = tiny_bert()
    (tmp_path / "bert").mkdir()
    paths = scatter_checkpoints(bert, tmp_path / "bert")
    assert asked(TracInWE(bert, rows(mappings(8, 1)), paths, preconditioner="auto")) == of(CLASSIFIER)
    gpt = tiny_gpt2()
    (tmp_path / "gpt").mkdir()
    paths = scatter_checkpoints(gpt, tmp_path / "gpt")
    data = rows(mappings(8, 1, of_tokens=True))
    assert asked(TracInWE(gpt, data, paths, loss_fn=TokenLoss(), preconditioner="auto")) == of(LANGUAGE_MODEL)
    own = WithItsLoss()
    (tmp_path / "own").mkdir()
    paths = scatter_checkpoints(own, tmp_path / "own")
    named = [{"ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]
    assert asked(TracInWE(own, named, paths, preconditioner="auto")) == of(WORDS_READ)


def test_what_is_given_stays_as_it_is_given(tmp_path):
    ids, _, labels = toy_texts(8, seed=1)
    cnn, pairs = TinyCNN(padding_idx=0), Examples((ids, labels))
    paths = scatter_checkpoints(cnn, tmp_path)

    def make(**options):
        return TracInWE(cnn, pairs, paths, loss_fn=LOSS, preconditioner="auto", **options)

    assert make(table="input").tables == Tables.of("input")
    assert make(table="bag", normalize="gradient").normalize.by == "gradient"
    assert make(shares=(1, 2)).tables == Tables.of(("input", "bag"), (1, 2))
    assert TracInWE(cnn, pairs, paths, loss_fn=LOSS, preconditioner=Idf()).normalize is None
    with pytest.raises(ValueError, match="There is no preconditioner 'best': expected one of .*'auto'"):
        TracInWE(cnn, pairs, paths, loss_fn=LOSS, preconditioner="best")


def test_an_index_is_asked_by_the_rows_that_it_holds(tmp_path):
    ids, _, labels = toy_texts(20, seed=1)
    cnn, pairs = TinyCNN(padding_idx=0), Examples((ids, labels))
    test = toy_texts(3, seed=2)
    test = test[0], test[2]
    paths = scatter_checkpoints(cnn, tmp_path)
    options = {"loss_fn": LOSS, "batch_size": 7}
    live = TracInWE(cnn, pairs, paths, preconditioner="auto", **options)
    live.build_index(tmp_path / "both")
    TracInWE(cnn, pairs, paths, **options).build_index(tmp_path / "plain")
    halves = TracInWE(cnn, pairs, paths, table=("input", "bag"), shares=(1, 0.5), **options)
    halves.build_index(tmp_path / "halves")
    TracInWE(cnn, pairs, paths, table=("input", "bag"), **options).build_index(tmp_path / "few", project=4)
    stored = TracInWE(cnn, None, paths, preconditioner="auto", index=tmp_path / "both", **options)
    assert asked(stored) == of(CLASSIFIER)
    expected = live.influence(test)
    close = {"rtol": 1e-5, "atol": 1e-6 * float(expected.abs().max())}
    torch.testing.assert_close(stored.influence(test), expected, **close)
    report = word_report(stored, test, labels, draws=20)
    assert report.score == pytest.approx(float(expected.sum()), rel=1e-5)
    with pytest.warns(
        UserWarning, match=r"holds the rows of the words read alone.*build the index with preconditioner"
    ):
        plain = TracInWE(cnn, None, paths, preconditioner="auto", index=tmp_path / "plain", **options)
    meant = TracInWE(cnn, None, paths, preconditioner="auto", table="input", index=tmp_path / "plain", **options)
    assert asked(meant) == of(WORDS_READ)
    assert asked(plain) == of(WORDS_READ)
    kept = TracInWE(cnn, None, paths, preconditioner="auto", index=tmp_path / "halves", **options)
    assert kept.tables == Tables.of(("input", "bag"), (1, 0.5))
    with pytest.raises(ValueError, match="mixes the columns of its tables"):
        TracInWE(cnn, None, paths, preconditioner="auto", index=tmp_path / "few", **options)
    few = TracInWE(cnn, None, paths, table=("input", "bag"), index=tmp_path / "few", **options)
    assert few.influence(test).isfinite().all()


@pytest.mark.parametrize("table", ["input", "bag", ("input", "bag"), ("output", "input")])
@pytest.mark.parametrize("shares", [None, 0.1])
def test_tables_are_read_from_how_an_index_writes_them(table, shares):
    count = 1 if isinstance(table, str) else len(table)
    given = Tables.of(table, None if shares is None else [shares + i for i in range(count)])
    assert Tables.parse(str(given)) == given


def trained(cnn, tmp_path, change):
    """The texts, which hold no word of 20 and above; two checkpoints with ``change`` between them; the table of the first."""
    generator = torch.Generator().manual_seed(5)
    ids, labels = torch.randint(1, 20, (30, 6), generator=generator), torch.arange(30) % 2
    paths = [str(tmp_path / f"{i}.pt") for i in range(2)]
    save_checkpoint(paths[0], cnn, 0.1)
    first = cnn.embedding.weight.detach().clone()
    with torch.no_grad():
        change(cnn.embedding.weight)
    save_checkpoint(paths[1], cnn, 0.1)
    return (ids, labels), paths, first


def asked_with(cnn, texts, paths):
    tracin = TracInWE(
        cnn, Examples(texts), paths, loss_fn=LOSS, batch_size=5, preconditioner=Cooccurrence(by_moved=True)
    )
    return tracin.question((texts[0][:2], texts[1][:2])).preconditioner


@pytest.mark.parametrize("decay", [1.0, 0.4])
def test_how_far_words_moved_is_measured_from_where_weight_decay_alone_would_have_left_them(tmp_path, decay):
    cnn, steps = TinyCNN(padding_idx=0), torch.zeros(len(TinyCNN().embedding.weight), 1)
    steps[1:20:2] = 0.5  # of the words in the texts training moved every second

    def change(table):
        table.mul_(decay).add_(steps)

    texts, paths, first = trained(cnn, tmp_path, change)
    before = {name: tensor.clone() for name, tensor in cnn.state_dict().items()}
    moved = asked_with(cnn, texts, paths).statistics.moved
    expected = torch.zeros(len(first), dtype=torch.float64)
    expected[texts[0].unique()] = (steps * first.shape[1] ** 0.5).flatten().double()[texts[0].unique()]
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in cnn.state_dict().items())


def test_a_word_whose_vector_is_no_number_is_named_with_its_checkpoint(tmp_path):
    cnn = TinyCNN(padding_idx=0)
    texts, paths, _ = trained(cnn, tmp_path, lambda table: table[25].fill_(torch.nan))
    assert asked_with(cnn, texts, paths).statistics.moved.isfinite().all()  # no text holds it
    token = int(texts[0][0, 0])
    texts, paths, _ = trained(cnn, tmp_path, lambda table: table[token].fill_(torch.inf))
    with pytest.raises(ValueError, match=rf"checkpoint .*1\.pt.* is NaN or infinite in the row of token {token}"):
        asked_with(cnn, texts, paths)


def test_a_word_that_training_left_where_it_was_has_no_share_in_the_recommended_score(tmp_path):
    cnn, steps = TinyCNN(padding_idx=0), torch.zeros(len(TinyCNN().embedding.weight), 1)
    steps[1:20] = 0.5
    still = 7
    steps[still] = 0
    texts, paths, _ = trained(cnn, tmp_path, lambda table: table.add_(steps))
    holding = (texts[0] == still).any(1).nonzero().flatten()[:2].tolist()
    question = (texts[0][holding[:1]], texts[1][holding[:1]])

    def share(**options):
        tracin = TracInWE(cnn, Examples(texts), paths, loss_fn=LOSS, batch_size=5, **options)
        pair = tracin.word_influence(question, [holding[1:]])[0][0]
        return float(pair.token_shares[pair.token_ids == still])

    alike = {"table": ("input", "bag"), "shares": "equal", "normalize": "words", "preconditioner": "cooccurrence"}
    assert share(preconditioner="auto") == 0.0
    assert share(**alike) != 0.0


@pytest.mark.parametrize("options", [{"preconditioner": "auto"}, {"preconditioner": "idf"}, {"normalize": "words"}])
def test_texts_that_no_word_tells_apart_are_said(tmp_path, options):
    ids, _, labels = toy_texts(1, seed=1)
    cnn = TinyCNN(padding_idx=0)
    paths = scatter_checkpoints(cnn, tmp_path)
    pairs = Examples((ids.repeat(3, 1), labels.repeat(3)))
    tracin = TracInWE(cnn, pairs, paths, loss_fn=LOSS, **options)
    with pytest.warns(UserWarning, match=r"No word tells the 3 training text\(s\) apart.*all scores are 0"):
        assert not tracin.influence((ids, labels)).any()


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss()])
def test_a_language_model_whose_loss_tells_no_words_is_told_what_auto_needs(tmp_path, loss):
    gpt, data = tiny_gpt2(), rows(mappings(8, 1, of_tokens=True))
    paths = scatter_checkpoints(gpt, tmp_path)
    expected = r"preconditioner='auto' takes the words predicted.*`loss_fn` \(.*TokenLoss\(\).*add table='input'"
    with pytest.raises(ValueError, match=expected):
        TracInWE(gpt, data, paths, loss_fn=loss, preconditioner="auto")
    with pytest.raises(ValueError, match=r"`test_loss_fn` \(CrossEntropyLoss\)"):
        TracInWE(gpt, data, paths, loss_fn=TokenLoss(), test_loss_fn=nn.CrossEntropyLoss(), preconditioner="auto")
    read = TracInWE(gpt, data, paths, preconditioner="auto", table="input")
    assert asked(read) == of(WORDS_READ)


@pytest.mark.parametrize("kind", [torch.long, torch.float32])
def test_texts_of_several_labels_get_a_bag_whatever_the_type_of_their_labels(tmp_path, kind):
    ids, _, _ = toy_texts(8, seed=1)
    labels = torch.randint(0, 2, (8, 3), generator=torch.Generator().manual_seed(0)).to(kind)
    cnn = TinyCNN(padding_idx=0)
    paths = scatter_checkpoints(cnn, tmp_path)

    def loss(logits, given):
        return nn.functional.binary_cross_entropy_with_logits(logits, given.float(), reduction="none").sum(1)

    tracin = TracInWE(cnn, Examples((ids, labels)), paths, loss_fn=loss, preconditioner="auto")
    assert asked(tracin) == of(CLASSIFIER)
    assert tracin.influence((ids[:2], labels[:2])).isfinite().all()
    of_tokens = Examples((ids, torch.zeros_like(ids)))  # one for each token
    assert asked(TracInWE(cnn, of_tokens, paths, loss_fn=loss, preconditioner="auto")) == of(WORDS_READ)
