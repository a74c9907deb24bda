"""A small text classifier, trained or fine-tuned with checkpoints along the way: what the command line explains."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captum_tracinwe.app.files import InputError
from captum_tracinwe.app.files.rows import Text
from captum_tracinwe.checkpoints.weights import save_checkpoint
from captum_tracinwe.gradients.seen import is_terminal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["EncodedTexts", "TrainingRun", "batches", "load_model", "logits_of", "quiet_transformers"]
__all__ += ["seeded", "small_bert", "train", "wordpiece_tokenizer", "words_tokenizer"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # [PAD] first: id 0 is BERT's padding_idx
Batch = dict[str, Tensor]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' advice and progress bars off the terminal, then put its settings back."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Reproducible weights; torch's generator (which data loaders draw from, too) is put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


# -------------------------------------------------------------------------------------------------- model, tokenizer


def words_tokenizer(texts: Sequence[Text]) -> PreTrainedTokenizerBase:
    """A tokenizer with one token for every word of ``texts`` (lower-cased), for small vocabularies."""
    from tokenizers import Tokenizer, models, trainers

    learner = _split_as_bert(Tokenizer(models.WordLevel(unk_token="[UNK]")))
    learner.train_from_iterator(_single(texts), trainers.WordLevelTrainer(special_tokens=list(SPECIAL_TOKENS)))
    return _bert_like(models.WordLevel(learner.get_vocab(), unk_token="[UNK]"), texts)


def wordpiece_tokenizer(texts: Sequence[Text], size: int = 8000) -> PreTrainedTokenizerBase:
    """A tokenizer with a vocabulary of at most ``size`` word pieces learnt from ``texts`` (lower-cased)."""
    from tokenizers import Tokenizer, models, trainers

    learner, single = _split_as_bert(Tokenizer(models.WordPiece(unk_token="[UNK]"))), _single(texts)
    # The trainer numbers "##a" and the like as it meets them in a hash table, anew in each process, and decides between
    # equally frequent pairs by number: the same texts gave another vocabulary each time. Reserved, they have fixed numbers.
    inside = sorted({f"##{character}" for text in single for character in learner.normalizer.normalize_str(text)})
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=[*SPECIAL_TOKENS, *inside], show_progress=False
    )
    learner.train_from_iterator(single, trainer)
    return _bert_like(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"), texts)


def _single(texts: Sequence[Text]) -> list[str]:
    """All texts, the two of a pair one after the other."""
    return [part for text in texts for part in ((text,) if isinstance(text, str) else text)]


def _split_as_bert(tokenizer: Any) -> Any:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bert_like(model: Any, texts: Sequence[Text]) -> PreTrainedTokenizerBase:
    """What a tokenizer of BERT does around a vocabulary; of pairs it tells which token is of which text."""
    from tokenizers import Tokenizer, decoders, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = _split_as_bert(Tokenizer(model))
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.decoder = decoders.WordPiece()
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    pairs = any(not isinstance(text, str) for text in texts)
    inputs = ["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_input_names=inputs,
    )


def small_bert(vocabulary: int, names: Sequence[str], width: int = 128, positions: int = 512) -> PreTrainedModel:
    """A BERT classifier of 2 layers with fresh weights: the size that TracIn-WE's authors trained."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 32),
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        num_labels=len(names),
        pad_token_id=0,
        # BERT's 0.02 is meant for width 768. On the built-in corpus it leaves one seed in five stuck at a loss of 0.7;
        # with 0.05 none is, and on news texts 7 to 9 of 10 proponents of an answer carry its label, not 6.
        initializer_range=0.05,
    )
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return BertForSequenceClassification(config)


def load_model(directory: str | Path, names: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer from a local directory; an encoder gets a fresh head of ``len(names)`` classes.

    Raises:
        InputError: the directory is not there or holds no such model; nothing is looked up elsewhere.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"--model {directory}: no such directory; expected one written by save_pretrained.")
    if not (directory / "config.json").is_file():
        raise InputError(f"--model {directory}: no config.json in it; expected a directory written by save_pretrained.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            directory, num_labels=len(names), ignore_mismatched_sizes=True, local_files_only=True
        )
    except Exception as error:  # raises whatever the files happen to lead to: TypeError with transformers 4
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"--model {directory}: not a text classification model with a tokenizer ({reason}); expected what save_pretrained "
            f"of both wrote there."
        ) from error
    known, rows = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if known <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"--model {directory}: its tokenizer knows no words; expected the tokenizer's files beside the model."
        )
    if known > rows:
        raise InputError(
            f"--model {directory}: its tokenizer has {known} tokens and the model only {rows} embeddings; expected a pair "
            f"that belongs together."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    # Of a model for several labels, or a number, transformers would take the loss of that; texts here have one class each.
    model.config.problem_type = "single_label_classification"
    return model, tokenizer


# ------------------------------------------------------------------------------------------------------------- texts


class EncodedTexts(Dataset[dict[str, Any]]):
    """Token ids and labels, one dict per text or pair of texts; `batches` pads them."""

    def __init__(
        self, texts: Sequence[Text], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        pairs = any(not isinstance(text, str) for text in texts)  # a file has pairs alone, or none
        columns = [list(column) for column in zip(*texts, strict=True)] if pairs else [list(texts)]
        encoded = tokenizer(*columns, truncation=True, max_length=max_length)
        self.fields = {key: encoded[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded}
        self.labels = list(labels)
        self.padding = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**{key: values[index] for key, values in self.fields.items()}, "labels": self.labels[index]}

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Pad to the longest text of the batch."""
        longest = max(len(example["input_ids"]) for example in examples)
        batch = {
            key: torch.tensor(
                [example[key] + [self.padding[key]] * (longest - len(example[key])) for example in examples]
            )
            for key in self.fields
        }
        return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}


def batches(
    texts: EncodedTexts,
    batch_size: int,
    generator: torch.Generator | None = None,
    collate: Callable[[Sequence[dict[str, Any]]], Batch] | None = None,
) -> DataLoader[Batch]:
    """Padded batches, in order, or shuffled by ``generator``; padded by ``collate`` of other texts of the same tokenizer."""
    shuffle = generator is not None
    return DataLoader(texts, batch_size, shuffle=shuffle, generator=generator, collate_fn=collate or texts.collate)


# ---------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class TrainingRun:
    """What training left behind: a checkpoint, its step, learning rate and the loss since the one before."""

    checkpoints: tuple[Path, ...]
    steps: tuple[int, ...]
    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    seconds: float


def train(
    model: nn.Module,
    texts: EncodedTexts,
    directory: str | Path,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    checkpoints: int = 4,
    in_folders: bool = False,
) -> TrainingRun:
    """Train with AdamW, the rate falling linearly to a tenth; save checkpoints at equal distances, the last at the end.

    Args:
        model (nn.Module): called as ``model(**batch)``, returns ``.loss``; left in evaluation mode.
        texts (EncodedTexts): the training texts.
        directory (str or Path): where the checkpoints go; made if it is not there.
        epochs, batch_size (int): as usual.
        learning_rate (float): of the first step; each checkpoint carries that of its own step.
        seed (int): of the shuffling and the dropout; torch's generator is put back afterwards.
        checkpoints (int): how many; 0: none.
        in_folders (bool): each is a folder ``checkpoint-N``, as Trainer makes them; they may then lie beside a model.

    Returns:
        TrainingRun: the checkpoints and how training went.
    """
    from tqdm.auto import tqdm

    started = perf_counter()
    steps = epochs * -(-len(texts) // batch_size)
    due = {-(-steps * (c + 1) // checkpoints) for c in range(checkpoints)}
    Path(directory).mkdir(parents=True, exist_ok=True)
    saved: list[tuple[Path, int, float, float]] = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    shuffled = batches(texts, batch_size, torch.Generator().manual_seed(seed))
    losses: list[float] = []
    shown: dict[str, Any] = {"leave": False, "delay": 2, "disable": not is_terminal(sys.stderr)}
    with torch.random.fork_rng(), tqdm(total=steps, desc="Training", file=sys.stderr, **shown) as bar:
        torch.manual_seed(seed)
        model.train()
        for step, batch in enumerate((batch for _ in range(epochs) for batch in shuffled), 1):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"Training diverged: the loss is {losses[-1]} at step {step} of {steps}.")
            bar.update()
            if step in due:
                path = Path(directory) / f"checkpoint-{step:06d}{'' if in_folders else '.pt'}"
                save_checkpoint(path / "model.safetensors" if in_folders else path, model, rate, step=step)
                saved.append((path, step, rate, sum(losses) / len(losses)))
                losses.clear()
    model.eval()
    paths, numbers, rates, means = zip(*saved, strict=True) if saved else ((), (), (), ())
    return TrainingRun(paths, numbers, rates, means, perf_counter() - started)


def logits_of(model: nn.Module, texts: EncodedTexts, batch_size: int = 128) -> Tensor:
    """The classifier's answers ``(examples, classes)``, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(**batch).logits for batch in batches(texts, batch_size)])
