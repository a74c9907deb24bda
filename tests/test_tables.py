"""Which rows make the score: bag-of-words rows against a real layer of zeros, output rows against the dense head."""

import pytest
import torch
from captum_tracinwe.texts import from_ids
from cases import Examples, sequence_loss
from index_cases import brute_force
from test_adapters import with_lora
from test_bags import Bag
from torch import nn

from captum_tracinwe import IndexMismatch, TracInWE, load_checkpoint, synonym_scores, word_report
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, tiny_bert, tiny_gpt2, tiny_t5, toy_texts
from captum_tracinwe.gradients import TokenLoss
from captum_tracinwe.gradients.tables import Tables

LOSS = nn.CrossEntropyLoss(reduction="none")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
V = 30


# ------------------------------------------------------------------------------------------------------------ oracles


class BesideBag(nn.Module):
    """A classifier with a real bag-of-words layer of zeros beside it."""

    def __init__(self, model, padding_idx, classes=3):
        super().__init__()
        self.model = model
        self.bag = nn.EmbeddingBag(V, classes, mode="sum", padding_idx=padding_idx)
        self.bag.weight = nn.Parameter(torch.zeros(V, classes, dtype=next(model.parameters()).dtype))

    def forward(self, ids, mask=None):
        logits = self.model(ids) if mask is None else self.model(ids, attention_mask=mask).logits
        return logits + self.bag(ids)


def bag_rows(model, padding_idx):
    """Example → the dense gradient ``(V, K)`` of the layer beside."""

    def rows(*example):
        beside = BesideBag(model, padding_idx)
        loss = LOSS(beside(*example[:-1]), example[-1]).sum()
        return torch.autograd.grad(loss, beside.bag.weight)[0]

    return rows


def output_rows(model, loss):
    """Example → ``(V, D)``: of the head's dense gradient, a copy of the head for each position, the targets' rows."""

    def rows(batch):
        copies = []

        def beside(head, given, logits):
            hidden = given[0]
            copies.append(
                torch.zeros(hidden.shape[1], logits.shape[2], hidden.shape[2], dtype=hidden.dtype, requires_grad=True)
            )
            return logits + torch.einsum("ntd,tvd->ntv", hidden.detach(), copies[0])

        hook = model.get_output_embeddings().register_forward_hook(beside)
        logits = model(**batch).logits
        hook.remove()
        (dense,) = torch.autograd.grad(loss(logits, batch["labels"]).sum(), copies)
        found = torch.zeros_like(dense[0])
        labels, shift = batch["labels"][0], int(loss.shift)
        for position in range(len(labels) - shift):
            word = int(labels[position + shift])
            if word != -100:
                found[word] += dense[position, word]
        return found

    return rows


def scores_of(model, paths, rows, test, train):
    """Σ_c η_c ⟨rows of a test example, rows of a training example⟩ in float64, example by example."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores, model = 0, model.eval()
    for path in paths:
        rate = load_checkpoint(model, path)
        a, b = (torch.stack([rows(*one).flatten() for one in examples]).double() for examples in (test, train))
        scores = scores + rate * a @ b.T
    model.load_state_dict(before)
    return scores


def singles(batch):
    """A batch cut into batches of one, as arguments."""
    if isinstance(batch, dict):
        return [({key: value[i : i + 1] for key, value in batch.items()},) for i in range(len(batch["labels"]))]
    return [tuple(value[i : i + 1] for value in batch) for i in range(len(batch[-1]))]


def assert_near(actual, expected, dtype):
    worst = float((actual.double() - expected).abs().max() / expected.abs().max())
    assert expected.abs().max() > 0
    assert worst <= TOLERANCE[dtype], worst


def classes(count, seed):
    ids, _, labels = toy_texts(count, seed=seed)
    return ids, labels


def words(count, seed, start=0):
    ids, mask, _ = toy_texts(count, seed=seed)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :start] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# ---------------------------------------------------------------------------------------------------------------- bag


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["cnn", "cnn, padding counts", "bag, weighted", "bag, mean"])
def test_bag_rows_are_the_gradient_of_a_layer_of_zeros_beside_the_model(kind, dtype, tmp_path):
    padding = None if kind == "cnn, padding counts" else 0
    bag = Bag("mean" if "mean" in kind else "sum", 0, "weighted" in kind)
    model = TinyCNN(padding_idx=padding) if kind.startswith("cnn") else bag
    model.to(dtype)
    paths, train, test = scatter_checkpoints(model, tmp_path), classes(7, 1), classes(3, 2)
    expected = scores_of(model, paths, bag_rows(model, padding), singles(test), singles(train))
    for size in (1, 3, 7):
        tracin = TracInWE(model, Examples(train), paths, loss_fn=LOSS, batch_size=size, table="bag")
        assert_near(tracin.influence(test), expected, dtype)
    mean = TracInWE(model, Examples(train), paths, loss_fn=nn.CrossEntropyLoss(), batch_size=3, table="bag")
    assert_near(mean.influence(test), expected, dtype)


@pytest.mark.parametrize("loss", [None, LOSS], ids=["own loss", "a loss"])
def test_bag_rows_of_a_transformer_know_no_padding(loss, tmp_path):
    """Neither its own token's, nor, where there is none, what the attention mask leaves out."""
    (ids, mask, labels), (asked, asked_mask, asked_labels) = toy_texts(7, seed=1), toy_texts(3, seed=2)
    model = tiny_bert(pad_token_id=None).double()
    assert model.get_input_embeddings().padding_idx is None
    paths = scatter_checkpoints(model, tmp_path)

    def cut_short(ids, mask, labels):
        lengths = mask.sum(1).tolist()
        return [(ids[i : i + 1, :n], mask[i : i + 1, :n], labels[i : i + 1]) for i, n in enumerate(lengths)]

    ask, cut = cut_short(asked, asked_mask, asked_labels), cut_short(ids, mask, labels)
    expected = scores_of(model, paths, bag_rows(model, None), ask, cut)
    train = [{"input_ids": i[0], "attention_mask": m[0], "labels": y[0]} for i, m, y in cut]
    test = {"input_ids": asked, "attention_mask": asked_mask, "labels": asked_labels}
    for options in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 3, "order_by_length": True}):
        tracin = TracInWE(model, train, paths, loss_fn=loss, table="bag", **options)
        assert_near(tracin.influence(test), expected, torch.float64)


def test_one_number_for_each_text_is_one_class(tmp_path):
    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TinyCNN(padding_idx=0, classes=1)
            self.embedding = self.inner.embedding

        def forward(self, ids):
            return self.inner(ids).squeeze(1)

    (ids, labels), model = classes(5, 1), Score().double()
    paths = scatter_checkpoints(model, tmp_path)
    loss = nn.BCEWithLogitsLoss(reduction="none")
    tracin = TracInWE(model, Examples((ids, (labels > 1).double())), paths[:1], loss_fn=loss, table="bag")
    rows = tracin.row_gradients()
    load_checkpoint(model, paths[0])
    error = 0.3**0.5 * (torch.sigmoid(model.eval()(ids)) - (labels > 1).double())
    counts = torch.stack([torch.bincount(one, minlength=V) for one in ids]).double()
    counts[:, 0] = 0
    torch.testing.assert_close(rows.to_dense(V)[..., 0], counts * error[:, None].detach())


# ------------------------------------------------------------------------------------------------------------- output


def masked_lm():
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForMaskedLM(BertConfig(vocab_size=V, max_position_embeddings=32, **sizes)).eval()


def lora_head():
    options = {"target_modules": ["c_attn", "lm_head"], "fan_in_fan_out": True}
    return with_lora(tiny_gpt2(tied=False), "CAUSAL_LM", **options)


def copied_head():
    options = {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"], "fan_in_fan_out": True}
    return with_lora(tiny_gpt2(tied=False), "CAUSAL_LM", **options)


HEADS = {
    "untied": (lambda: tiny_gpt2(False), TokenLoss()),
    "tied": (lambda: tiny_gpt2(True), TokenLoss()),
    "a part of the answer": (tiny_gpt2, TokenLoss(start=-3)),
    "mean over an answer": (tiny_gpt2, TokenLoss(reduction="mean")),
    "sequence to sequence": (tiny_t5, TokenLoss(shift=False)),
    "sequence to sequence, tied": (lambda: tiny_t5(True), TokenLoss(shift=False)),
    "masked": (masked_lm, TokenLoss(shift=False)),
    "LoRA": (lora_head, TokenLoss()),
    "a trained copy": (copied_head, TokenLoss()),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", HEADS)
def test_output_rows_are_those_of_the_dense_heads_gradient_at_the_targets(name, dtype, tmp_path):
    make, loss = HEADS[name]
    model, train, test = make().to(dtype), words(6, 1, start=2), words(3, 2)
    paths = scatter_checkpoints(model, tmp_path, rates=(0.3, 1.7))
    rows = output_rows(model, loss)
    expected = scores_of(model, paths, rows, singles(test), singles(train))
    hooks = len(model.get_output_embeddings()._forward_hooks)
    for size in (1, 4) if dtype == torch.float64 else (4,):
        tracin = TracInWE(model, Examples(train), paths, loss_fn=loss, batch_size=size, table="output")
        assert_near(tracin.influence(test), expected, dtype)
    assert len(model.get_output_embeddings()._forward_hooks) == hooks
    if loss.start is not None:  # training texts by the whole, questions by a part
        tracin = TracInWE(
            model, Examples(train), paths, loss_fn=TokenLoss(), test_loss_fn=loss, batch_size=4, table="output"
        )
        whole = output_rows(model, TokenLoss())
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        expected = 0
        for path in paths:
            rate = load_checkpoint(model, path)
            a = torch.stack([rows(*one).flatten() for one in singles(test)]).double()
            b = torch.stack([whole(*one).flatten() for one in singles(train)]).double()
            expected = expected + rate * a @ b.T
        model.load_state_dict(before)
        assert_near(tracin.influence(test), expected, dtype)


def test_a_row_of_the_output_side_is_error_times_hidden(tmp_path):
    """(p_t(w) − 1) · h_t, added up where w is the target."""
    model, batch = tiny_gpt2(False).double(), words(1, 1)
    paths = scatter_checkpoints(model, tmp_path, rates=(1.0,))
    rows = TracInWE(model, Examples(batch), paths, loss_fn=TokenLoss(), table="output").row_gradients()
    load_checkpoint(model, paths[0])
    out = model(**batch, output_hidden_states=True)
    expected = torch.zeros(V, 8, dtype=torch.float64)
    for t, word in enumerate(batch["labels"][0, 1:].tolist()):
        if word != -100:
            expected[word] += (out.logits[0, t].softmax(-1)[word] - 1) * out.hidden_states[-1][0, t]
    torch.testing.assert_close(rows.to_dense(V)[0], expected.detach())
    assert rows.num_rows == len(set(batch["labels"][0, 1:].tolist()) - {-100})


def test_texts_without_a_target_have_no_output_rows(tmp_path):
    model, batch = tiny_gpt2(), words(3, 1)
    batch["labels"][1] = -100
    paths, options = scatter_checkpoints(model, tmp_path), {"loss_fn": TokenLoss(), "batch_size": 3}
    tracin = TracInWE(model, Examples(batch), paths, table="both", **options)
    with pytest.warns(UserWarning, match=r"Training examples \[1\] have no target"):
        rows = tracin.row_gradients()
    assert (rows.ptr[1:] - rows.ptr[:-1]).tolist()[1] == 0
    assert rows.values.isfinite().all()


# --------------------------------------------------------------------------------------------------------------- sums


def classifier(folder):
    model, train, test = TinyCNN(padding_idx=0), classes(20, 1), classes(4, 2)
    (folder / "checkpoints").mkdir()
    paths = scatter_checkpoints(model, folder / "checkpoints", rates=(0.3, 1.7))
    options = {"loss_fn": LOSS, "batch_size": 7}
    return lambda **more: TracInWE(model, Examples(train), paths, **{**options, **more}), test, ("input", "bag"), 6 + 3


def language_model(folder):
    model, train, test = tiny_gpt2(), words(20, 1, start=2), words(4, 2)
    (folder / "checkpoints").mkdir()
    paths = scatter_checkpoints(model, folder / "checkpoints", rates=(0.3, 1.7))
    options = {"loss_fn": TokenLoss(), "batch_size": 7}
    return (
        lambda **more: TracInWE(model, Examples(train), paths, **{**options, **more}),
        test,
        ("input", "output"),
        8 + 8,
    )


@pytest.fixture(params=[classifier, language_model])
def several(request, tmp_path):
    return *request.param(tmp_path), tmp_path


def test_the_score_of_a_tuple_is_the_sum_of_its_parts_by_their_shares(several):
    make, test, tables, width, _ = several
    parts = [make(table=name).influence(test) for name in tables]
    torch.testing.assert_close(make(table=tables).influence(test), parts[0] + parts[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(make(table=tables[::-1]).influence(test), parts[0] + parts[1], rtol=1e-5, atol=1e-6)
    weighted = make(table=tables[::-1], shares=(0.25, 4))
    torch.testing.assert_close(weighted.influence(test), 4 * parts[0] + 0.25 * parts[1], rtol=1e-5, atol=1e-6)
    assert weighted.row_gradients().width == 2 * width
    own = [make(table=name).self_influence() for name in tables]
    torch.testing.assert_close(weighted.self_influence(), 4 * own[0] + 0.25 * own[1], rtol=1e-5, atol=1e-6)


def test_the_word_tables_rows_stay_what_they_are_to_the_bit(several):
    make, test, tables, _, _ = several
    assert torch.equal(make(table="input").influence(test), make().influence(test))
    assert torch.equal(make(table=("input",)).row_gradients().values, make().row_gradients().values)


def test_shares_by_word_add_up_to_the_score_of_all_tables(several):
    make, test, tables, _, _ = several
    tracin = make(table=tables, shares=(1, 0.5))
    scores = tracin.influence(test)
    pairs = tracin.word_influence(test, [[0, 5, 9]] * 4, per_checkpoint=True)
    for i, row in enumerate(pairs):
        for pair, index in zip(row, [0, 5, 9], strict=True):
            assert float(pair.token_shares.sum()) == pytest.approx(float(scores[i, index]), rel=1e-5, abs=1e-6)
    report = word_report(tracin, test, list(range(20)), draws=20)
    assert report.score == pytest.approx(float(scores.sum()), rel=1e-5)


def test_an_index_of_several_tables_answers_as_the_model_does(several):
    make, test, tables, width, folder = several
    live = make(table=tables, shares=(1, 0.5))
    live.build_index(folder / "index", rank=3, segment_examples=8)
    stored = make(table=tables, shares=(1, 0.5), index=folder / "index")
    scores = live.influence(test)
    assert float((stored.influence(test) - scores).abs().max() / scores.abs().max()) <= 1e-6
    rows = live.row_gradients(test)
    for proponents in (True, False):
        found = stored.influence(test, k=5, proponents=proponents)
        expected = brute_force(stored.index, rows, 5, proponents)
        assert torch.equal(found.indices, expected[0])
        assert torch.equal(found.influence_scores, expected[1])
    manifest = stored.index.manifest
    assert (manifest.source.width, manifest.source.table) == (width, str(Tables.of(tables, (1, 0.5))))
    assert live.estimate_index().examples == 20
    if tables != ("input", "bag"):  # of which the word table's columns can be taken
        with pytest.raises(IndexMismatch, match=r"table: .* here, 'input' there"):
            make(index=folder / "index")
    with pytest.raises(IndexMismatch, match=r"table: .* here, .* there"):
        make(table=tables, index=folder / "index")
    with pytest.raises(IndexMismatch, match="table: "):
        make(table=tables).build_index(folder / "index", append=True)
    make(table=tables[::-1], shares=(0.5, 1)).build_index(folder / "index", append=True, rank=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_index_with_a_bag_answers_for_the_word_table_as_one_of_its_own(tmp_path, dtype):
    make, test, tables, _ = classifier(tmp_path)
    options = {"rank": 3, "segment_examples": 8, "dtype": dtype}
    make(table=tables, shares=(1, 0.5)).build_index(tmp_path / "both", **options)
    make().build_index(tmp_path / "alone", **options)
    for given in (
        *({}, {"preconditioner": "kfac"}, {"preconditioner": "cooccurrence"}, {"normalize": "gradient"}),
        *({"preconditioner": "idf", "normalize": "words"}, {"preconditioner": "auto", "table": "input"}),
    ):
        found, expected = (make(index=tmp_path / name, **given) for name in ("both", "alone"))
        scores = expected.influence(test)
        close = {"rtol": 1e-5, "atol": 1e-6 * float(scores.abs().max())}
        torch.testing.assert_close(found.influence(test), scores, **close)
        for proponents in (True, False):
            best = found.influence(test, k=5, proponents=proponents)
            other = expected.influence(test, k=5, proponents=proponents)
            assert torch.equal(best.indices, other.indices)
            torch.testing.assert_close(best.influence_scores, other.influence_scores, **close)
        for mine, others in zip(*(one.word_influence(test, best.indices) for one in (found, expected)), strict=True):
            for one, two in zip(mine, others, strict=True):
                torch.testing.assert_close(one.token_shares, two.token_shares, rtol=1e-5, atol=close["atol"])
        torch.testing.assert_close(found.self_influence(), expected.self_influence(), rtol=1e-5, atol=0)
        assert torch.equal(found.row_gradients().values, expected.row_gradients().values)
        labels = [str(i % 3) for i in range(20)]
        reports = [word_report(one, test, labels, draws=20).score for one in (found, expected)]
        assert reports[0] == pytest.approx(reports[1], rel=1e-4, abs=close["atol"])
    make(table=tables).build_index(tmp_path / "few", project=4)
    with pytest.raises(IndexMismatch, match=r"table: 'input \+ bag' here, 'input' there.*index --plain"):
        make(index=tmp_path / "few")


def test_an_index_alone_answers_for_a_table_whose_width_the_model_must_tell(tmp_path):
    make, test, tables, _ = classifier(tmp_path)
    live = make(table="bag")
    live.build_index(tmp_path / "index", rank=3)
    alone = TracInWE(live.model, None, live.checkpoints, loss_fn=LOSS, index=tmp_path / "index", table="bag")
    torch.testing.assert_close(alone.influence(test), live.influence(test), rtol=1e-6, atol=1e-6)
    plain = tmp_path / "plain"
    make().build_index(plain, rank=3)
    with pytest.raises(IndexMismatch, match=r"table: 'input' here, 'input \+ bag' there"):
        make(table=("input", "bag"), index=plain)


def test_dense_vectors_and_sparse_rows_are_the_same(several):
    make, test, tables, _, _ = several
    tracin = make(table=tables)
    dense = (
        tracin.compute_intermediate_quantities(test, test=True)
        @ tracin.compute_intermediate_quantities(tracin.train_dataloader).T
    )
    torch.testing.assert_close(dense, tracin.influence(test), rtol=1e-4, atol=1e-5)


def test_excluded_words_and_the_strongest_positions_hold_for_every_table(several):
    make, test, tables, _, _ = several
    common = [2, 3, 5]
    for table in (*tables, tables):
        rows = make(table=table, exclude_tokens=common).row_gradients(test)
        assert not torch.isin(rows.ids, torch.tensor(common)).any()
    plain, beside = make(top_k_words=2).row_gradients(test), make(top_k_words=2, table=tables).row_gradients(test)
    if "bag" in tables:  # the positions are those of the word table
        assert torch.equal(plain.ids, beside.ids)
        alone = make(top_k_words=2, table="bag").row_gradients(test)
        assert torch.equal(plain.ids, alone.ids)
    assert torch.equal(beside.to_dense(V).reshape(4, V, 2, -1)[..., : plain.width // 2].flatten(2), plain.to_dense(V))


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("table", "shares", "error", "said"),
    [
        ("words", None, ValueError, "`table` names 'words': expected 'input', 'output', 'bag'"),
        (("input", "input"), None, ValueError, "'input' twice"),
        (("both", "bag"), None, ValueError, "'both' among others"),
        ((), None, TypeError, "`table` should be 'input', 'output', 'bag'"),
        (("input", 3), None, TypeError, "`table` should be"),
        (("input", "bag"), (1.0,), ValueError, r"one number above 0 for each of the 2 tables \(input, bag\)"),
        (("input", "bag"), (1.0, 0.0), ValueError, "above 0"),
        (("input", "bag"), (1.0, float("nan")), ValueError, "above 0"),
        (("input", "bag"), (1.0, float("inf")), ValueError, "above 0"),
        (("input", "bag"), "12", ValueError, "above 0"),
        (("input", "bag"), 2.0, ValueError, "above 0"),
        ("output", None, ValueError, "needs a language model, .* a TinyCNN has none"),
    ],
)
def test_a_table_that_is_none_is_refused(table, shares, error, said, tmp_path):
    model = TinyCNN()
    paths = scatter_checkpoints(model, tmp_path)
    with pytest.raises(error, match=said):
        TracInWE(model, Examples(classes(5, 1)), paths, loss_fn=LOSS, table=table, shares=shares)


def test_models_and_losses_that_do_not_tell_what_a_table_needs_are_refused(tmp_path):
    model, batch = tiny_gpt2(), words(4, 1)
    paths = scatter_checkpoints(model, tmp_path)
    with pytest.raises(ValueError, match=r"needs a classifier, .* of shape \(4, 9, 30\) .*table='both'"):
        TracInWE(model, Examples(batch), paths, loss_fn=TokenLoss(), table="bag").influence(batch)
    with pytest.raises(ValueError, match="which word each position has to predict, .* loss_fn is sequence_loss"):
        TracInWE(model, Examples(batch), paths, loss_fn=sequence_loss, table="output").influence(batch)
    with pytest.raises(ValueError, match="has none"):
        TracInWE(tiny_bert(), Examples(batch), paths, table="both")

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TinyCNN()

        def forward(self, ids):
            return LOSS(self.inner(ids), ids[:, 0] % 3)

    own, paths = Loss(), scatter_checkpoints(Loss(), tmp_path)
    with pytest.raises(ValueError, match="with loss_fn None the model's answer is its loss"):
        TracInWE(own, Examples((classes(4, 1)[0], torch.zeros(4))), paths, table="bag").influence(
            (classes(2, 1)[0], None)
        )

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TinyCNN()

        def forward(self, ids):
            return self.inner(ids).detach() + self.inner.embedding(ids).sum() * 0

    own, paths = Detached(), scatter_checkpoints(Detached(), tmp_path)
    loss = lambda logits, labels: LOSS(logits.detach(), labels)  # noqa: E731
    with pytest.raises(ValueError, match="does not depend on the model's logits"):
        TracInWE(own, Examples(classes(4, 1)), paths, loss_fn=loss, table="bag").influence(classes(2, 1))


def test_a_report_of_words_read_and_predicted_takes_their_texts(tmp_path):
    make, test, tables, _ = language_model(tmp_path)
    ids = make().train_dataloader.dataset.batch["input_ids"]
    texts = [from_ids(one[one != 0], padding_id=0) for one in ids]
    for table in ("output", tables):
        tracin = make(table=table)
        report = word_report(tracin, test, list(range(20)), train_texts=texts, draws=20)
        assert report.score == pytest.approx(float(tracin.influence(test).sum()), rel=1e-5)


def test_synonyms_are_of_the_words_that_are_read(tmp_path):
    make, test, _, _ = classifier(tmp_path)
    with pytest.raises(
        ValueError, match=r"[Ee]xpected a TracInWE with table='input', got one of the rows 'input \+ bag'"
    ):
        synonym_scores(make(table=("input", "bag")), test)
