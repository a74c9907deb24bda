"""Which tokens the model reads of the training texts; of the words of whole texts see words/near.py."""

from __future__ import annotations

from dataclasses import replace

import torch

from captum_tracinwe.preconditioners.text_gram import Occurrences
from captum_tracinwe.words.explained import Explained

__all__ = ["occurrences_of"]


def occurrences_of(tracin: Explained) -> Occurrences:
    """Which tokens stand in which training texts, by training index; all of them, for ``top_k_words`` goes by the label."""
    source = tracin.live_source
    source = replace(source, live=replace(source.live, top_k_words=None))
    blocks = [
        Occurrences(rows.ptr.diff().cpu().int(), rows.ids.cpu().int(), 1, 0) for rows in source.row_blocks(values=False)
    ]
    found = blocks[0]
    for other in blocks[1:]:
        found = found.merge(other)
    places = tracin.live_source.examples.places()
    if places is None:
        return found
    starts = found.counts.long().cumsum(0) - found.counts
    ids = [
        found.ids[start : start + count]
        for start, count in zip(starts[places].tolist(), found.counts[places].tolist(), strict=True)
    ]
    return Occurrences(found.counts[places], torch.cat(ids), 1, 0)
