"""Which words the training texts say: a person's, of the whole texts, or the tokens that the model reads of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import torch

from captum_tracinwe.preconditioners.text_gram import Occurrences
from captum_tracinwe.words.explained import Explained

__all__ = ["occurrences_in", "occurrences_of"]

# Of languages that write no blanks between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese) a character is a word.
ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Else letters and digits in a row.
WORD = re.compile(rf"[{ALONE}]|\w+?(?=[{ALONE}]|\b)")


def occurrences_in(texts: Iterable[str]) -> Occurrences:
    """Which words stand in which texts, whatever their case; a word's number is of no meaning."""
    numbers: dict[str, int] = {}
    counts, ids = [], []
    for text in texts:
        held = sorted({numbers.setdefault(word, len(numbers)) for word in WORD.findall(text.casefold())})
        counts.append(len(held))
        ids += held
    return Occurrences(torch.tensor(counts, dtype=torch.int32), torch.tensor(ids, dtype=torch.int32), 1, 0)


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
