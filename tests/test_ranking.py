"""Top-k: the order of equal scores, and blocks against the whole."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_tracinwe.rows.ranking import merge_top_k, top_k


def best_by_sorting(row, k, highest):
    order = sorted(range(len(row)), key=lambda j: (-row[j] if highest else row[j], j))
    return order[:k]


@given(
    st.lists(st.integers(-2, 2), min_size=1, max_size=12),
    st.integers(1, 15),
    st.booleans(),
    st.integers(1, 12),
)
@settings(max_examples=300, deadline=None)
def test_equal_scores_rank_by_index_whole_and_in_blocks(row, k, highest, cut):
    scores = torch.tensor([row, row[::-1]], dtype=torch.float32)
    indices, values = top_k(scores, k, highest)
    assert indices.tolist() == [best_by_sorting(r, k, highest) for r in scores.tolist()]
    torch.testing.assert_close(values, scores.gather(1, indices))
    blocks = scores.split(cut, dim=1)
    best, start = None, 0
    for block in blocks:
        found_indices, found_values = top_k(block, k, highest)
        found = (found_indices + start, found_values)
        best = found if best is None else merge_top_k(best, found, k, highest)
        start += block.shape[1]
    assert best[0].tolist() == indices.tolist()
    assert best[1].tolist() == values.tolist()
