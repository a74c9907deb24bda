"""From a run of transformers' Trainer to a `TracInWE`: its data, collator, checkpoints, rates and loss."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch.nn import Module
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.utils.generic import find_labels

from captum_tracinwe.batches.collate import Collate
from captum_tracinwe.batches.data_sets import as_dataset
from captum_tracinwe.batches.loaders import in_order
from captum_tracinwe.checkpoints.adapters import ADAPTER_FILES, with_adapter
from captum_tracinwe.checkpoints.files import has_weights
from captum_tracinwe.checkpoints.metadata import model_config, read_json, shown
from captum_tracinwe.checkpoints.rates import trainer_rate
from captum_tracinwe.checkpoints.reading import Unread, first_line
from captum_tracinwe.checkpoints.run_states import RunState, different_runs, names_of
from captum_tracinwe.checkpoints.trainer_data import training_loader
from captum_tracinwe.checkpoints.trainer_loss import base_of, loss_by_kind, loss_in_place, say_other_loss
from captum_tracinwe.checkpoints.weights import check_whole, find_checkpoints, load_weights, save_checkpoint
from captum_tracinwe.gradients.embedding import input_embeddings
from captum_tracinwe.gradients.sentence_losses import SentenceLoss
from captum_tracinwe.gradients.several_texts import is_sentence_transformer
from captum_tracinwe.gradients.token_losses import TokenLoss

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["SaveCheckpoints", "finished_run", "live_run"]

# Enough to keep a small GPU or two cores busy; what is held is that many texts' activations.
BATCH_SIZE = 16


class SaveCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Save light checkpoints, weights (of a PEFT model its adapter's) and learning rate only, at chosen steps of a Trainer.

    Args:
        directory (str or Path): where to; ``TracInWE(..., checkpoints=directory)`` finds them.
        steps (collection of int, optional): optimiser steps after which to save.
        every (int, optional): save after each so many steps instead.

    Raises:
        ValueError: neither or both of ``steps`` and ``every`` are given; when training begins, ``directory`` holds light
            checkpoints of an earlier run.

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

    def _is_due(self, step: int) -> bool:
        return step % self.every == 0 if self.every else step in (self.steps or ())

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer. What an earlier run left would pass for this one's, unless that is resumed or replaces it."""
        numbers = sorted(
            int(path.stem.removeprefix("step-"))
            for path in self.directory.glob("step-*.pt")
            if path.stem.removeprefix("step-").isdecimal()
        )
        start, end = state.global_step, state.max_steps
        stale = [n for n in numbers if not (start and (n <= start or (n <= end and self._is_due(n))))]
        if stale:
            names = names_of([self.directory / f"step-{number}.pt" for number in stale])
            raise ValueError(
                f"SaveCheckpoints: {str(self.directory)!r} holds {names} of an earlier run: expected no other run's checkpoints, "
                f"which would count as this one's. Remove them, or name another directory."
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by Trainer."""
        step = state.global_step
        if not state.is_world_process_zero or not self._is_due(step):
            return
        model = given["model"]
        table = getattr(input_embeddings(model), "weight", None)
        groups = given["optimizer"].param_groups
        of_table = [i for i, group in enumerate(groups) if any(parameter is table for parameter in group["params"])]
        rates = [float(group["lr"]) for group in groups]
        save_checkpoint(self.directory / f"step-{step}.pt", model, rates[of_table[0] if of_table else 0], step=step)


def _directories(output: Path) -> list[Path]:
    """The checkpoints in an output directory, by step; hidden and half-made ones have other names."""
    found = [
        path
        for path in (output.glob("checkpoint-*") if output.is_dir() else ())
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdecimal()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


# What to do where a run has saved nothing.
SAVE = (
    "Train with TrainingArguments(save_strategy='steps', save_steps=...), or with the callback "
    "captum_tracinwe.trainer.SaveCheckpoints, and pass checkpoints=its directory."
)


def _none_in(output: Path, caller: str) -> str:
    """In words: why there is no checkpoint in ``output``, and the way out."""
    if output.is_dir() and re.fullmatch(r"checkpoint-\d+", output.name):
        return (
            f"{caller}: {str(output)!r} is one checkpoint of a run: expected the directory of the run, which holds all of "
            f"them: {str(output.parent)!r}."
        )
    if caller == "from_pretrained_run" and not output.is_dir():
        what = "is a file" if output.exists() else "is not there"
        return f"{caller}: {str(output)!r} {what}: expected a directory, the output_dir of a Trainer, with checkpoint-* in it."
    return f"{caller}: no checkpoint-* in {str(output)!r}: expected checkpoints saved along training. {SAVE}"


def _of_this_run(found: Sequence[Path], state: Any, output: Path) -> list[Path]:
    """Those checkpoints that a Trainer with this ``state`` has saved; of others in its ``output`` directory a warning.

    Raises:
        ValueError: it has not trained, or none of them is its own.
    """
    if not state.global_step:
        raise ValueError(
            f"from_trainer: the Trainer has not trained, so no checkpoint-* in {str(output)!r} is of its own: expected one after "
            f"trainer.train(). Call that first, or read what an earlier run left by from_pretrained_run(output_dir, "
            f"train_dataset)."
        )
    live = RunState.of(vars(state))
    states = [RunState.at(path) for path in found]
    own = [path for path, at in zip(found, states, strict=True) if at is None or at.leads_to(live)]
    others = [path for path in found if path not in own]
    if others and not own:
        raise ValueError(
            f"from_trainer: the checkpoints in {str(output)!r} ({names_of(others)}) are of another run than the Trainer's, which "
            f"has saved none: expected checkpoints saved along its training of {state.global_step} steps. {SAVE}"
        )
    if others:
        warnings.warn(
            f"from_trainer: {names_of(others)} in {str(output)!r} are by their trainer_state.json of another run than the "
            f"Trainer's ({state.global_step} steps) and are left out: {names_of(own)} count. Remove what is old, or pass "
            f"checkpoints=[...] with those that are to count.",
            stacklevel=5,
        )
    return own


def _checkpoints(output: Path, caller: str, state: Any = None) -> list[str]:
    """The checkpoints of a run, in order; with the ``state`` of a Trainer those that it has saved.

    Raises:
        ValueError: there are none, one of them is not whole, they are of several runs, or only some tell their learning rate.
    """
    found = _directories(output)
    if state is not None:
        found = _of_this_run(found, state, output)
    if not found:
        raise ValueError(_none_in(output, caller))
    mixed = different_runs(found) if state is None else None
    if mixed is not None:
        raise ValueError(f"{caller}: {mixed}")
    try:  # better said now than after hours on the checkpoints before it
        for path in found:
            check_whole(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said where they are loaded
            silent = [path.name for path in found if trainer_rate(path, None) is None]
    except Unread as error:  # weights are there: nothing to remove
        raise Unread(f"{caller}: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"{caller}: {error} A run that is stopped while it saves leaves such a directory: remove it, or pass "
            f"checkpoints=[...] without it."
        ) from error
    if silent and len(silent) < len(
        found
    ):  # beside rates of 1e-5 the 1.0 that is used without one would be all of the score
        raise ValueError(
            f"{caller}: of {len(found)} checkpoints {', '.join(silent)} tell no learning rate, and the others do: expected all "
            f"or none. Train with a smaller logging_steps or without save_only_model, or pass checkpoints=[...] without them."
        )
    return [str(path) for path in found]


def live_run(trainer: Trainer, batch_size: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TracInWE` from a Trainer that has trained; of what is ``given`` besides, nothing is looked for.

    Raises:
        TypeError: it is no Trainer.
        ValueError: it has no training set, has not trained, or saved no checkpoint.
    """
    if not all(hasattr(trainer, name) for name in ("train_dataset", "get_train_dataloader", "state")):
        raise TypeError(
            f"from_trainer: expected a transformers.Trainer that has trained, got {type(trainer).__name__}. What a run left on "
            f"disk is read by from_pretrained_run(output_dir, train_dataset)."
        )
    if trainer.train_dataset is None:
        raise ValueError("from_trainer: the Trainer has no train_dataset: expected the data that it was trained on.")
    names, size = _label_names(trainer.label_names), batch_size or BATCH_SIZE
    loader = given.get("train_dataset")
    if "train_dataset" not in given:
        loader = training_loader(trainer, size, names)
    found: dict[str, Any] = (
        {}
        if "checkpoints" in given
        else {"checkpoints": _checkpoints(Path(trainer.args.output_dir), "from_trainer", trainer.state)}
    )
    if "loss_fn" not in given and is_sentence_transformer(trainer.model):
        found["loss_fn"] = SentenceLoss(trainer.loss)
    elif "loss_fn" not in given:
        say_other_loss(trainer)
        found["loss_fn"] = loss_in_place(trainer.model, loader, names, "from_trainer")
    return {"model": trainer.model, "train_dataset": loader, "label_names": names, **found}


def _label_names(names: Sequence[str]) -> tuple[str, ...]:
    """What Trainer calls labels, unless it is what `TracInWE` takes for labels anyway."""
    return () if list(names) == ["labels"] else tuple(names)


def finished_run(
    output_dir: str | Path,
    train_dataset: Dataset[Any],
    model: Module | None,
    tokenizer: Any,
    data_collator: Any,
    batch_size: int | None,
    label_names: Sequence[str] | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of `TracInWE` from the output directory of a run that is over; checkpoints ``given`` besides are not judged.

    Raises:
        ValueError: there is no checkpoint in it, or its model cannot be told.
    """
    import transformers

    output, listed = Path(output_dir), given.get("checkpoints")
    found = [] if "checkpoints" in given else _checkpoints(output, "from_pretrained_run")
    if isinstance(listed, (str, Path, list, tuple)):
        listed = [Path(path) for path in find_checkpoints(listed) if isinstance(path, (str, Path))]
        found = [str(path) for path in listed if path.is_dir()]
    found = found or [str(path) for path in _directories(output)]
    if not found:
        raise ValueError(_none_in(output, "from_pretrained_run"))
    last = Path(found[-1])
    of_adapter = any((last / name).is_file() for name in ADAPTER_FILES)
    if model is None:
        model = _base_model(last) if of_adapter else _model_of(last)
    if of_adapter:
        model = with_adapter(model, last)
    by_kind = loss_by_kind(model)
    # Where tokens have labels, these are filled up as well, which Collate does and DataCollatorWithPadding does not.
    if data_collator is None and not isinstance(by_kind, TokenLoss):
        if tokenizer is None and any((last / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            tokenizer = _tokenizer_of(last)
        data_collator = (
            transformers.default_data_collator if tokenizer is None else transformers.DataCollatorWithPadding(tokenizer)
        )
    names = _label_names(find_labels(type(base_of(model))) if label_names is None else label_names)
    collate_fn = Collate(model, label_names=names, collate_fn=data_collator)
    loader = in_order(as_dataset(train_dataset, True), batch_size or BATCH_SIZE, collate_fn)
    loss = {} if "loss_fn" in given else {"loss_fn": loss_in_place(model, loader, names, "from_pretrained_run")}
    return {"model": model, "train_dataset": loader, "checkpoints": found, "label_names": names, **loss}


def _tokenizer_of(directory: Path) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a tokenizer's files raise whatever they happen to lead to
        raise ValueError(
            f"from_pretrained_run: the tokenizer in {str(directory)!r} cannot be read ({first_line(error)}): expected what "
            f"save_pretrained writes. Restore its files, or pass tokenizer=... or data_collator=..."
        ) from error


def _model_of(directory: Path, head: str = "") -> Module:
    """The model that ``config.json`` of a directory names, with its weights; with a ``head`` the Auto class of that name."""
    import transformers

    if not (directory / "config.json").is_file():
        raise ValueError(
            f"from_pretrained_run: no config.json in {str(directory)!r}, so its model cannot be told: pass the model as "
            f"model=..."
        )
    try:
        config = model_config(directory)
    except ValueError as error:
        raise ValueError(
            f"from_pretrained_run: {str(directory / 'config.json')!r} cannot be read ({error!s:.200}): pass the model as "
            f"model=..., or restore the file."
        ) from error
    names = config.architectures or []
    kind: Any = getattr(transformers, head or (names[0] if names else ""), None)
    if not head and not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ValueError(
            f"from_pretrained_run: {str(directory / 'config.json')!r} names the architecture {shown(names)}, which transformers "
            f"does not have: pass the model as model=..."
        )
    check_whole(directory)
    try:
        if has_weights(directory, sharded=False):
            found = kind.from_pretrained(directory, config=config, local_files_only=True)
        else:  # FSDP's or DeepSpeed's, which transformers does not read
            with torch.random.fork_rng(devices=[]):
                found = kind.from_config(config) if head else kind(config)
            load_weights(found, directory)
    except Exception as error:  # a model class raises whatever its config happens to lead to
        raise ValueError(
            f"from_pretrained_run: no model can be made of {str(directory)!r} ({first_line(error)}): expected the config.json "
            f"and the weights of one {head or names[0]}. Restore them, or pass the model as model=..."
        ) from error
    assert isinstance(found, Module)
    return found


# A PEFT task → the Auto class of its base model.
TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}


def _base_model(directory: Path) -> Module:
    """The base model of an adapter, if it lies on this disk."""
    try:
        config = read_json(directory / "adapter_config.json", _Adapter)
    except ValueError as error:
        raise ValueError(
            f"from_pretrained_run: {str(directory)!r} holds an adapter without a whole adapter_config.json ({error}): pass the "
            f"PEFT model as model=..."
        ) from error
    base = config.base_model_name_or_path
    if not base or not Path(base).is_dir():
        raise ValueError(
            f"from_pretrained_run: {str(directory)!r} holds an adapter of the base model {shown(base)}, which is no directory "
            f"here. Pass the base model, or the PEFT model, as model=..."
        )
    return _model_of(Path(base), TASKS.get(config.task_type or "", ""))


class _Adapter(msgspec.Struct):
    """What is read of an `adapter_config.json` before PEFT is."""

    base_model_name_or_path: str | None = None
    task_type: str | None = None
