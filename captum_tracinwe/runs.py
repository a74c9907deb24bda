"""How a `TracInWE` is made from a run of transformers' Trainer; what it takes from the run is in `trainer.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.nn import Module
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from transformers import Trainer
    from typing_extensions import Self

__all__ = ["FromRuns"]


class FromRuns:
    """The constructors of :class:`captum_tracinwe.TracInWE` that start from a run; transformers is imported when called."""

    @classmethod
    def from_trainer(cls, trainer: Trainer, *, batch_size: int | None = None, **options: Any) -> Self:
        """A TracInWE of a transformers Trainer that has trained: its data, collator, checkpoints with rates, and loss.

        Args:
            trainer (Trainer): after ``train()``, with checkpoints in its ``output_dir``.
            batch_size (int, optional): texts to a pass; default 16.
            **options: any argument of :class:`TracInWE`, in place of what the Trainer says. The default ``loss_fn`` is the
                model's own, or for language models and token classification its sum over each example's tokens.

        Raises:
            ValueError: no training set, or no checkpoints.
        """
        from captum_tracinwe.trainer import live_run

        return cls(**{**live_run(trainer, batch_size, options), **options})

    @classmethod
    def from_pretrained_run(
        cls,
        output_dir: str | Path,
        train_dataset: Dataset[Any],
        *,
        model: Module | None = None,
        tokenizer: Any = None,
        data_collator: Any = None,
        batch_size: int | None = None,
        label_names: str | Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """A TracInWE of a finished Trainer run: ``output_dir`` with its ``checkpoint-*``, and the data it was trained on.

        The model (by its config), tokenizer and collator are taken from the last checkpoint unless given. Where checkpoints
        hold a PEFT adapter only, ``model`` is the base model, which PEFT then wraps, or the PEFT model; its default is the
        directory that the adapter names. Arguments else and errors as in :meth:`from_trainer`.
        """
        from captum_tracinwe.trainer import finished_run

        names = [label_names] if isinstance(label_names, str) else label_names
        found = finished_run(output_dir, train_dataset, model, tokenizer, data_collator, batch_size, names)
        return cls(**{**found, **options})
