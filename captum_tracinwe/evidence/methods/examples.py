"""What every method takes and gives: two sets of examples in, scores ``(N, M)`` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_tracinwe.batches.arguments import is_plain, kind_of
from captum_tracinwe.batches.batch import Loss
from captum_tracinwe.checkpoints.weights import load_checkpoint

__all__ = ["Examples", "Explained", "Method", "checked", "checked_global"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples as tensors, and as words for the methods that read the bare text.

    Args:
        batch (tuple of Tensor): inputs..., labels, as the model takes them; the examples lie along the first dimension.
        words (sequence of sequence of str, optional): each text cut into words (any cut: it is that of BM25 and TF-IDF).
    """

    batch: tuple[Tensor, ...]
    words: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.batch, (tuple, list)) or not all(
            isinstance(field, Tensor) and field.dim() for field in self.batch
        ):
            kinds = [type(field).__name__ for field in self.batch] if isinstance(self.batch, (tuple, list)) else []
            raise TypeError(
                f"Examples: expected a tuple of tensors (inputs..., labels), the examples along their first dimension, got "
                f"{type(self.batch).__name__}{' of ' + ', '.join(kinds) if kinds else ''}."
            )
        if len(self.batch) < 2 or len({len(field) for field in self.batch}) != 1:
            sizes = [tuple(field.shape) for field in self.batch]
            raise ValueError(f"Examples: expected inputs and labels of one length, got shapes {sizes}.")
        if not len(self):
            raise ValueError("Examples: expected at least one example, got none.")
        if self.words is not None and len(self.words) != len(self):
            raise ValueError(f"Examples: expected words of {len(self)} texts, got {len(self.words)}.")
        whole = next((words for words in self.words or () if isinstance(words, str)), None)
        if whole is not None:
            raise TypeError(
                f"Examples: expected each text cut into a list of words, got the text {whole!r:.60}: its letters would be taken "
                f"for words. Pass words=[text.split() for text in texts]."
            )

    def __len__(self) -> int:
        return len(self.batch[0])

    @property
    def labels(self) -> Tensor:
        """``(N,)``, the last field of the batch."""
        return self.batch[-1]

    def first(self) -> Examples:
        """The first example alone."""
        return Examples(tuple(field[:1] for field in self.batch))

    def dataset(self) -> TensorDataset:
        """The batch as a data set of single examples."""
        return TensorDataset(*self.batch)

    def need_words(self, method: str) -> Sequence[Sequence[str]]:
        """The words.

        Raises:
            ValueError: there are none.
        """
        if self.words is None:
            raise ValueError(f"{method} reads the text: expected Examples(batch, words=[...]), got no words.")
        return self.words


#: (test, train) → scores ``(N, M)``; positive means proponent.
Method: TypeAlias = Callable[[Examples, Examples], Tensor]


@dataclass(frozen=True, eq=False)
class Explained:
    """The trained model that is asked, in the form that all gradient methods take.

    Args:
        model (Module): a classifier, ``model(*inputs)`` → logits ``(N, classes)``, or what holds them as ``.logits``; left as it
            was found.
        checkpoints (sequence): what ``load`` takes; TracIn sums over all, one-checkpoint methods take the last.
        loss_fn (callable): one loss per example (``reduction="none"``).
        last (str): the name of the last linear layer, whose output is the logits ("classifier" of a BERT of transformers).
        embedding (str, optional): the name of the word embedding; None finds it, as :class:`captum_tracinwe.TracInWE` does.
        load (callable): ``(model, checkpoint) -> learning rate``.
        batch_size (int): of the passes.

    Example:
        >>> import tempfile, torch
        >>> from captum_tracinwe import methods, save_checkpoint
        >>> from captum_tracinwe.evidence.retraining import TextCNN
        >>> model, file = TextCNN(30, 2, width=4, filters=3), f"{tempfile.mkdtemp()}/step-1.pt"
        >>> save_checkpoint(file, model, learning_rate=0.1)
        >>> explained = methods.Explained(model, [file], torch.nn.CrossEntropyLoss(reduction="none"))
        >>> test, train = (methods.Examples((torch.randint(1, 30, (n, 9)), torch.zeros(n).long())) for n in (2, 5))
        >>> [method(test, train).shape for method in (methods.tracin_we(explained), methods.tracin_last(explained))]
        [torch.Size([2, 5]), torch.Size([2, 5])]
    """

    model: nn.Module
    checkpoints: Sequence[Any]
    loss_fn: Loss
    last: str = "out"
    embedding: str | None = None
    load: Callable[[nn.Module, Any], float] = load_checkpoint
    batch_size: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.checkpoints, (str, Path)):
            path = str(self.checkpoints)
            raise TypeError(
                f"Explained: expected a list of checkpoints, got {path!r}: of one file [{path!r}], of a folder "
                f"sorted(Path({path!r}).glob('*.pt'))."
            )
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"Explained: expected a batch_size of at least 1, got {self.batch_size!r}.")
        if not len(self.checkpoints):
            raise ValueError("Explained: expected at least one checkpoint, got none.")
        reduction = getattr(self.loss_fn, "reduction", "none")
        if reduction != "none":
            raise ValueError(
                f"Explained: expected a loss_fn with one loss per example, reduction='none', got reduction={reduction!r}: an "
                f"example's part of it would depend on its batch."
            )


def checked_global(scores: Tensor, train: Examples, name: str) -> Tensor:
    """Scores ``(M,)`` of a global method, detached on the CPU; ValueError as in :func:`checked`."""
    return checked(scores[None], train.first(), train, name)[0]


def checked(scores: Tensor, test: Examples, train: Examples, name: str) -> Tensor:
    """``scores`` detached on the CPU.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: not of shape ``(N, M)``, or not finite.
    """
    if not is_plain(scores):
        raise TypeError(
            f"{name} gave no scores but {kind_of(scores)}: expected a tensor (test, train), dense and of real numbers."
        )
    if scores.shape != (len(test), len(train)):
        raise ValueError(
            f"{name} gave scores of shape {tuple(scores.shape)}: expected (test, train) = ({len(test)}, {len(train)})."
        )
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} gave scores that are NaN or infinite: look at its checkpoints and options.")
    return scores.detach().cpu() if scores.is_floating_point() else scores.detach().cpu().double()
