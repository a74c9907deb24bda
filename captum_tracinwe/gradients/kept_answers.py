"""A classifier's answers as an index holds them: its bag-of-words rows are counts times the error at the logits, p − y."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_tracinwe.batches.batch import Batch, labels_of, size_of
from captum_tracinwe.batches.blocks import Block
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.answers import Beliefs, answers_to, labels_of_classes
from captum_tracinwe.gradients.batch_tokens import TokenPass
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.source import RowSource
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["kept_answers"]

# Errors at the logits add up to 0. Rows in float32 do so to this; those that were kept in halves do not.
EXACT = 1e-4
SMALLEST = 1e-7


def kept_answers(source: RowSource, live_source: LiveSource) -> Beliefs | None:
    """The same as :func:`answers_of` without a forward pass through the model, where stored rows tell them; None: they do not.

    They do where the rows of a bag of words are kept whole, in float32, the loss is plain cross-entropy, and the training set's
    words are those of the rows. Probabilities are then known to some 1e-6.
    """
    live = live_source.live
    if not _told_by_rows(source, live_source):
        return None
    with live.weights.untouched():
        rates = torch.tensor([live.weights.at(checkpoint) for checkpoint in live.weights.checkpoints])
    if not bool((rates > 0).all()):
        return None
    words = TokenPass(
        *(live.weights.model, live.table, live_source.loss_fn, live.exclude_tokens, live.within, live.label_names),
        live.tables,
        counted=True,
    )
    read, batches, start = [], [], 0
    with live.weights.untouched():
        for batch in reading(live_source.examples.loader, "train_dataset"):
            read.append(words(batch).to("cpu"))
            batches.append((batch, start))
            start += size_of(batch)
    counts = RowGradients.cat(read)
    places = live_source.examples.places()
    counts = counts if places is None else counts.select(places)
    found = _errors(source, counts, len(rates), live_source)
    if found is None:
        return None
    errors = found / rates.double().sqrt()[:, None]
    classes = errors.shape[2]
    labels = torch.cat(
        [
            labels_of_classes(labels_of(batch, live.label_names), classes, size_of(batch), live_source.asked, at)
            for batch, at in batches
        ]
    )
    labels = labels if places is None else labels[places]
    told = errors + nn.functional.one_hot(labels, classes).double()[:, None]
    if float(errors.sum(2).abs().max()) > EXACT or float(told.min()) < -EXACT or float(told.max()) > 1 + EXACT:
        return None
    kept = Beliefs(told.clamp_min(SMALLEST).log().mean(1), labels, told[:, 0].argmax(1))
    return kept if _says_so(live_source, batches[0][0], kept) else None


def _says_so(live_source: LiveSource, batch: Batch, kept: Beliefs) -> bool:
    """Whether the model, asked about the first batch, answers as its rows tell: not if it ends in a softmax of its own."""
    block = Block(0, size_of(batch), [batch])
    asked = answers_to(live_source.live, block, live_source.asked)
    there = torch.tensor([live_source.examples.index_of(place) for place in range(block.size)])
    found, expected = kept.log_probabilities[there].exp(), asked.log_probabilities.exp()
    return torch.equal(kept.labels[there], asked.labels) and bool((found - expected).abs().max() < EXACT)


def _told_by_rows(source: RowSource, live_source: LiveSource) -> bool:
    live, loss = live_source.live, live_source.loss_fn
    # A class that is left out has no error.
    plain = isinstance(loss, nn.CrossEntropyLoss) and not loss.label_smoothing and loss.ignore_index < 0
    plain = plain and getattr(loss, "weight", None) is None
    model = unwrap(live.weights.model)
    problem = getattr(getattr(model, "config", None), "problem_type", "")
    of_transformers = type(model).__module__.startswith("transformers.") and problem in (
        None,
        "single_label_classification",
    )
    own = loss is None and of_transformers
    shares = dict(zip(live.tables.names, live.tables.shares, strict=True))
    whole = not isinstance(source, LiveSource) and source.indices is None and live.top_k_words is None
    whole = whole and not live_source.examples.sorts
    return whole and (plain or own) and shares.get("bag") == 1


def _errors(source: RowSource, counts: RowGradients, checkpoints: int, live_source: LiveSource) -> Tensor | None:
    """√η · (p − y), float64 ``(N, C, K)``: Σ over a text's words of its rows, over Σ of its counts; None if words differ."""
    parts, ids, lengths = [], [], []
    for rows in source.row_blocks():
        width = rows.width // checkpoints
        columns = live_source.live.widths(width)[live_source.live.tables.names.index("bag")]
        if columns < 2:
            return None
        kept = rows.values.view(rows.num_rows, checkpoints, width)[:, :, width - columns :]
        sums = torch.zeros((len(rows), checkpoints, columns), dtype=torch.float64)
        parts.append(sums.index_add_(0, rows.examples, kept.double()))
        ids.append(rows.ids)
        lengths.append(rows.ptr.diff())
    if not torch.equal(torch.cat(lengths), counts.ptr.diff()) or not torch.equal(torch.cat(ids), counts.ids):
        return None
    often = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, counts.examples, counts.values[:, 0].double())
    return torch.cat(parts) / often[:, None, None] if bool((often > 0).all()) else None
