"""What a classifier answers to texts, beside their labels: to those of training at its checkpoints, to others as it is now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from captum_tracinwe.batches.batch import Batch, as_parts, labels_of, move_to, size_of
from captum_tracinwe.batches.blocks import Block
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.example_losses import by_name, prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.live import Asked, LiveRows
from captum_tracinwe.gradients.live_source import LiveSource

__all__ = ["NEAR", "Beliefs", "answers_now", "answers_of", "answers_to", "labels_of_classes"]

# Losses of a number, by torch.
OF_NUMBERS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.GaussianNLLLoss)
OF_NUMBERS_TOO: tuple[Any, ...] = (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss)
OF_NUMBERS_TOO += (functional.huber_loss, functional.poisson_nll_loss, functional.gaussian_nll_loss)

#: By so much the probabilities of a text may miss 1: half precision.
NEAR = 1e-2
# Who asks, in what is said of an error.
SUSPECTS = "suspects"


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What a classifier believes of N texts, and what their labels say.

    Args:
        log_probabilities (Tensor): float64 ``(N, K)``; of training texts the mean over the checkpoints.
        labels (Tensor): int64 ``(N,)``, the labels given.
        first (Tensor): int64 ``(N,)``, the best class at the first checkpoint, when the model has learned the least by heart.
    """

    log_probabilities: Tensor
    labels: Tensor
    first: Tensor

    def at(self, places: Tensor | None) -> Beliefs:
        """Those of some texts, in their order; None: all as they are."""
        return self if places is None else Beliefs(*(told[places] for told in self._told))

    @classmethod
    def cat(cls, parts: Sequence[Beliefs]) -> Beliefs:
        """Those of several blocks in one."""
        return cls(*(torch.cat(told) for told in zip(*(part._told for part in parts), strict=True)))

    @property
    def _told(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.log_probabilities, self.labels, self.first


def answers_of(source: LiveSource, show_progress: bool | None = False) -> Beliefs:
    """One forward pass over the training set at each checkpoint.

    Raises:
        ValueError: the model is no classifier of one label a text, a label is none of its classes, or an answer is not finite.
    """
    live, loader, asked = source.live, source.examples.loader, source.asked
    _refuse_other_tasks(live, source.loss_fn)
    with live.bar(loader, "Asking the model for its answers to training texts. Processing batch", show_progress) as bar:
        found = [answers_to(live, block, asked, bar) for block in live.blocks(loader, "train_dataset", 8)]
    return Beliefs.cat(found).at(source.examples.places())


def answers_now(live: LiveRows, batches: Iterable[Batch], asked: Asked, whose: str) -> Beliefs:
    """What the model answers with the weights that it has, by one forward pass; errors as of :func:`answers_of`.

    Args:
        live (LiveRows): the model.
        batches (iterable): of the texts, with labels.
        asked (Asked): how they are called.
        whose (str): the function that asks, for what is said of an error.
    """
    _refuse_other_tasks(live, asked.loss_fn, whose)
    told, given, start = [], [], 0
    with live.weights.untouched():
        live.weights.model.eval()
        for batch in batches:
            told.append(_answer(live, batch, whose))
            classes, labels = max(2, told[-1].shape[1]), labels_of(batch, live.label_names)
            given.append(labels_of_classes(labels, classes, len(told[-1]), asked, start, whose))
            start += len(told[-1])
    found = _log_probabilities(torch.cat(told), asked)
    bad = (~found.isfinite().all(1)).nonzero()
    if len(bad):
        index = asked.index_of(int(bad[0]))
        raise ValueError(
            f"{whose}: the answer to {asked.what} example {index} is NaN or infinite: expected finite logits."
        )
    return Beliefs(found, torch.cat(given), found.argmax(1))


def answers_to(live: LiveRows, block: Block, asked: Asked, bar: Any = None) -> Beliefs:
    """The same of one block, by place; errors as of :func:`answers_of`."""
    total: Tensor | None = None
    labels = first = torch.empty(0, dtype=torch.int64)
    with live.weights.untouched():
        for checkpoint in live.weights.checkpoints:
            live.weights.at(checkpoint)
            told, given, start = [], [], block.start
            for answer, label in _answers_at(live, checkpoint, block, asked, bar):
                told.append(answer)
                given.append(labels_of_classes(label, max(2, answer.shape[1]), len(answer), asked, start))
                start += len(answer)
            at, labels = _log_probabilities(torch.cat(told), asked), torch.cat(given)
            bad = (~at.isfinite().all(1)).nonzero()
            if len(bad):
                raise ValueError(
                    f"The answer to training example {asked.index_of(block.start + int(bad[0]))} is NaN or infinite at "
                    f"checkpoint {live.weights.named(checkpoint)}: expected finite logits."
                )
            first = at.argmax(1) if total is None else first
            total = at if total is None else total + at
    assert total is not None
    return Beliefs(total / len(live.weights), labels, first)


def _answers_at(live: LiveRows, checkpoint: Any, block: Block, asked: Asked, bar: Any) -> Iterator[tuple[Tensor, Any]]:
    """What the model answers to each batch, ``(n, K)``, with the weights that are in it now; and its labels, in one order."""
    for _, parts, _ in live.in_parts(checkpoint, block.batches, asked, block.start):
        told = torch.cat([_answer(live, part) for _, part in parts])
        order = torch.argsort(torch.tensor([place for places, _ in parts for place in places]))
        # Those of the parts, which may be made anew: a collator that sorts has its own order in the batch.
        given = [labels_of(part, live.label_names) for _, part in parts]
        several = len(given) > 1 and all(isinstance(one, Tensor) and one.dim() for one in given)
        labels = torch.cat(given)[order] if several else given[0]
        yield told[order], labels
        if bar is not None:
            bar.update()


def _answer(live: LiveRows, batch: Batch, whose: str = SUSPECTS) -> Tensor:
    model, size = unwrap(live.weights.model), size_of(batch)
    with torch.inference_mode(False), torch.no_grad():
        lent = move_to(as_parts(batch), live.table.weight.device)
        with diagnosed(model, batch, labels_of(batch, live.label_names)):
            output = run_model(model, lent, live.label_names)
        logits = prediction_of(by_name(model, output, torch.nn.CrossEntropyLoss()))
    if not isinstance(logits, Tensor) or logits.dim() not in (1, 2) or logits.shape[0] != size:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise ValueError(
            f"{whose}: expected a classifier, whose answer to {size} texts is one tensor of logits ({size}, K); this model's is "
            f"of {got}. Of language models and taggers no label of a text can be wrong: ask influence(...) of them."
        )
    return logits.detach().cpu().double().reshape(size, -1)


def _log_probabilities(answers: Tensor, asked: Asked) -> Tensor:
    """Of logits ``(n, K)``; of a model that ends in a softmax or a sigmoid its own."""
    least = torch.finfo(torch.float32).tiny
    if answers.shape[1] == 1:  # of class 1
        if _is_loss(asked.loss_fn, (nn.BCELoss,), (functional.binary_cross_entropy,)):
            return torch.cat([1 - answers, answers], dim=1).clamp_min(least).log()
        answers = torch.cat([torch.zeros_like(answers), answers], dim=1)
    elif bool((answers >= 0).all()) and bool(((answers.sum(1) - 1).abs() < NEAR).all()):
        return answers.clamp_min(least).log()
    return answers.log_softmax(1)


def _is_loss(loss_fn: Any, kinds: tuple[type[nn.Module], ...], functions: tuple[Any, ...]) -> bool:
    """Whether a loss is one of these of torch, as a module or as a function, with arguments of its own or not."""
    bare = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    return isinstance(bare, kinds) or any(bare is one for one in functions)


def _name_of(loss_fn: Any) -> str:
    bare = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    return str(getattr(bare, "__name__", type(bare).__name__))


def _refuse_other_tasks(live: LiveRows, loss_fn: Any, whose: str = SUSPECTS) -> None:
    """Raise ValueError where the loss says that a number was learned, or several labels of a text: then there are no classes."""
    if _is_loss(loss_fn, OF_NUMBERS, OF_NUMBERS_TOO):
        raise ValueError(
            f"{whose}: the loss, {_name_of(loss_fn)}, is that of a "
            f"regression: expected a classifier, for of a number no label is right or wrong. Pass the loss of a classifier, such "
            f"as loss_fn=torch.nn.CrossEntropyLoss(reduction='none'), and the model that was trained by it."
        )
    config: Any = getattr(unwrap(live.weights.model), "config", None)
    kind = getattr(config, "problem_type", None)
    if loss_fn is None and kind == "multi_label_classification" and getattr(config, "num_labels", None) != 1:
        raise ValueError(
            f"{whose}: the model is trained on several labels of a text (problem_type={kind!r}, num_labels={config.num_labels}"
            f"): expected one class for each text, of which a label can be the wrong one. Ask about one label at a time: a model "
            f"of num_labels=1 for it, loss_fn=torch.nn.BCEWithLogitsLoss(reduction='none'), and labels 0.0 and 1.0, (N, 1)."
        )
    one = kind is None and getattr(config, "num_labels", None) == 1
    if loss_fn is None and (kind == "regression" or one):
        raise ValueError(
            f"{whose}: the model is trained as a regression (problem_type={kind!r}, num_labels={config.num_labels}): "
            f"expected a classifier, for of a number no label is right or wrong. If it has one logit for two classes, pass the "
            f"loss that it was trained by, loss_fn=torch.nn.BCEWithLogitsLoss(), and labels as it takes them, floats (N, 1)."
        )


def labels_of_classes(given: Any, classes: int, size: int, asked: Asked, start: int, whose: str = SUSPECTS) -> Tensor:
    """The class number of each of ``size`` texts, the first of which is the one at place ``start``.

    Raises:
        ValueError: there is none, several, or one that is no whole number below ``classes``.
    """
    if not isinstance(given, Tensor):
        raise ValueError(
            f"{whose}: the batches have no labels that say which class a text is of (got {type(given).__name__}): expected "
            f"whole numbers (N,). Let the collator put them under `labels`, or name them by label_names=[...]."
        )
    shape = tuple(given.shape)
    given = given.detach().cpu()
    if given.dim() == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.dim() != 1 or len(given) != size:
        raise ValueError(
            f"{whose}: the labels of a batch of {size} texts are of shape {shape}: expected one class number for each, (N,). "
            f"Soft labels and several labels of a text are not judged; pass the most probable class, or one label at a time."
        )
    whole: Tensor = given.long()
    wrong = ((whole.double() != given.double()) | (whole < 0) | (whole >= classes)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"{whose}: the label of {asked.what} example {asked.index_of(start + place)} is {given[place].item():g}: expected a "
            f"class number from 0 to {classes - 1}. Leave out texts without a label; of a regression no label is right or wrong."
        )
    return whole
