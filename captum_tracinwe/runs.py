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
            trainer (Trainer): after ``train()``, with checkpoints in its ``output_dir``. Those that another run left there are
                left out, with a warning.
            batch_size (int, optional): texts to a pass; default 16.
            **options: any argument of :class:`TracInWE`, in place of what the Trainer says. The default ``loss_fn`` is the
                model's own, or for language models and token classification its sum over each example's tokens.

        Raises:
            TypeError: it is no Trainer.
            ValueError: no training set, not trained, or no checkpoints.
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

        A run that was trained on a loss of another kind (``label_smoothing_factor``, ``compute_loss_func``) does not say so in
        a file that can be read without running code: pass that loss as ``loss_fn``. Where checkpoints of several runs lie in
        ``output_dir``, as far as their ``trainer_state.json`` tells, that is an error: pass ``checkpoints`` of one run.
        """
        from captum_tracinwe.trainer import finished_run

        names = [label_names] if isinstance(label_names, str) else label_names
        found = finished_run(output_dir, train_dataset, model, tokenizer, data_collator, batch_size, names, options)
        return cls(**{**found, **options})
