"""The data sets of the tutorials: where their files lie, how they are read, and how to get one that is not there.

A folder of data is looked for in the one that ``CAPTUM_TRACINWE_DATA`` names, in ``data`` of the current directory and of those
above it, and in ``shared/data`` beside the checkout.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

from captum_tracinwe.app.data import LabelledTexts, classes_of, read_rows, sample, with_classes

__all__ = ["MissingDataError", "ag_news", "ag_news_noisy", "banking77", "find", "instructions", "toxicity"]

#: Environment variable with the folder of the data.
PLACE = "CAPTUM_TRACINWE_DATA"

#: Data set → how to get it, on one line.
HOW = {
    "banking77": "mkdir -p data/banking77 && curl -L -o data/banking77/train.csv "
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data/train.csv",
    "jigsaw_toxicity": "put comments of Kaggle's Toxic Comment Classification Challenge into "
    "data/jigsaw_toxicity/train_10k.jsonl (fields text, label) and others into test_2k.jsonl",
    "ag_news": "datasets.load_dataset('ag_news', split='train').shuffle(0).select(range(20000))"
    ".to_json('data/ag_news/train_20k.jsonl'), and the same of split='test' to test_2k.jsonl",
    "ag_news_noisy": "put samples10000valMed.csv of the GitHub repository hhf-hd/NoisyAG-News into "
    "data/ag_news_noisy/train.jsonl (fields text, label, noisy_label)",
    "alpaca_5k": "datasets.load_dataset('tatsu-lab/alpaca', split='train[:4500]').to_json('data/alpaca_5k/train.jsonl')",
}


class MissingDataError(FileNotFoundError):
    """A data set is not here. In a notebook it is its message alone: no page of traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def find(name: str, file: str) -> Path:
    """The file of a data set, as it is or compressed (``.gz``).

    Args:
        name (str): the data set, as its folder is called.
        file (str): the file in it.

    Raises:
        MissingDataError: it is in none of the places; the message says how to get it.
    """
    for folder in _places():
        for ending in ("", ".gz"):
            path = folder / name / f"{file}{ending}"
            if path.is_file():
                return path
    raise MissingDataError(f"{name} is not here ({PLACE} names a folder of data). To get it: {HOW[name]}")


def _places() -> Iterator[Path]:
    if os.environ.get(PLACE):
        yield Path(os.environ[PLACE])
    here = Path.cwd()
    yield from (folder / "data" for folder in (here, *here.parents))
    checkout = Path(__file__).resolve().parents[2]
    yield from (folder / "shared" / "data" for folder in (checkout.parent, here.parent, *here.parents))


def banking77() -> LabelledTexts:
    """BANKING77: 10,003 questions to a bank, one of 77 intents each (Casanueva et al., 2020; CC BY 4.0).

    Raises:
        MissingDataError: its file is not here.
    """
    return _labelled("banking77", "train.csv", "category")


def toxicity(size: int | None = None, test: bool = False) -> LabelledTexts:
    """Comments of Wikipedia's talk pages, toxic or not (Jigsaw); offensive language. ``size``: a sample, classes in their shares.

    Raises:
        MissingDataError: its file is not here.
    """
    return _some(_labelled("jigsaw_toxicity", "test_2k.jsonl" if test else "train_10k.jsonl"), size)


def ag_news(size: int | None = None, test: bool = False) -> LabelledTexts:
    """AG News: titles and beginnings of 20,000 news, of four topics. ``size``: a sample, classes in their shares.

    Raises:
        MissingDataError: its file is not here.
    """
    return _some(_labelled("ag_news", "test_2k.jsonl" if test else "train_20k.jsonl"), size)


def ag_news_noisy(size: int | None = None) -> tuple[LabelledTexts, tuple[bool, ...]]:
    """News with the topics that people gave them, and whether these are wrong (NoisyAG-News). ``size``: a sample.

    Raises:
        MissingDataError: its file is not here.
    """
    given = _some(_labelled("ag_news_noisy", "train.jsonl", "noisy_label"), size)
    right = {row.line: row.label for row in read_rows(find("ag_news_noisy", "train.jsonl"), "text", "label")}
    wrong = tuple(int(right[line]) != label for line, label in zip(given.lines, given.labels, strict=True))
    return given, wrong


def instructions(longest: int | None = None) -> list[tuple[str, str]]:
    """Instructions and their answers (Stanford Alpaca). ``longest``: only those of at most so many words together.

    Raises:
        MissingDataError: its file is not here.
    """
    path = find("alpaca_5k", "train.jsonl")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]
    pairs = [
        (" ".join(f"{row['instruction']} {row['input']}".split()), " ".join(row["output"].split())) for row in rows
    ]
    return [pair for pair in pairs if longest is None or len(" ".join(pair).split()) <= longest]


def _labelled(name: str, file: str, label_column: str = "label") -> LabelledTexts:
    path = find(name, file)
    rows = read_rows(path, "text", label_column)
    return with_classes(rows, classes_of(rows, path), path)


def _some(texts: LabelledTexts, size: int | None) -> LabelledTexts:
    return texts if size is None else sample(texts, size)
