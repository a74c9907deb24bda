"""TracIn-WE-Topk: the k positions of largest gradient, by its definition in plain loops."""

import pytest
import torch
from torch.utils.data import TensorDataset

from captum_tracinwe import RowGradients, TracInWE, word_report
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.checkpoints.weights import load_checkpoint

LOSS = torch.nn.CrossEntropyLoss(reduction="none")


@pytest.fixture(params=[None, 0], ids=["no padding_idx", "padding_idx"])
def explained(request, tmp_path):
    (ids, _, labels), (test_ids, _, test_labels) = toy_texts(11, seed=1), toy_texts(4, seed=2)
    model = TinyCNN(padding_idx=request.param).double()
    paths = scatter_checkpoints(model, tmp_path)

    def make(**options):
        return TracInWE(model, TensorDataset(ids, labels), paths, loss_fn=LOSS, **{"batch_size": 4, **options})

    return make, model, paths, (ids, labels), (test_ids, test_labels)


def rows_by_loop(model, ids, label, k, exclude=()):
    """Token → gradient of one example, of the k strongest positions: one autograd call, one Python loop."""
    leaf = model.embedding(ids[None]).detach().requires_grad_()
    hook = model.embedding.register_forward_hook(lambda *_: leaf)
    loss = LOSS(model(ids[None]), label[None]).sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, [leaf])
    gradient = gradient.reshape(-1, gradient.shape[-1])
    banned = {model.embedding.padding_idx, *exclude}
    positions = [p for p in range(len(ids)) if int(ids[p]) not in banned]
    strongest = sorted(positions, key=lambda p: (-float(gradient[p].norm()), p))[:k]
    rows = {}
    for p in strongest:
        rows[int(ids[p])] = rows.get(int(ids[p]), 0) + gradient[p]
    return rows


def scores_by_loop(model, paths, train, test, k, exclude=()):
    scores = torch.zeros(len(test[0]), len(train[0]), dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()
    for path in paths:
        rate = load_checkpoint(model, path)
        tables = [
            [rows_by_loop(model, side[0][i], side[1][i], k, exclude) for i in range(len(side[0]))]
            for side in (test, train)
        ]
        for i, a in enumerate(tables[0]):
            for j, b in enumerate(tables[1]):
                scores[i, j] += rate * sum(float(a[token] @ b[token]) for token in a.keys() & b.keys())
    model.load_state_dict(before)
    return scores


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("exclude", [(), (3, 7)])
def test_scores_are_those_of_the_k_strongest_positions(explained, k, exclude):
    make, model, paths, train, test = explained
    expected = scores_by_loop(model, paths, train, test, k, exclude)
    for size in (1, 4, 11):
        tracin = make(top_k_words=k, exclude_tokens=exclude, batch_size=size)
        torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-9, atol=1e-12)


def test_every_way_to_the_scores_agrees(explained):
    make, _, _, _, test = explained
    tracin = make(top_k_words=2)
    scores = tracin.influence(test)
    torch.testing.assert_close(tracin.row_gradients(test).dot(tracin.row_gradients()), scores)
    dense = tracin.compute_intermediate_quantities(test, test=True)
    train = tracin.compute_intermediate_quantities(next(iter(make(batch_size=11).train_dataloader)))
    torch.testing.assert_close(dense @ train.T, scores)
    pairs = tracin.word_influence(test, [list(range(11))] * 4, per_checkpoint=True)
    shares = torch.tensor([[pair.score for pair in row] for row in pairs], dtype=torch.float64)
    torch.testing.assert_close(shares, scores)
    torch.testing.assert_close(tracin.self_influence(), tracin.row_gradients().squared_norms())
    report = word_report(tracin, test, list(range(11)))
    assert report.score == pytest.approx(float(scores.sum()), rel=1e-9)


def test_as_many_words_as_positions_is_plain_tracin_we(explained):
    make, _, _, _, test = explained
    torch.testing.assert_close(make(top_k_words=9).influence(test), make().influence(test))


def test_rows_of_different_tokens_are_united_with_zeros():
    first = RowGradients(torch.tensor([0, 2, 2]), torch.tensor([1, 2**40]), torch.tensor([[1.0], [2.0]]))
    second = RowGradients(torch.tensor([0, 1, 2]), torch.tensor([5, 1]), torch.tensor([[3.0], [4.0]]))
    both = RowGradients.beside([first, second], union=True)
    assert both.ptr.tolist() == [0, 3, 4]
    assert both.ids.tolist() == [1, 5, 2**40, 1]
    assert both.values.tolist() == [[1, 0], [0, 3], [2, 0], [0, 4]]
    with pytest.raises(ValueError, match="parts of 2 examples, got \\[2, 1\\]"):
        RowGradients.beside([first, first.select([0])], union=True)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_a_k_that_is_none_is_refused(explained, k):
    with pytest.raises(ValueError, match="`top_k_words` should be a whole number of at least 1"):
        explained[0](top_k_words=k)
