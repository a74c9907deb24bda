"""UnTrac and UnTrac-Inv: unlearn a group of training texts, or the questions, by gradient ascent, and see what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import is_rate
from captum_tracinwe.batches.batch import Batch, Loss, as_parts, labels_of, move_to, part_of, size_of
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.gradients.diagnosis import diagnosed
from captum_tracinwe.gradients.example_losses import by_name, example_losses, prediction_of
from captum_tracinwe.gradients.forward import run_model
from captum_tracinwe.gradients.passed import differentiable
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.gradients.token_losses import with_virtual_tokens
from captum_tracinwe.neighbours.asked import check_inputs, check_seed, check_tracin, check_wholes
from captum_tracinwe.neighbours.groups import GroupInfluence, Groups, Members, members_of, readable_size
from captum_tracinwe.tracin_we import TracInWE

__all__ = ["unlearn", "unlearn_inverse"]


@undisturbed
def unlearn(
    tracin: TracInWE,
    inputs: Batch | DataLoader[Any],
    groups: Groups,
    *,
    learning_rate: float = 5e-5,
    epochs: int = 1,
    batch_size: int = 1,
    seed: int = 0,
) -> GroupInfluence:
    """UnTrac: how much the loss on each question rises when the model unlearns a group of training texts.

    From the last checkpoint, for each group anew, Adam climbs the mean loss of the group's texts in random order; then the loss
    on each question is read again. The score is by how much it rose. No preconditioner, table or other checkpoint has a part in
    it. The model computes in eval mode (no dropout), and is left as it was found, also after an error.

    Source: Isonuma, Titov, *Unlearning Traces the Influential Training Data of Language Models*, ACL 2024, arXiv 2401.15241,
    whose settings for pretrained language models are the defaults.

    Args:
        tracin (TracInWE): the model, its training set, its checkpoints.
        inputs (batch or DataLoader): N test examples.
        groups (mapping, sequence or Tensor): as of :func:`group_influence`; texts that were deleted from an index are in none.
        learning_rate (float): of Adam.
        epochs (int): passes over each group; the number of steps grows with its size, as the paper's does.
        batch_size (int): training texts to a step.
        seed (int): of the order of the texts.

    Returns:
        GroupInfluence: scores float64 ``(N, G)``, the unit that of the loss; positive: a proponent, without which the loss rises.

    Raises:
        TypeError: `groups` of another kind.
        ValueError: groups as in :func:`group_influence`; a setting out of range; a training set of which no single examples can
            be read; a model all of whose weights are frozen; a loss that is NaN or infinite, before or after unlearning.

    Example:
        >>> from captum_tracinwe.neighbours import unlearn
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> found = unlearn(tracin, inputs, {"first": [0, 1, 2], "odd": [1, 3, 5]}, learning_rate=0.01)
        >>> found.method, tuple(found.scores.shape) == (len(inputs[1]), 2)
        ('UnTrac', True)
    """
    whose = "unlearn"
    _check(tracin, whose, learning_rate, epochs=epochs, batch_size=batch_size)
    check_seed(seed, whose)
    members = _members(tracin, groups, whose)
    examples, names = tracin.live_source.examples, members.names
    placed = examples.places()
    questions = _read_all(tracin, inputs, whose)
    columns = []
    with _unlearning(tracin, whose) as student:
        before = student.losses(questions, tracin.test_loss_fn)
        _refuse_lost_before(before, range(len(before)), "test example", whose)
        for group, name in enumerate(names):
            indices = torch.tensor(members.of(group))
            places = indices if placed is None else placed[indices]
            order = torch.Generator().manual_seed(int(seed))
            shuffled = [places[torch.randperm(len(places), generator=order)] for _ in range(int(epochs))]
            steps = (
                [student.read(examples.together(chunk.tolist()), whose)]
                for epoch in shuffled
                for chunk in torch.split(epoch, min(int(batch_size), len(epoch)))
            )
            finite = student.climb(steps, tracin.loss_fn, float(learning_rate))
            risen = student.losses(questions, tracin.test_loss_fn) - before
            student.forget()
            if not finite or not bool(risen.isfinite().all()):  # by unlearning, or was a text of the group lost before?
                own = [student.read(examples.together([place]), whose) for place in places.tolist()]
                _refuse_lost_before(student.losses(own, tracin.loss_fn), indices.tolist(), "training example", whose)
                _refuse_lost(risen, f"test example {{}} after unlearning the group {name!r:.60}", whose)
                raise _lost(f"the group {name!r:.60} while it is unlearned", whose)
            columns.append(risen)
    return GroupInfluence(names, members.sizes, torch.stack(columns, 1), "UnTrac")


@undisturbed
def unlearn_inverse(
    tracin: TracInWE,
    inputs: Batch | DataLoader[Any],
    groups: Groups,
    *,
    learning_rate: float = 5e-5,
    steps: int = 50,
) -> GroupInfluence:
    """UnTrac-Inv: how much the loss on each group of training texts rises when the model unlearns the questions.

    One run of gradient ascent, by Adam on the mean loss of all questions together, serves all groups. The score of a group is
    the sum over its texts of how much their losses rose; the paper's figure is the mean, ``per_text``. Source, errors, and all
    else as of :func:`unlearn`.

    Args:
        tracin, inputs, groups, learning_rate: as of :func:`unlearn`; the N test examples are unlearned together.
        steps (int): of ascent, each over all questions.

    Returns:
        GroupInfluence: scores float64 ``(1, G)``, of all questions as one.

    Example:
        >>> from captum_tracinwe.neighbours import unlearn_inverse
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> found = unlearn_inverse(tracin, inputs, {"first": [0, 1, 2], "odd": [1, 3, 5]}, learning_rate=0.01, steps=2)
        >>> found.method, found.scores.shape
        ('UnTrac-Inv', torch.Size([1, 2]))
    """
    whose = "unlearn_inverse"
    _check(tracin, whose, learning_rate, steps=steps)
    members = _members(tracin, groups, whose)
    asked = torch.unique(members.examples)
    questions = _read_all(tracin, inputs, whose)
    batches, held = tracin.live_source.examples.chosen(asked.tolist())
    taught = list(reading(batches, "train_dataset"))
    with _unlearning(tracin, whose) as student:
        before = student.losses(taught, tracin.loss_fn)
        _refuse_lost_before(before, held, "training example", whose)
        asked_before = student.losses(questions, tracin.test_loss_fn)
        _refuse_lost_before(asked_before, range(len(asked_before)), "test example", whose)
        climbing = (questions for _ in range(int(steps)))
        finite = student.climb(climbing, tracin.test_loss_fn, float(learning_rate))
        risen = student.losses(taught, tracin.loss_fn) - before
    _refuse_lost(risen, "the training texts after unlearning the test examples, that at place {},", whose)
    if not finite:
        raise _lost("the test examples while they are unlearned", whose)
    of_each = torch.zeros(int(asked[-1]) + 1, dtype=torch.float64)
    of_each[torch.tensor(held)] = risen
    sums = torch.zeros(len(members.names), dtype=torch.float64)
    sums.index_add_(0, members.groups, of_each[members.examples])
    return GroupInfluence(members.names, members.sizes, sums[None], "UnTrac-Inv")


def _read_all(tracin: TracInWE, inputs: Any, whose: str) -> list[Batch]:
    check_inputs(inputs, whose)
    questions = list(reading(tracin.batches_of(inputs), "inputs"))
    if not questions:
        raise ValueError(f"{whose}: `inputs` is empty: expected at least one test example.")
    return questions


# ----------------------------------------------------------------------------------------------------------- the student


@dataclass(frozen=True, eq=False)
class _Student:
    """The model at its last checkpoint, lent for unlearning.

    Args:
        model (Module): with all that asked for gradients asking for them.
        weights (list of Parameter): those.
        home (list of Tensor): their numbers at the checkpoint.
        label_names (sequence of str): of the batches.
    """

    model: Module
    weights: list[Parameter]
    home: list[Tensor]
    label_names: Sequence[str]

    def read(self, batch: Batch | None, whose: str) -> Batch:
        """A batch of chosen training examples, which could be read."""
        if batch is None:
            raise ValueError(
                f"{whose}: chosen training texts cannot be put into one batch: expected a Dataset whose collator pads. Pass "
                f"batch_size=1, and the data set itself in place of a DataLoader."
            )
        return batch

    def climb(self, steps: Iterator[list[Batch]], loss_fn: Loss | None, rate: float) -> bool:
        """Steps of Adam up the mean loss of the batches of each; whether all losses on the way were finite."""
        fused = all(weight.device.type in ("cpu", "cuda") for weight in self.weights)
        optimizer = torch.optim.Adam(self.weights, rate, maximize=True, fused=fused)
        finite = True
        for batches in steps:
            optimizer.zero_grad()
            count = sum(map(size_of, batches))
            for batch in batches:
                with differentiable(self.model):
                    losses = self._losses(batch, loss_fn)
                    (losses.sum() / count).backward()  # type: ignore[no-untyped-call]
                finite = finite and bool(losses.isfinite().all())
            optimizer.step()
        optimizer.zero_grad()
        return finite

    def losses(self, batches: Sequence[Batch], loss_fn: Loss | None) -> Tensor:
        """Of each example, float64 ``(n,)``."""
        found = []
        with torch.inference_mode(False), torch.no_grad():
            for batch in batches:
                size = size_of(batch)
                # A model's own loss is one number for a batch, and so are a mean and a sum.
                losses = self._losses(batch, loss_fn) if loss_fn is not None or size == 1 else torch.zeros(())
                if losses.dim() == 0 and size > 1:
                    losses = torch.stack([self._losses(one, loss_fn).sum() for one in _singles(batch)])
                found.append(losses.detach().double().cpu().reshape(size, -1).sum(1))
        return torch.cat(found)

    @torch.no_grad()
    def forget(self) -> None:
        """Back to the checkpoint."""
        for weight, numbers in zip(self.weights, self.home, strict=True):
            weight.copy_(numbers)

    def _losses(self, batch: Batch, loss_fn: Loss | None) -> Tensor:
        model, device = self.model, self.weights[0].device
        batch = move_to(as_parts(batch), device)
        lent = move_to(batch, device)  # the model may write into it
        labels = with_virtual_tokens(model, labels_of(lent, self.label_names), loss_fn)
        with diagnosed(model, batch, labels):
            output = by_name(model, run_model(model, lent, self.label_names, own_loss=loss_fn is None), loss_fn)
        with diagnosed(model, batch, labels, prediction_of(output)):
            return example_losses(output, labels, batch, loss_fn, size_of(batch))


@contextmanager
def _unlearning(tracin: TracInWE, whose: str) -> Iterator[_Student]:
    """The model with its last checkpoint, fit to be trained on; given back as it was, come what may."""
    live = tracin.live
    model = unwrap(live.weights.model)
    wanted = {name for name, weight in model.named_parameters() if weight.requires_grad and weight.is_floating_point()}
    if not wanted:
        raise ValueError(
            f"{whose}: all weights of the {type(model).__name__} are frozen (requires_grad=False), and unlearning changes "
            f"weights: expected some that are trained. Call model.requires_grad_()."
        )
    # The optimiser writes into weights in place: those that a checkpoint does not hold are the user's own.
    weights = replace(live.weights, assigns=False)
    with weights.untouched():
        weights.at(weights.checkpoints[-1])
        for module in model.modules():
            if getattr(module, "sparse", False) is True:  # Adam takes no sparse gradients; given back with all else
                vars(module)["sparse"] = False
        chosen = [weight for name, weight in model.named_parameters() if name in wanted]
        gradients = [weight.grad for weight in chosen]  # the user's own, between backward() and step()
        for weight in chosen:
            weight.grad = None
            weight.requires_grad_(True)
        try:
            yield _Student(model, chosen, [weight.detach().clone() for weight in chosen], tracin.label_names)
        finally:
            for weight, gradient in zip(chosen, gradients, strict=True):
                weight.grad = gradient


def _singles(batch: Batch) -> list[Batch]:
    found = [part_of(batch, [place]) for place in range(size_of(batch))]
    if any(one is None for one in found):
        raise ValueError(
            "unlearn: the loss is one number for a batch that cannot be cut into its examples: expected one loss per example. "
            "Pass batch_size=1, and `inputs` as a list of examples."
        )
    return [one for one in found if one is not None]


# --------------------------------------------------------------------------------------------------------------- checks


def _check(tracin: Any, whose: str, learning_rate: Any, **counts: Any) -> None:
    check_tracin(tracin, whose)
    if not is_rate(learning_rate) or not float(learning_rate) > 0:
        raise ValueError(
            f"{whose}: expected `learning_rate` as a finite number above 0, got {learning_rate!r:.60}; the paper has 5e-5."
        )
    check_wholes(whose, **counts)


def _members(tracin: TracInWE, groups: Groups, whose: str) -> Members:
    """Which training text is in which group, without those that were deleted from an index."""
    size = readable_size(tracin)
    if size is None:
        raise ValueError(
            f"{whose}: this `train_dataset` is a stream, or gives whole batches, of which no chosen texts can be read: expected "
            f"a Dataset or a list of examples. group_influence asks about groups of any training set."
        )
    if tracin.index is not None:
        tracin.index.warn_unfinished()
    return members_of(groups, size, whose).among(tracin.source.indices, size, whose)


def _refuse_lost_before(losses: Tensor, numbers: Sequence[int], what: str, whose: str) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise ValueError(
            f"{whose}: the loss of {what} {numbers[int(bad[0])]} is {float(losses[bad[0]]):g} at the last checkpoint, before "
            f"anything is unlearned: expected a finite number. Look at that example, the loss and the checkpoint."
        )


def _refuse_lost(risen: Tensor, what: str, whose: str) -> None:
    bad = (~risen.isfinite()).nonzero()
    if len(bad):
        raise _lost(what.format(int(bad[0])), whose)


def _lost(what: str, whose: str) -> ValueError:
    return ValueError(
        f"{whose}: the loss of {what} is NaN or infinite: expected finite numbers. Unlearn less: a lower learning_rate, or fewer "
        f"steps."
    )
