"""RowGradients: what it refuses, and that folding, joining and choosing keep the sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_tracinwe import RowGradients


def rows_of(*examples, width=3, dtype=torch.float64):
    """RowGradients from one {token: row} dict per example, rows filled at random where None."""
    ptr, ids, values = [0], [], []
    for example in examples:
        for token in sorted(example):
            ids.append(token)
            values.append(torch.randn(width) if example[token] is None else torch.tensor(example[token]))
        ptr.append(len(ids))
    stacked = torch.stack(values).to(dtype) if values else torch.zeros(0, width, dtype=dtype)
    return RowGradients(torch.tensor(ptr), torch.tensor(ids, dtype=torch.int64), stacked)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_repeats_of_a_token_are_summed(positions):
    examples = torch.tensor([e for e, _ in positions], dtype=torch.int64)
    ids = torch.tensor([t for _, t in positions], dtype=torch.int64)
    values = torch.randn(len(positions), 2, dtype=torch.float64)
    rows = RowGradients.from_positions(examples, ids, values, 5)
    expected = torch.zeros(5, 7, 2, dtype=torch.float64)
    for (example, token), value in zip(positions, values, strict=True):
        expected[example, token] += value
    torch.testing.assert_close(rows.to_dense(7), expected)
    assert rows.num_rows == len(set(positions))
    assert len(rows) == 5


def test_a_part_is_what_select_gives_and_copies_no_values():
    rows = rows_of({1: None, 3: None}, {}, {2: None}, {0: None, 2: None, 5: None})
    for start in range(5):
        for stop in range(start, 5):
            part, chosen = rows.part(start, stop), rows.select(range(start, stop))
            for name in ("ptr", "ids", "values"):
                assert torch.equal(getattr(part, name), getattr(chosen, name))
            assert (
                not len(part.values)
                or part.values.untyped_storage().data_ptr() == rows.values.untyped_storage().data_ptr()
            )
    for start, stop in ((-1, 2), (2, 1), (0, 5)):
        with pytest.raises(IndexError, match="[Ee]xpected a range within the 4 examples, got"):
            rows.part(start, stop)


def test_cat_select_sum_and_exclude_agree_with_dense_tensors():
    a, b = rows_of({1: None, 4: None}, {}), rows_of({0: None}, {4: None, 5: None})
    both = RowGradients.cat([a, b])
    dense = torch.cat([a.to_dense(6), b.to_dense(6)])
    torch.testing.assert_close(both.to_dense(6), dense)
    torch.testing.assert_close(both.select([3, 0, 3]).to_dense(6), dense[[3, 0, 3]])
    torch.testing.assert_close(both.sum().to_dense(6), dense.sum(0, keepdim=True))
    without = dense.clone()
    without[:, [4, 0]] = 0
    torch.testing.assert_close(both.exclude([4, 0]).to_dense(6), without)
    assert both.exclude([4, 0]).num_rows == 2
    torch.testing.assert_close(both.scale(-2.0).to_dense(6), -2 * dense)
    torch.testing.assert_close(both.columns(1, 3).to_dense(6), dense[:, :, 1:3])


def test_dot_and_norms_agree_with_dense_tensors():
    a, b = rows_of({1: None, 4: None}, {}), rows_of({1: None}, {2: None}, {4: None, 1: None})
    torch.testing.assert_close(a.dot(b), a.to_dense(6).flatten(1) @ b.to_dense(6).flatten(1).T)
    torch.testing.assert_close(b.squared_norms(), torch.diagonal(b.dot(b)))
    torch.testing.assert_close(b.norms(), b.values.norm(dim=1))
    pair, token, term = a.terms(b, torch.tensor([[0, 2], [1, 2], [0, 0]]))
    assert (pair.tolist(), token.tolist()) == ([0, 0, 2], [1, 4, 1])
    torch.testing.assert_close(term[:2].sum(), a.dot(b)[0, 2])


def test_reading_one_example():
    rows = rows_of({1: None, 4: None}, {}, {2: None})
    assert rows[0][0].tolist() == [1, 4]
    assert rows[-1][0].tolist() == [2]
    assert rows[1][1].shape == (0, 3)
    assert rows.nbytes == 8 * (4 + 3 + 9)
    with pytest.raises(IndexError, match="3 of 3"):
        rows[3]
    assert rows.to(dtype=torch.float32).values.dtype == torch.float32


def test_beside_refuses_data_in_another_order():
    a = rows_of({1: None}, {2: None})
    assert RowGradients.beside([a, a]).width == 6
    with pytest.raises(ValueError, match="same order"):
        RowGradients.beside([a, a.select([1, 0])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.tensor([4, 1, 2])}, "ascend"),
        ({"ids": torch.tensor([1, 1, 2])}, "ascend"),
        ({"ids": torch.tensor([-1, 4, 2])}, "not negative"),
        ({"ids": torch.tensor([1, 4])}, "one entry of ids for each row"),
        ({"ids": torch.tensor([1.0, 4.0, 2.0])}, "int64"),
        ({"ids": torch.tensor([[1, 4, 2]])}, "1 dimension"),
        ({"ptr": torch.tensor([0, 2, 4])}, "0 to the number of rows"),
        ({"ptr": torch.tensor([0, 3, 2, 3])}, "never to fall"),
        ({"ptr": torch.tensor([], dtype=torch.int64)}, "at least one entry"),
        ({"ptr": torch.tensor([0, 2, 3], dtype=torch.int32)}, "int64"),
        ({"values": torch.zeros(3)}, "rows, columns"),
        ({"values": torch.zeros(3, 2, dtype=torch.int64)}, "float32"),
        ({"values": torch.zeros(3, 2, device="meta")}, "one device"),
    ],
)
def test_inconsistent_parts_are_refused(change, message):
    parts = {"ptr": torch.tensor([0, 2, 3]), "ids": torch.tensor([1, 4, 2]), "values": torch.zeros(3, 2)}
    RowGradients(**parts)
    with pytest.raises(ValueError, match=message):
        RowGradients(**(parts | change))


def test_other_misuse_is_refused():
    rows = rows_of({1: None}, {2: None})
    with pytest.raises(ValueError, match="at least one part"):
        RowGradients.cat([])
    with pytest.raises(IndexError, match="0 to 1"):
        rows.select([2])
    for wrong in ([0.7], torch.tensor([True, False]), torch.tensor([[0]])):
        with pytest.raises(ValueError, match="[Ee]xpected whole numbers"):
            rows.select(wrong)
        with pytest.raises(ValueError, match="[Ee]xpected whole numbers"):
            rows.exclude(wrong)
    with pytest.raises(ValueError, match="at least one part"):
        RowGradients.beside([])
    with pytest.raises(ValueError, match="parts of one width"):
        RowGradients.cat([rows, rows.columns(0, 2)])
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="examples from 0 to 0, got 5 to 5"):
        RowGradients.from_positions(one + 5, one, torch.zeros(1, 2), 1)
    with pytest.raises(ValueError, match=r"values \(P, D\)"):
        RowGradients.from_positions(one, one, torch.zeros(2, 2), 1)
    with pytest.raises(ValueError, match="below the vocabulary"):
        rows.to_dense(2)
    with pytest.raises((ValueError, RuntimeError), match="same width"):
        rows.dot(rows.columns(0, 2))
    with pytest.raises((ValueError, RuntimeError), match="same dtype"):
        rows.dot(rows.to(dtype=torch.float32))
