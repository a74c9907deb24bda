"""From a run of transformers' Trainer to a `TracInWE`: its data, collator, checkpoints, rates and loss."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.nn import Module
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from captum_tracinwe.batches import Loss
from captum_tracinwe.checkpoints import save_checkpoint
from captum_tracinwe.embedding import input_embeddings
from captum_tracinwe.losses import TokenLoss

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["SaveCheckpoints", "finished_run", "live_run"]

# Enough to keep a small GPU or two cores busy; what is held is that many texts' activations.
BATCH_SIZE = 16


class SaveCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Save light checkpoints, weights and learning rate only, at chosen steps of a Trainer.

    Args:
        directory (str or Path): where to; ``TracInWE(..., checkpoints=directory)`` finds them.
        steps (collection of int, optional): optimiser steps after which to save.
        every (int, optional): save after each so many steps instead.

    Raises:
        ValueError: neither or both of ``steps`` and ``every`` are given.

    Example:
        >>> callback = SaveCheckpoints("light", every=100)  # for Trainer(..., callbacks=[callback])
        >>> callback.directory.name, callback.every
        ('light', 100)
    """

    def __init__(self, directory: str | Path, steps: Collection[int] | None = None, every: int | None = None) -> None:
        if (steps is None) == (every is None) or (every is not None and every < 1):
            raise ValueError(
                f"SaveCheckpoints: expected either `steps`, a list of step numbers, or `every`, a number of at least 1; got "
                f"steps={steps!r}, every={every!r}."
            )
        self.directory, self.steps, self.every = Path(directory), None if steps is None else set(steps), every

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        step = state.global_step
        if not state.is_world_process_zero or not (
            step % self.every == 0 if self.every else step in (self.steps or ())
        ):
            return
        model = given["model"]
        table = getattr(input_embeddings(model), "weight", None)
        groups = given["optimizer"].param_groups
        of_table = [i for i, group in enumerate(groups) if any(parameter is table for parameter in group["params"])]
        rates = [float(group["lr"]) for group in groups]
        save_checkpoint(self.directory / f"step-{step}.pt", model, rates[of_table[0] if of_table else 0], step=step)


def default_loss(model: Module) -> Loss | None:
    """One loss per example for models whose own loss is a mean over the tokens of the batch; None: the model's own."""
    name = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and "Classification" not in name:
        return TokenLoss(shift=False)
    if name.endswith(("ForTokenClassification", "ForMaskedLM")):
        return TokenLoss(shift=False)
    return TokenLoss(shift=True) if name.endswith(("ForCausalLM", "LMHeadModel")) else None


def _checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, in order; hidden and half-made ones have other names."""
    found = [
        path
        for path in output.glob("checkpoint-*")
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def live_run(trainer: Trainer, batch_size: int | None, find_checkpoints: bool = True) -> dict[str, Any]:
    """Arguments of `TracInWE` from a Trainer that has trained.

    Raises:
        ValueError: it has no training set, or saved no checkpoint.
    """
    if trainer.train_dataset is None:
        raise ValueError("from_trainer: the Trainer has no train_dataset: expected the data that it was trained on.")
    # Trainer's evaluation loader is its way to batches in a fixed order, columns and collator as in training.
    loader = trainer.get_eval_dataloader(trainer.train_dataset)
    output = Path(trainer.args.output_dir)
    found = (
        sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])) if output.is_dir() else []
    )
    if not found:
        raise ValueError(
            f"from_trainer: no checkpoint-* in {str(output)!r}: expected checkpoints saved along training. Train with "
            f"TrainingArguments(save_strategy='steps', save_steps=...), or with the callback "
            f"captum_tracinwe.trainer.SaveCheckpoints, and pass checkpoints=its directory."
        )
    return {
        "model": trainer.model,
        "train_dataset": DataLoader(loader.dataset, batch_size or BATCH_SIZE, collate_fn=loader.collate_fn),
        "checkpoints": [str(path) for path in found],
        "loss_fn": default_loss(trainer.model),
    }


def finished_run(
    output_dir: str | Path,
    train_dataset: Dataset[Any],
    model: Module | None,
    tokenizer: Any,
    data_collator: Any,
    batch_size: int | None,
) -> dict[str, Any]:
    """Arguments of `TracInWE` from the output directory of a run that is over.

    Raises:
        ValueError: there is no checkpoint in it, or its model cannot be told.
    """
    import transformers

    output = Path(output_dir)
    found = (
        sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])) if output.is_dir() else []
    )
    if not found:
        raise ValueError(
            f"from_pretrained_run: no checkpoint-* in {str(output)!r}: expected the output_dir of a Trainer that saved some."
        )
    last = found[-1]
    if model is None:
        config = transformers.AutoConfig.from_pretrained(last, local_files_only=True)
        names = config.architectures or []
        if not names or not hasattr(transformers, names[0]):
            raise ValueError(
                f"from_pretrained_run: {str(last / 'config.json')!r} names the architecture {names}, which transformers does "
                f"not have: pass the model as model=..."
            )
        model = getattr(transformers, names[0]).from_pretrained(last, local_files_only=True)
    if data_collator is None:
        if tokenizer is None and any((last / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            tokenizer = transformers.AutoTokenizer.from_pretrained(last, local_files_only=True)
        data_collator = (
            transformers.default_data_collator if tokenizer is None else transformers.DataCollatorWithPadding(tokenizer)
        )
    return {
        "model": model,
        "train_dataset": DataLoader(train_dataset, batch_size or BATCH_SIZE, collate_fn=data_collator),
        "checkpoints": [str(path) for path in found],
        "loss_fn": default_loss(model),
    }
