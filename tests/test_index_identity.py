"""What an index is of: losses told apart by all that makes them; embedding, padding and config; projections."""

import functools

import pytest
import torch
from cases import cnn
from index_cases import random_rows
from torch import nn

from captum_tracinwe import GradientIndex, IndexMismatch, TracInWE
from captum_tracinwe.app.testing import language_model_loss, scatter_checkpoints, tiny_bert
from captum_tracinwe.gradients import TokenLoss, span_loss
from captum_tracinwe.index.identity.loss import describe_loss

SCALE = 2.0


def scaled(prediction, labels, *, by=1.0):
    return by * nn.functional.cross_entropy(prediction, labels, reduction="none")


def nested(sign):
    return lambda p, y: [sign * one for one in (lambda: scaled(p, y))()]


class Weighted(nn.Module):
    def __init__(self, hidden=1.0, weight=1.0, label_smoothing=0.0):
        super().__init__()
        self._hidden = hidden
        self.register_buffer("weight", torch.tensor(weight), persistent=False)
        self.inner = nn.CrossEntropyLoss(reduction="none", label_smoothing=label_smoothing)

    def forward(self, prediction, labels):
        return self._hidden * self.weight * self.inner(prediction, labels)


class Scaling:
    def __init__(self, by):
        self.by = by

    def loss(self, prediction, labels):
        return self.by * scaled(prediction, labels)


def with_default(by):
    def loss(prediction, labels, by=by):
        return scaled(prediction, labels, by=by)

    return loss


def code(text):
    return eval(text, {"scaled": scaled, "SCALE": SCALE})


@pytest.mark.parametrize(
    ("make", "one", "two"),
    [
        (lambda start: TokenLoss(start=start), None, -1),
        (lambda shift: TokenLoss(shift=shift), True, False),
        (lambda by: functools.partial(scaled, by=by), 1.0, 2.0),
        (lambda by: functools.partial(functools.partial(scaled), by=by), 1.0, 2.0),
        (lambda by: lambda p, y: scaled(p, y) * by, 1.0, 2.0),
        (lambda by: lambda p, y: scaled(p, y) * by, torch.ones(3), torch.zeros(3)),
        (lambda by: lambda p, y: scaled(p, y) * by["a"][0], {"a": [1]}, {"a": [2]}),
        (with_default, 1.0, 2.0),
        (nested, 1.0, -1.0),
        (code, "lambda p, y: scaled(p, y) + 1", "lambda p, y: scaled(p, y) - 1"),
        (code, "lambda p, y: scaled(p, y) * 2", "lambda p, y: scaled(p, y) * 3"),
        (code, "lambda p, y: (lambda: 2)() * scaled(p, y)", "lambda p, y: (lambda: 3)() * scaled(p, y)"),
        (lambda by: eval("lambda p, y: by * p", {"by": by}), 1.0, 2.0),
        (lambda by: Weighted(hidden=by), 1.0, 2.0),
        (lambda by: Weighted(weight=by), 1.0, 2.0),
        (lambda by: Weighted(label_smoothing=by), 0.0, 0.1),
        (lambda by: Scaling(by).loss, 1.0, 2.0),
        (lambda by: torch.tensor(by).mul, 1.0, 2.0),
        (lambda by: nn.CrossEntropyLoss(torch.tensor([by, 1.0]), reduction="none"), 1.0, 2.0),
        (lambda by: nn.CrossEntropyLoss(reduction=by), "none", "sum"),
    ],
)
def test_a_loss_is_described_by_all_that_makes_it(make, one, two):
    assert describe_loss(make(one)) == describe_loss(make(one))
    assert describe_loss(make(one)) != describe_loss(make(two))
    assert len(describe_loss(make(one))) < 200


def test_a_class_is_described_by_its_code():
    def variant(by):
        class Loss(nn.Module):
            def forward(self, prediction, labels):
                return by * super().forward(prediction, labels)

        return Loss()

    assert describe_loss(variant(1)) == describe_loss(variant(1))
    assert describe_loss(variant(1)) != describe_loss(variant(2))


def test_the_model_within_a_loss_stands_for_itself():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)

    def loss_of(model):
        return lambda p, y: p + model.weight.sum()

    assert describe_loss(loss_of(a), a) == describe_loss(loss_of(b), b)
    assert describe_loss(loss_of(a)) != describe_loss(loss_of(b))


def test_what_cannot_be_described_is_refused(tmp_path):
    case, thing = cnn(), object()
    checkpoints = scatter_checkpoints(case.model, tmp_path)

    def loss(prediction, labels):
        return scaled(prediction, labels) if thing else None

    tracin = TracInWE(case.model, case.dataset(), checkpoints, loss_fn=loss, batch_size=2)
    message = r"captured 'thing' is a object, .*nn.CrossEntropyLoss\(reduction=\"none\"\), or a function without"
    with pytest.raises(ValueError, match=message):
        tracin.build_index(tmp_path / "i")
    assert not (tmp_path / "i").exists()
    TracInWE(case.model, case.dataset(), checkpoints, loss_fn=case.loss, batch_size=2).build_index(tmp_path / "i")
    with pytest.raises(ValueError, match=message):
        TracInWE(case.model, None, checkpoints, loss_fn=loss, index=tmp_path / "i")


def test_padding_and_layer_count(tmp_path):
    case = cnn()
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    tracin = TracInWE(case.model, case.dataset(), checkpoints, loss_fn=case.loss, batch_size=2)
    index = tracin.build_index(tmp_path / "i")
    assert index.manifest.source.embedding == case.layer
    before = tracin.embedding.module.padding_idx
    tracin.embedding.module.padding_idx = 7
    with pytest.raises(IndexMismatch, match=f"padding_idx: {before} here, 7 there"):
        TracInWE(case.model, None, checkpoints, loss_fn=case.loss, index=index)


def test_the_config_counts_as_far_as_it_computes(tmp_path):
    from captum_tracinwe.index.identity.source import _config_hash

    model = tiny_bert()
    found = _config_hash(model)
    model.config.problem_type, model.config._name_or_path = "single_label_classification", "elsewhere"
    assert _config_hash(model) == found
    model.config.hidden_act = "relu"
    assert _config_hash(model) != found
    assert _config_hash(nn.Linear(1, 1)) == ""


def test_leading_columns_are_not_the_rows_themselves(tmp_path):
    rows = random_rows(20)
    plain = GradientIndex.from_rows(tmp_path / "a", rows, rank=3)
    other = GradientIndex.from_rows(tmp_path / "b", rows, rank=3, project=rows.width - 1)
    with pytest.raises(IndexMismatch, match=f"project: None here, {rows.width - 1} there"):
        plain.merge(other)


def test_resume_compares_the_projection(tmp_path):
    case = cnn()
    checkpoints = scatter_checkpoints(case.model, tmp_path)
    tracin = TracInWE(case.model, case.dataset(), checkpoints, loss_fn=case.loss, batch_size=2)
    tracin.build_index(tmp_path / "i", rank=3)
    width = tracin.embedding.weight.shape[1] - 1
    with pytest.raises(IndexMismatch, match=f"project: None here, {width} there"):
        tracin.build_index(tmp_path / "i", resume=True, rank=3, project=width)


def test_a_loss_of_this_package_has_the_name_by_which_the_first_indexes_know_it():
    """Wherever its module has moved since; the digests are those of version 0.1.0."""
    assert describe_loss(span_loss) == "captum_tracinwe.losses.span_loss(sha256 be845d9a507c4b29)"
    assert describe_loss(functools.partial(span_loss)) == "captum_tracinwe.losses.span_loss(sha256 8ab7395ae52f4b9b)"
    assert describe_loss(language_model_loss) == "captum_tracinwe.testing.language_model_loss(sha256 f3046420b9ecf478)"


def test_losses_of_language_models_are_told_apart_by_their_settings():
    known = [
        describe_loss(TokenLoss(**options)) for options in ({}, {"shift": False}, {"start": 3}, {"reduction": "mean"})
    ]
    assert len(set(known)) == len(known)
    assert describe_loss(TokenLoss(start=3)) == known[2]
