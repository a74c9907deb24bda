"""Gradient Rollback: updates kept along a training against closed forms and full copies of the table; taken back and asked."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captum_tracinwe.app.testing import TinyCNN, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.neighbours import KeepUpdates, Updates, rollback, rollback_scores, rolled_back

EACH = nn.CrossEntropyLoss(reduction="none")
SIZE = 14
FOLDER = Path(__file__).parents[1] / "benchmarks" / "evidence"
DATA = Path(__file__).parents[2] / "shared" / "data"


class Bag(nn.Module):
    """Mean of the words' vectors → a fixed linear map."""

    def __init__(self, padding_idx=None, vocabulary=30, width=5, classes=3):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=padding_idx)
        self.out = nn.Linear(width, classes).requires_grad_(False)

    def forward(self, ids):
        return self.out(self.words(ids).mean(1))


def trained(model, batches, optimizer, *, every=1, directory=None, memory_limit=1 << 30, texts=None, keep=True):
    """Updates of a training on toy texts, and the table before and after each step."""
    ids, _, labels = toy_texts(SIZE) if texts is None else texts
    table = next(one for one in model.modules() if isinstance(one, nn.Embedding)).weight
    tables = [table.detach().clone()]
    keeper = KeepUpdates(model, examples=len(ids), directory=directory, memory_limit=memory_limit)
    for place, indices in enumerate(batches, 1):
        with keeper.batch(indices):
            (EACH(model(ids[indices]), labels[indices]).mean() / every).backward()
        if place % every == 0:
            with keeper.step():
                optimizer.step()
            optimizer.zero_grad()
            tables.append(table.detach().clone())
    return keeper.updates() if keep else keeper, tables


def seeded(make, **options):
    torch.manual_seed(0)
    return make(**options)


def in_batches(size, epochs=3):
    return [part for _ in range(epochs) for part in torch.randperm(SIZE).split(size)]


def test_plain_sgd_of_single_examples_moves_rows_by_rate_times_gradient():
    model = seeded(Bag)
    ids, _, labels = toy_texts(SIZE)
    batches = in_batches(1)
    table, weight, bias = model.words.weight.detach().clone(), model.out.weight, model.out.bias
    wanted = torch.zeros(SIZE, *table.shape)
    for (one,) in (part.tolist() for part in batches):  # the closed form: no autograd, no hook
        error = (weight @ table[ids[one]].mean(0) + bias).softmax(0)
        error[labels[one]] -= 1
        step = torch.zeros_like(table)
        for token in ids[one].tolist():
            step[token] -= 0.3 / ids.shape[1] * (error @ weight)
        table += step
        wanted[one] += step
    updates, _ = trained(model, batches, torch.optim.SGD(model.parameters(), lr=0.3))
    assert updates.steps == len(batches)
    torch.testing.assert_close(updates.of(range(SIZE)).to_dense(30), wanted, atol=1e-6, rtol=0)
    assert updates.rest.abs().max() < 1e-6
    assert updates.rest_share() < 1e-4


def test_plain_sgd_of_batches_shares_by_the_gradients_of_single_examples():
    model = seeded(TinyCNN)
    model.eval()
    ids, _, labels = toy_texts(SIZE)
    wanted = torch.zeros(SIZE, 30, 6)
    for one in range(5):
        (gradient,) = torch.autograd.grad(
            EACH(model(ids[one : one + 1]), labels[one : one + 1]).sum(), model.embedding.weight
        )
        wanted[one] = -0.1 * gradient / 5
    updates, _ = trained(model, [torch.arange(5)], torch.optim.SGD(model.parameters(), lr=0.1))
    torch.testing.assert_close(updates.of(range(SIZE)).to_dense(30), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.01),
    ],
)
def test_shares_and_rest_add_up_to_what_moved(optimizer, sparse):
    if sparse:
        optimizer = lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)  # noqa: E731
    model = seeded(TinyCNN, padding_idx=0).eval()
    model.embedding.sparse = sparse
    ids, _, _ = toy_texts(SIZE)
    batches = in_batches(4)
    updates, tables = trained(model, batches, optimizer(model.parameters()))
    shared, rest = (torch.zeros(30, 6, dtype=torch.float64) for _ in range(2))
    for indices, before, after in zip(batches, tables, tables[1:], strict=False):  # the whole table at each step
        held = set(ids[indices].flatten().tolist()) - {0}
        for word in range(30):
            (shared if word in held else rest)[word] += (after[word] - before[word]).double()
    of_examples = updates.of(range(SIZE)).sum().to_dense(30)[0]
    torch.testing.assert_close(updates.moved, tables[-1] - tables[0], atol=0, rtol=0)
    torch.testing.assert_close(of_examples + updates.rest, updates.moved, atol=1e-6, rtol=0)
    # A word that is read but has no gradient (as under the maximum over positions) is nobody's: with 9 positions there are some.
    moved_for_nothing = (of_examples.double() - shared).abs().amax(1) > 1e-6
    assert moved_for_nothing.sum() < 10
    torch.testing.assert_close(of_examples.double()[~moved_for_nothing], shared[~moved_for_nothing], atol=1e-6, rtol=0)
    torch.testing.assert_close(updates.rest.double()[~moved_for_nothing], rest[~moved_for_nothing], atol=1e-6, rtol=0)
    assert rest.abs().max() > 1e-3


def test_rolling_everything_back_leads_to_the_first_table():
    model = seeded(TinyCNN, padding_idx=0).eval()
    updates, tables = trained(model, in_batches(4), torch.optim.AdamW(model.parameters(), lr=0.05))
    with rolled_back(model, updates, examples=range(SIZE)):
        torch.testing.assert_close(model.embedding.weight - updates.rest, tables[0], atol=1e-6, rtol=0)
    with rolled_back(model, updates, words=range(30)):
        torch.testing.assert_close(model.embedding.weight.detach(), tables[0], atol=1e-6, rtol=0)
    with rolled_back(model, updates, examples=[3], words=[int(toy_texts(SIZE)[0][3, 0])]):
        changed = (model.embedding.weight != tables[-1]).any(1).nonzero().flatten().tolist()
    assert changed in ([int(toy_texts(SIZE)[0][3, 0])], [])
    assert torch.equal(model.embedding.weight, tables[-1])


def test_a_word_that_one_example_alone_reads_moves_by_that_example():
    ids, mask, labels = toy_texts(SIZE, vocabulary=29)
    ids[2, 0] = 29
    model = seeded(Bag)
    updates, tables = trained(
        model, [torch.tensor([1, 2, 5])] * 2, torch.optim.AdamW(model.parameters(), lr=0.1), texts=(ids, mask, labels)
    )
    tokens, rows = updates.of([2])[0]
    torch.testing.assert_close(rows[tokens == 29][0], tables[-1][29] - tables[0][29], atol=1e-6, rtol=0)
    assert not len(updates.of([0])[0][0])


def test_gradients_that_cancel_still_add_up():
    model = seeded(Bag)
    text = torch.tensor([[3, 3, 4]] * 3)
    updates, tables = trained(
        model, [torch.arange(3)] * 3, torch.optim.AdamW(model.parameters(), lr=0.1), texts=(text, None, torch.arange(3))
    )
    moved = (tables[-1] - tables[0])[[3, 4]]
    torch.testing.assert_close(updates.shared[[3, 4]], moved, atol=1e-6, rtol=0)
    assert updates.of(range(3)).values.abs().max() < 100 * moved.abs().max()


@pytest.mark.parametrize("padding_idx", [0, None])
def test_padding_counts_as_autograd_has_it(padding_idx):
    model = seeded(Bag, padding_idx=padding_idx)
    updates, tables = trained(model, in_batches(4), torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1))
    padded = {one for one in range(SIZE) if 0 in toy_texts(SIZE)[0][one]}
    with_row = {one for one in range(SIZE) if 0 in updates.of([one]).ids}
    assert with_row == (set() if padding_idx == 0 else padded)
    assert padded
    if padding_idx == 0:  # weight decay moves the row all the same, were it not zero
        torch.testing.assert_close(updates.rest[0], tables[-1][0] - tables[0][0])


def test_accumulated_gradients_are_one_step():
    whole, parts = seeded(Bag), seeded(Bag)
    one, tables = trained(whole, [torch.arange(6), torch.arange(4, 10)], torch.optim.AdamW(whole.parameters(), lr=0.05))
    halves = [torch.arange(3), torch.arange(3, 6), torch.arange(4, 7), torch.arange(7, 10)]
    other, again = trained(parts, halves, torch.optim.AdamW(parts.parameters(), lr=0.05), every=2)
    torch.testing.assert_close(again[-1], tables[-1], atol=1e-5, rtol=0)
    assert other.steps == 2
    torch.testing.assert_close(other.of(range(10)).to_dense(30), one.of(range(10)).to_dense(30), atol=1e-4, rtol=0)


def test_an_example_twice_in_a_step_is_one_example():
    model = seeded(Bag)
    updates, tables = trained(model, [torch.tensor([1, 1, 4])], torch.optim.SGD(model.parameters(), lr=0.1))
    torch.testing.assert_close(updates.shared, tables[-1] - tables[0], atol=1e-6, rtol=0)


def test_texts_whose_words_change_between_epochs_are_added_up():
    ids, mask, labels = toy_texts(SIZE)
    model = seeded(Bag)
    keeper, optimizer = KeepUpdates(model, examples=SIZE), torch.optim.SGD(model.parameters(), lr=0.1)
    first, read = model.words.weight.detach().clone(), [set() for _ in range(SIZE)]
    for epoch in range(3):
        changed = (ids + epoch) % 30
        for indices in torch.arange(SIZE).split(5):
            with keeper.batch(indices):
                EACH(model(changed[indices]), labels[indices]).mean().backward()
            with keeper.step():
                optimizer.step()
            optimizer.zero_grad()
            for one in indices.tolist():
                read[one] |= set(changed[one].tolist())
    updates = keeper.updates()
    assert [set(updates.of([one]).ids.tolist()) for one in range(SIZE)] == read
    torch.testing.assert_close(updates.shared, model.words.weight.detach() - first, atol=1e-6, rtol=0)


# -------------------------------------------------------------------------------------------------------- the store


def test_a_small_memory_limit_changes_nothing(tmp_path):
    optimizer, batches = torch.optim.AdamW, in_batches(4)
    model = seeded(TinyCNN, padding_idx=0).eval()
    wanted, _ = trained(model, batches, optimizer(model.parameters(), lr=0.05))
    model = seeded(TinyCNN, padding_idx=0).eval()
    found, _ = trained(
        model, batches, optimizer(model.parameters(), lr=0.05), directory=tmp_path / "kept", memory_limit=3000
    )
    assert len(found.parts) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    again = Updates.open(tmp_path / "kept")
    wanted.save(tmp_path / "other")
    for one in (found, again, Updates.open(tmp_path / "other")):
        assert (len(one), one.steps, one.final, one.name) == (SIZE, wanted.steps, wanted.final, "embedding")
        torch.testing.assert_close(
            one.of(range(SIZE)).to_dense(30), wanted.of(range(SIZE)).to_dense(30), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(one.shared, wanted.shared, atol=1e-6, rtol=0)
        assert torch.equal(one.moved, wanted.moved)
    ids, _, labels = toy_texts(SIZE)
    torch.testing.assert_close(
        rollback_scores(model, again, (ids, labels), EACH), rollback_scores(model, wanted, (ids, labels), EACH)
    )


def test_a_training_that_fails_leaves_no_updates(tmp_path):
    model = seeded(Bag)
    keeper, _ = trained(
        model, [torch.arange(4)], torch.optim.SGD(model.parameters(), lr=0.1), directory=tmp_path / "kept", keep=False
    )
    with pytest.raises(RuntimeError, match="broken"), keeper.step():
        raise RuntimeError("broken")
    keeper.close()
    assert not model.words._forward_hooks
    del keeper
    assert list(tmp_path.iterdir()) == []


def test_what_is_damaged_is_named(tmp_path):
    model = seeded(Bag)
    trained(model, in_batches(4), torch.optim.SGD(model.parameters(), lr=0.1), directory=tmp_path / "kept")
    with pytest.raises(FileExistsError, match="[Ee]xpected a new or an empty directory"):
        KeepUpdates(model, directory=tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json in .*nowhere"):
        Updates.open(tmp_path / "nowhere")
    manifest = tmp_path / "kept" / "manifest.json"
    whole = manifest.read_text()
    for name, value in (("format", 1), ("ends", [3]), ("rows", [1]), ("checksums", {})):
        manifest.write_text(json.dumps(json.loads(whole) | {name: value}))
        with pytest.raises(ValueError, match="is damaged"):
            Updates.open(tmp_path / "kept")
    manifest.write_text(whole)
    rows = tmp_path / "kept" / "rows-00000.safetensors"
    rows.write_bytes(rows.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"rows-00000\.safetensors' is damaged"):
        Updates.open(tmp_path / "kept")
    rows.unlink()
    with pytest.raises(ValueError, match="it is not there"):
        Updates.open(tmp_path / "kept")


# -------------------------------------------------------------------------------------------------------- taking back


@pytest.fixture(scope="module")
def asked():
    """A trained model, its updates, and what it is asked."""
    model = seeded(TinyCNN, padding_idx=0)
    updates, _ = trained(model, in_batches(4, 8), torch.optim.AdamW(model.parameters(), lr=0.05))
    ids, _, labels = toy_texts(SIZE)
    return model, updates, (ids[:4], labels[:4])


def by_hand(model, table, inputs):
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        other.embedding.weight.copy_(table)
        logits = other(inputs[0])
    return EACH(logits, inputs[1]).double(), logits.double().softmax(1)[torch.arange(len(inputs[1])), inputs[1]]


def test_predictions_are_those_of_a_copy_without_the_updates(asked):
    model, updates, inputs = asked
    table = model.embedding.weight.detach()
    found = rollback(model, updates, inputs, EACH, examples=list(range(SIZE)))
    before = by_hand(model, table, inputs)
    for one in range(SIZE):
        after = by_hand(model, table - updates.of([one]).to_dense(30)[0], inputs)
        place = (found.indices == one).nonzero()[:, 1]
        rows = torch.arange(4)
        torch.testing.assert_close(found.loss_change[rows, place], after[0] - before[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.probability_change[rows, place], after[1] - before[1], atol=1e-5, rtol=0)
    assert (found.loss_change[:, :-1] >= found.loss_change[:, 1:]).all()
    words = rollback(model, updates, inputs, EACH, words=[5, 9], proponents=False)
    for i in range(4):
        for place, word in enumerate(words.indices[i].tolist()):
            first = table.clone()
            first[word] -= updates.moved[word]
            torch.testing.assert_close(
                words.loss_change[i, place], (by_hand(model, first, inputs)[0] - before[0])[i], atol=1e-5, rtol=0
            )
    assert (words.loss_change[:, 0] <= words.loss_change[:, 1]).all()


def test_the_first_order_is_the_gradient_times_the_update(asked):
    model, updates, inputs = asked
    other = copy.deepcopy(model).eval()
    losses = EACH(other(inputs[0]), inputs[1])
    dense = updates.of(range(SIZE)).to_dense(30)
    scores = rollback_scores(model, updates, inputs, EACH)
    for i in range(4):
        (gradient,) = torch.autograd.grad(losses[i], other.embedding.weight, retain_graph=True)
        torch.testing.assert_close(scores[i], -(dense * gradient).sum((1, 2)), atol=1e-6, rtol=1e-4)
    first = rollback(model, updates, inputs, EACH, k=3, exact=False)
    torch.testing.assert_close(first.first_order, scores.topk(3).values)
    assert first.loss_change is None
    last = rollback(model, updates, inputs, EACH, k=SIZE, proponents=False)
    torch.testing.assert_close(last.first_order.sort(1).values, scores.sort(1).values)
    table = last.rows()
    assert len(table) == 4 * SIZE
    assert {row["rank"] for row in table} == set(range(1, SIZE + 1))
    assert "predicted again" in str(last)
    assert len(last.to_table()) == 4 * SIZE


def test_inputs_may_be_a_loader_or_examples_and_losses_a_models_own(asked):
    model, updates, inputs = asked
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*inputs), batch_size=3)
    whole = rollback(model, updates, inputs, EACH, k=2)
    for other in (loader, torch.utils.data.TensorDataset(*inputs)):
        assert torch.equal(rollback(model, updates, other, EACH, k=2).indices, whole.indices)


class _Broken(nn.Module):
    """A loss that fails at its third call."""

    calls = 0
    reduction = "none"

    def forward(self, logits, labels):
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("broken")
        return EACH(logits, labels)


def test_the_model_is_left_as_it_was(asked):
    model, updates, inputs = asked
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    failed = 0
    for at in (1, 2, 3, 5, 8, 12, 13, 14):
        broken = _Broken()
        broken.at = at
        try:
            rollback(model, updates, inputs, broken, k=3)
        except RuntimeError:
            failed += 1
        assert model.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
    assert failed > 4

    def fails():
        with rolled_back(model, updates, examples=[0, 1]):
            assert not torch.equal(model.embedding.weight, before["embedding.weight"])
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fails()
    assert torch.equal(model.embedding.weight, before["embedding.weight"])
    assert model.training


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"examples": [SIZE]}, "expected training indices from 0 to 13 in `examples`, got 14"),
        ({"words": [30]}, "expected token ids from 0 to 29 in `words`, got 30"),
        ({"examples": [1, 1]}, "names one twice"),
        ({"examples": []}, "expected `examples` as a list"),
        ({"words": "the"}, "expected `words` as a list of token ids, got 'the'"),
        ({"examples": [1], "words": [2]}, "expected one of them"),
        ({"k": 0}, "expected `k` from 1 to the 14 training examples, got 0"),
        ({"k": 15}, "got 15"),
        ({"k": True}, "got True"),
        ({"exact": 1}, "expected `exact` as True or False, got 1"),
    ],
)
def test_bad_questions_are_refused(asked, change, match):
    model, updates, inputs = asked
    with pytest.raises((ValueError, TypeError), match=match):
        rollback(model, updates, inputs, EACH, **change)


def test_questions_that_are_none_or_empty_are_refused_by_name(asked):
    model, updates, _ = asked
    for ask in (rollback, rollback_scores):
        whose = ask.__name__
        with pytest.raises(
            TypeError, match=f"{whose}: `inputs` is None: expected test examples, a batch or a DataLoader"
        ):
            ask(model, updates, None, EACH)
        with pytest.raises(ValueError, match=f"{whose}: `inputs` is empty: expected at least one test example"):
            ask(model, updates, torch.utils.data.DataLoader([]), EACH)


class _Lost(nn.Module):
    """A loss that is NaN for the second example."""

    reduction = "none"

    def forward(self, logits, labels):
        return EACH(logits, labels) * torch.tensor([1.0, float("nan"), 1.0, 1.0])


def test_a_test_example_is_called_one_and_no_checkpoint_is_named(asked):
    model, updates, (ids, labels) = asked
    for ask in (rollback, rollback_scores):
        match = f"{ask.__name__}: the loss of test example 1 is nan: expected a finite number"
        with pytest.raises(ValueError, match=match) as caught:
            ask(model, updates, (ids, labels), _Lost())
        assert "checkpoint" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"^Test examples \[2\] have no target"):
        rollback(model, updates, (ids, torch.where(torch.arange(4) == 2, -100, labels)), EACH, k=2)


def test_logits_are_no_loss(asked):
    model, updates, inputs = asked
    for ask in (rollback, rollback_scores):
        match = rf"{ask.__name__}: `loss_fn` is None, and the model gives a tensor of shape \(4, 3\), such as logits"
        with pytest.raises(ValueError, match=match):
            ask(model, updates, inputs)


def test_without_k_there_are_ten_or_all(asked):
    model, updates, inputs = asked
    assert rollback(model, updates, inputs, EACH, exact=False).indices.shape == (4, 10)
    few = seeded(Bag)
    texts = tuple(part[:3] for part in toy_texts(SIZE))
    kept, _ = trained(few, [torch.arange(3)], torch.optim.SGD(few.parameters(), lr=0.3), texts=texts)
    assert rollback(few, kept, inputs, EACH).indices.shape == (4, 3)


def test_within_a_model_that_is_rolled_back_it_says_so(asked):
    model, updates, inputs = asked
    with rolled_back(model, updates, examples=[0]):
        with pytest.raises(ValueError, match=r"rollback: called within `with rolled_back\(...\)` of the same model"):
            rollback(model, updates, inputs, EACH, k=2)
        with pytest.raises(ValueError, match=r"rolled_back: called within `with rolled_back\(...\)`"):
            rolled_back(model, updates, examples=[1]).__enter__()
    rollback(model, updates, inputs, EACH, k=2)


def test_updates_of_an_array(asked):
    _, updates, _ = asked
    assert torch.equal(updates.of(np.array([1, 3])).values, updates.of([1, 3]).values)
    for odd in ("1", {1}, 1, np.array(1)):
        with pytest.raises(TypeError, match=r"Updates\.of: expected a list of training examples"):
            updates.of(odd)
    with pytest.raises(IndexError, match="from 0 to 13, got 14"):
        updates.of(np.array([14]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label_names": 3}, "rollback: expected `label_names` as a name or a list of names, got 3"),
        ({"label_names": [3]}, "expected `label_names`"),
        ({"label_names": None}, "expected `label_names`"),
        ({"collate_fn": 3}, "rollback: expected `collate_fn` as a function"),
        (
            {"examples": torch.tensor([1]).to_sparse()},
            "rollback: expected `examples` as a list of training indices, got",
        ),
        ({"words": torch.tensor([1j])}, "rollback: expected `words` as a list of token ids, got"),
    ],
)
def test_arguments_of_other_types_are_refused(asked, change, match):
    model, updates, inputs = asked
    with pytest.raises(TypeError, match=match):
        rollback(model, updates, inputs, EACH, **change)
    with pytest.raises(TypeError, match="rolled_back: expected `examples` as a list of training indices, got 3"):
        rolled_back(model, updates, examples=3).__enter__()


def test_random_numbers_are_those_that_would_have_come(asked):
    model, updates, inputs = asked
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*inputs), batch_size=3)
    before = torch.get_rng_state()
    for given in (inputs, loader, torch.utils.data.TensorDataset(*inputs)):
        rollback(model, updates, given, EACH, k=2)
        rollback_scores(model, updates, given, EACH)
        assert torch.equal(torch.get_rng_state(), before)


def test_another_table_is_refused(asked):
    model, updates, inputs = asked
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.embedding.weight[3] += 1e-4
    for ask in (
        lambda: rollback(other, updates, inputs, EACH),
        lambda: rollback_scores(other, updates, inputs, EACH),
        lambda: rolled_back(other, updates, examples=[1]).__enter__(),
    ):
        with pytest.raises(ValueError, match="is not the one that training left"):
            ask()
    with pytest.raises(TypeError, match="[Ee]xpected `updates` as Updates, got str"):
        rollback(model, "kept", inputs, EACH)
    with pytest.raises(ValueError, match="[Ee]xpected `examples`, `words` or both"), rolled_back(model, updates):
        pass
    with pytest.raises(IndexError, match="[Ee]xpected training examples from 0 to 13, got 99"):
        updates.of([99])


# ------------------------------------------------------------------------------------------------------ bad trainings


def test_tables_that_move_for_other_reasons_are_refused():
    frozen = Bag()
    frozen.words.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="is not trained itself"):
        KeepUpdates(frozen)
    with pytest.raises(ValueError, match=r"is tied to 'lm_head'"):
        KeepUpdates(tiny_gpt2(tied=True))
    assert KeepUpdates(tiny_gpt2(tied=False)) is not None
    with pytest.raises(ValueError, match=r"nn\.EmbeddingBag"):
        KeepUpdates(nn.Sequential(nn.EmbeddingBag(9, 3), nn.Linear(3, 2)))
    with pytest.raises(TypeError, match=r"[Ee]xpected a torch\.nn\.Module, got str"):
        KeepUpdates("model")
    with pytest.raises(ValueError, match="[Ee]xpected `examples` as the number"):
        KeepUpdates(Bag(), examples=0)


def test_steps_out_of_order_are_refused():
    ids, _, labels = toy_texts(SIZE)
    model = seeded(Bag)
    with pytest.raises(RuntimeError, match="it has no model yet"), KeepUpdates().batch([0]):
        pass
    keeper = KeepUpdates(model, examples=SIZE)
    with pytest.raises(RuntimeError, match="words of nobody"):
        EACH(model(ids[:2]), labels[:2]).mean().backward()
    with (
        pytest.raises(ValueError, match=r"2 training indices.*[Ee]xpected one index for each example"),
        keeper.batch([0, 1]),
    ):
        model(ids[:3])
    with pytest.raises(ValueError, match="training index 14"), keeper.batch([0, 14]):
        pass
    with pytest.raises(ValueError, match="whole numbers from 0, got"), keeper.batch([0.5]):
        pass
    with keeper.batch([0, 1]):
        EACH(model(ids[:2]), labels[:2]).mean().backward()
    with pytest.raises(RuntimeError, match="words of nobody"):  # the batch is over
        EACH(model(ids[:2]), labels[:2]).mean().backward()
    with pytest.raises(RuntimeError, match="[Ee]xpected before_step"):
        keeper.after_step()
    keeper.before_step()
    with pytest.raises(RuntimeError, match="called twice"):
        keeper.before_step()
    keeper.after_step()
    with torch.no_grad():
        model(ids[:3])  # an evaluation on the way
    keeper.updates()
    assert keeper.updates() is keeper.updates()
    with pytest.raises(RuntimeError, match="its training has ended"), keeper.step():
        pass


def test_a_move_that_is_not_finite_is_refused():
    model = seeded(Bag)
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    with pytest.raises(ValueError, match="step 1 moved rows of the embedding by"):
        trained(model, [torch.arange(4)], optimizer)


# ------------------------------------------------------------------------------------------------ transformers' Trainer


def in_a_trainer(folder, callbacks, **changes):
    from transformers import Trainer, TrainingArguments

    ids, mask, labels = toy_texts(11)
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 5e-2, "weight_decay": 0.1, "report_to": [],
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "seed": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = tiny_bert()
    first = model.get_input_embeddings().weight.detach().clone()
    arguments = TrainingArguments(str(folder), **{**settings, **changes})
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=callbacks)
    trainer.train()
    return model, first, rows


@pytest.mark.parametrize(
    "changes", [{}, {"gradient_accumulation_steps": 2}, {"dataloader_drop_last": True, "eval_strategy": "epoch"}]
)
def test_a_trainer_is_watched_from_its_first_step_to_its_last(tmp_path, changes):
    keeper = KeepUpdates(directory=tmp_path / "updates")
    model, first, rows = in_a_trainer(tmp_path / "run", [keeper], **changes)
    plain, _, _ = in_a_trainer(tmp_path / "plain", [], **changes)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert not model._forward_pre_hooks
    assert not model.get_input_embeddings()._forward_hooks
    updates = Updates.open(tmp_path / "updates")
    assert len(updates) == 11
    for one, row in enumerate(rows):  # whose words they are: each example has moved its own rows
        assert set(updates.of([one]).ids.tolist()) == set(row["input_ids"].tolist()) - {0}
    table = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(updates.moved, table - first, atol=0, rtol=0)
    shared = updates.of(range(11)).sum().to_dense(30)[0]
    torch.testing.assert_close(first + shared + updates.rest, table, atol=1e-6, rtol=0)
    batch = {name: torch.stack([row[name] for row in rows[:3]]) for name in rows[0]}
    found = rollback(model, updates, batch, EACH, k=2)
    assert (found.loss_change[:, 0] >= found.loss_change[:, 1]).all()
    with pytest.raises(ValueError, match="it has kept a training already"):
        in_a_trainer(tmp_path / "again", [keeper])


def test_a_trainer_that_cannot_be_followed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="load_best_model_at_end=True, which puts an earlier table back"):
        in_a_trainer(
            tmp_path, [KeepUpdates()], load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch"
        )
    for one in sorted(Path(tmp_path).rglob("*")):
        assert "runs" not in one.name


# --------------------------------------------------------------------------------------------------------- evidence


@pytest.mark.skipif(
    not (FOLDER.is_dir() and (DATA / "ag_news").is_dir()), reason="benchmarks or data sets are not here"
)
def test_the_evidence_is_made_and_becomes_a_table(script, tmp_path, monkeypatch):
    from captum_tracinwe.evidence.evaluation import bootstrap

    monkeypatch.setitem(bootstrap.__kwdefaults__, "draws", 200)
    common = ["--preset", "smoke", "--seeds", "1", "--workers", "1"]
    script("rollback").main([*common, "--data", str(DATA), "--out", str(tmp_path)])
    content = json.loads((tmp_path / "rollback-ag_news-cnn-smoke.json").read_text())
    assert content["of the updates"][0]["the same model"]
    assert "/" not in json.dumps(content)
    table = script("rollback").table(content)
    assert "| Gradient Rollback |" in table
    assert "nan" not in table
