"""What the experiments share: presets, data, the model that is explained, retraining over several processes, stored results."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from captum_tracinwe.methods import Examples, Explained
from captum_tracinwe.retraining import ManyCNNs, OneByOne, Recipe
from models import MODELS
from torch import Tensor, nn

from captum_tracinwe import __version__, save_checkpoint
from captum_tracinwe.app import data

RESULTS = Path(__file__).parent.parent / "results" / "evidence"
DATA = Path(__file__).parents[3] / "shared" / "data"
# Data set → training file, test file. The noisy one is trained on human labels, its gold ones stand under "label".
FILES = {
    "ag_news": ("ag_news/train_20k.jsonl.gz", "ag_news/test_2k.jsonl.gz"),
    "jigsaw_toxicity": ("jigsaw_toxicity/train_10k.jsonl.gz", "jigsaw_toxicity/test_2k.jsonl.gz"),
    "banking77": ("banking77/train.csv.gz", "banking77/test.csv.gz"),
    "snli": ("snli/train.jsonl.gz", "snli/test_2k.jsonl.gz"),
    "ag_news_noisy": ("ag_news_noisy/train.jsonl.gz", "ag_news/test_2k.jsonl.gz"),
}
WORDS = re.compile(r"\w+")
LIST = re.compile(r"\[\n[^\[\]{}]*\n\s*\]")


@dataclass(frozen=True)
class Preset:
    """Sizes of an experiment."""

    texts: int
    tests: int
    seeds: int
    ks: tuple[int, ...]
    positions: int
    recipe: Recipe
    checkpoints: tuple[int, ...] = (2, 3, 4)  # after which epochs
    device: str = "cpu"
    at_once: int = 4


PRESETS = {
    "smoke": Preset(200, 4, 2, (0, 20), 16, Recipe(2, 32, 0.05), (1, 2)),
    # The authors' batches of 128 at 2e-2 over 10 epochs make 3,900 steps of 50,000 texts, but 310 of 4,000, in which this CNN
    # learns nothing. Batches of 32 at 5e-2 learn: training loss 0.5, test accuracy 0.66 after 4 epochs.
    "cpu": Preset(4000, 20, 5, (0, 100), 32, Recipe(4, 32, 0.05)),
    # As close to the paper as the data allow: 20,000 texts for its 50,000.
    "gpu": Preset(20_000, 100, 10, tuple(range(0, 101, 10)), 128, Recipe(10, 128, 0.05), (4, 7, 9), "cuda", at_once=64),
}


@dataclass
class Task:
    """Texts as ids and words, and how to make the model."""

    name: str
    kind: str
    preset: Preset
    seed: int
    train: Examples
    test: Examples
    texts: tuple[list[str], list[str]]
    classes: list[str]
    tokenizer: Any
    given_labels: Tensor | None = None  # where the labels trained on are noisy: whether each is wrong
    right_labels: Tensor | None = None  # and the right ones, in the order of the texts

    def make_model(self) -> nn.Module:
        return MODELS[self.kind].make(len(self.tokenizer), len(self.classes), self.preset.positions)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """After which epochs the explained model is kept."""
        return MODELS[self.kind].checkpoints or self.preset.checkpoints

    @property
    def recipe(self) -> Recipe:
        return MODELS[self.kind].recipe or self.preset.recipe

    def explained(
        self,
        folder: str | Path,
        seed: int = 0,
        progress: Callable[[str], None] = print,
        *,
        recipe: Recipe | None = None,
        hidden: Tensor | None = None,
    ) -> Explained:
        """Train one model on everything, checkpoints on the way; by another recipe, or with positions hidden, if given."""
        retrain = OneByOne(self.make_model, self.train.batch, self.test.batch, recipe or self.recipe)
        kind = MODELS[self.kind]
        loss = nn.CrossEntropyLoss(reduction="none")
        paths: list[str] = []

        def save(model: nn.Module, epoch: int) -> None:
            if epoch in self.checkpoints:
                paths.append(f"{folder}/epoch-{epoch:02d}.pt")
                save_checkpoint(paths[-1], model, self.recipe.learning_rate, step=epoch)
                model.eval()
                with torch.no_grad():
                    ids, labels = self.train.batch
                    value = torch.cat(
                        [loss(model(a), b) for a, b in zip(ids.split(256), labels.split(256), strict=True)]
                    ).mean()
                model.train()
                progress(f"epoch {epoch}: training loss {value:.3f}")

        model = retrain.fit(torch.ones(len(self.train), dtype=torch.bool), seed, hidden, after_epoch=save)
        return Explained(model.eval(), paths, loss, kind.last, kind.embedding)

    def retrain(self, workers: int = 1, cache: Path | None = None, ask: str = "__call__") -> Retraining:
        """The trainer for this model, on several processes; ``ask`` is its method that answers."""
        train, test, recipe = self.train.batch, self.test.batch, self.recipe
        if self.kind == "cnn":
            trainer: Any = ManyCNNs(self.make_model, train, test, recipe, at_once=self.preset.at_once)
        else:
            trainer = OneByOne(self.make_model, train, test, recipe)
        return Retraining(trainer, workers, cache, self.fingerprint, ask)

    @property
    def fingerprint(self) -> str:
        """What the answers of a retraining depend on, besides what it keeps and its seed."""
        digest = hashlib.sha1(f"{self.name} {self.kind} {self.recipe} {len(self.tokenizer)}".encode())
        for side in (self.train, self.test):
            for field in side.batch:
                digest.update(field.cpu().numpy().tobytes())
        return digest.hexdigest()

    def seeds(self) -> tuple[int, ...]:
        """Of the retrainings. The explained model is that of seed 0: a pair with it would test the scores on their own model."""
        return tuple(range(1, 1 + self.preset.seeds))


_answer: Any = None


def _chunk(job: tuple[Tensor, list[int], Any]) -> Tensor:
    torch.set_num_threads(1)
    found: Tensor = _answer(*job).cpu()
    return found


class Retraining:
    """A trainer called in chunks over processes; answers are kept in a file, so that an interrupted run goes on.

    ``of`` tells the experiment: answers of another one in the file are not touched, and not taken.
    """

    def __init__(self, trainer: Any, workers: int, cache: Path | None, of: str = "", ask: str = "__call__") -> None:
        self.answer, self.cache, self.of = getattr(trainer, ask), cache, of + ask.removeprefix("__call__")
        self.workers = 1 if trainer.train[0].is_cuda else workers  # a CUDA context does not survive a fork
        self.size = 4 * getattr(trainer, "at_once", 1)
        self.known: dict[str, Tensor] = torch.load(cache) if cache is not None and cache.exists() else {}

    def __call__(self, keep: Tensor, seeds: Sequence[int], hidden: Any = None) -> Tensor:
        keys = [
            self.of
            + hashlib.sha1(f"{seed}{hidden[j] if hidden else []}".encode() + keep[j].numpy().tobytes()).hexdigest()
            for j, seed in enumerate(seeds)
        ]
        todo = sorted((j for j, key in enumerate(keys) if key not in self.known), key=lambda j: seeds[j])
        chunks = [todo[start : start + self.size] for start in range(0, len(todo), self.size)]
        work = [(keep[c], [seeds[j] for j in c], [hidden[j] for j in c] if hidden else None) for c in chunks]
        started = time.perf_counter()
        for number, (chunk, answers) in enumerate(zip(chunks, self._run(work), strict=True), 1):
            self.known |= {keys[j]: answer for j, answer in zip(chunk, answers, strict=True)}
            if self.cache is not None:
                torch.save(self.known, self.cache)
            seconds = time.perf_counter() - started
            print(
                f"  {min(number * self.size, len(todo))} of {len(todo)} retrainings, {seconds:.0f} s", file=sys.stderr
            )
        return torch.stack([self.known[key] for key in keys])

    def _run(self, work: list[Any]) -> Any:
        global _answer
        _answer = self.answer
        if self.workers == 1:
            yield from (self.answer(*job) for job in work)
            return
        with multiprocessing.get_context("fork").Pool(self.workers) as pool:
            yield from pool.imap(_chunk, work)


# --------------------------------------------------------------------------------------------------------------- data


def load(name: str, kind: str, preset: Preset, folder: Path, seed: int = 0) -> Task:
    """Texts of a data set, the model's tokenizer, ``preset.tests`` test points of balanced classes."""
    train_file, test_file = (folder / file for file in FILES[name])
    given = "noisy_label" if name == "ag_news_noisy" else "label"
    rows = _rows(train_file, name, given)
    classes = data.classes_of(rows, train_file)
    train = data.with_classes(rows, classes, train_file)
    test = data.with_classes(_rows(test_file, name, "label"), classes, test_file)
    gold: dict[int, int] = {}  # by line of the file: a sample is drawn by the labels that are trained on
    if given != "label":
        right = data.with_classes(_rows(train_file, name, "label"), classes, train_file)
        gold = dict(zip(right.lines, right.labels, strict=True))
    train = data.sample(train, preset.texts, seed)
    test = data.sample(test, preset.tests, seed)
    tokenizer = MODELS[kind].tokenizer(train.texts)
    examples = []
    for side in (train, test):
        encoded = tokenizer(list(side.texts), truncation=True, max_length=preset.positions, return_offsets_mapping=True)
        ids = torch.zeros(len(side), preset.positions, dtype=torch.int64)
        words = []
        for i, (row, places) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            # BM25 and TF-IDF read what the model reads: of AG News, 38 % of the words lie beyond its positions.
            words.append(WORDS.findall(side.texts[i][: max(end for _, end in places)].lower()))
        device = preset.device
        examples.append(Examples((ids.to(device), torch.tensor(side.labels).to(device)), words))
    known = torch.tensor([gold[line] for line in train.lines]) if gold else None
    flags = None if known is None else torch.tensor(train.labels) != known
    texts = list(train.texts), list(test.texts)
    return Task(name, kind, preset, seed, *examples, texts, list(train.names), tokenizer, flags, known)


def _rows(path: Path, name: str, label: str) -> list[data.Row]:
    if name != "snli":
        return data.read_rows(path, "text", "category" if name == "banking77" else label)
    pairs = zip(data.read_rows(path, "premise"), data.read_rows(path, "hypothesis"), strict=True)
    return [replace(first, text=f"{first.text} [SEP] {second.text}") for first, second in pairs]


# ------------------------------------------------------------------------------------------------------------ results


def arguments(description: str, **defaults: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the data sets")
    parser.add_argument("--dataset", choices=FILES, default=defaults.get("dataset", "ag_news"))
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--cache", type=Path, help="file that keeps the answers of finished retrainings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    for option in ("texts", "tests", "seeds"):
        parser.add_argument(f"--{option}", type=int, help="instead of the preset's")
    return parser


def begin(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, Task]:
    """What the command line asks for, on one thread: more are more processes."""
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    return args, load(args.dataset, args.model, preset_of(args), args.data)


def preset_of(args: argparse.Namespace) -> Preset:
    """The preset with what the command line asks for instead.

    Raises:
        SystemExit: numbers too small for an experiment, a folder without the data, a GPU that is not there.
    """
    for option, least in (("texts", 2), ("tests", 2), ("seeds", 1)):
        if getattr(args, option) is not None and getattr(args, option) < least:
            raise SystemExit(f"--{option} {getattr(args, option)}: expected at least {least}.")
    missing = [name for name in FILES[args.dataset] if not (args.data / name).is_file()]
    if missing:
        raise SystemExit(
            f"--data {args.data}: expected {missing[0]} there, one JSON object a line (see README.md, The data). Pass the folder "
            f"that holds it."
        )
    if PRESETS[args.preset].device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--preset {args.preset} trains on a GPU, and torch finds none: expected --preset cpu here.")
    changes = {name: getattr(args, name) for name in ("texts", "tests", "seeds") if getattr(args, name) is not None}
    return replace(PRESETS[args.preset], **changes)


def facts(task: Task, preset_name: str) -> dict[str, Any]:
    import captum
    import transformers

    return {
        "dataset": task.name,
        "model": task.kind,
        "preset": preset_name,
        "settings": asdict(task.preset)
        | {
            "texts": len(task.train),
            "tests": len(task.test),
            "checkpoints": task.checkpoints,
            "recipe": asdict(task.recipe),
            "data seed": task.seed,
            "vocabulary used": len(task.tokenizer),
        },
        "date": str(datetime.date.today()),
        "machine": platform.machine(),
        "versions": {
            "captum_tracinwe": __version__,
            "torch": torch.__version__,
            "captum": captum.__version__,
            "transformers": transformers.__version__,
        },
    }


def store(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """JSON with numbers to 6 digits, a list of numbers on a line, written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(laid_out(_rounded(content)))
    temporary.replace(path)
    return path


def laid_out(content: dict[str, Any]) -> str:
    """As JSON, a list that holds neither lists nor mappings on one line: a tenth of the lines."""
    text = json.dumps(content, indent=1)
    return LIST.sub(lambda one: re.sub(r"\n\s*", " ", one[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _rounded(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
