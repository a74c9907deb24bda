"""Tables of the repository's README: what it takes, and what it is better at than what a person would use instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from captum_tracinwe.evaluation import DeletionCurve, Interval, bootstrap_mean
from common import RESULTS
from label_tables import ahead

__all__ = ["README"]

TEXTS = 100_000
#: What was taken away, the results file, and the rival by its name there and in the README.
TAUGHT = [
    ("toxic comments, a small CNN", "own-jigsaw_toxicity-cnn-cpu", "BM25", "a text search (BM25)"),
    ("toxic comments, a small CNN", "own-jigsaw_toxicity-cnn-cpu", "regression on words", "a regression on words"),
    ("news, a small BERT", "own-ag_news-bert-cpu", "regression on words", "a regression on words"),
    (
        "news, a fine-tuned MiniLM",
        "own-ag_news-minilm-cpu",
        "TR-TFIDF",
        "TR-TFIDF (shared rare words times the model's errors)",
    ),
]
WRONG = [
    ("labels-cnn-s1", "words, 5 folds, cleanlab, adjusted", "cleanlab on a regression on words"),
    ("labels-minilm-s1", "cleanlab, mean of checkpoints, adjusted", "cleanlab on its answers"),
]


def instead() -> str:
    """Question by question: we, what a person would use instead, and who is better beyond the 95 % interval of the difference."""
    lines = [
        "| question | measure | here | instead | verdict |",
        "|---|---|---|---|---|",
        _captum(),
        *(_taught(*row) for row in TAUGHT),
        *(_wrong(*row) for row in WRONG),
        *_language_model(),
    ]
    return "\n".join(lines)


def takes() -> str:
    """Minutes of the two commands; what more texts take."""
    stored = _read(RESULTS.parent / "first_answer.json")
    rows = {
        "demo": "`demo`: built-in texts, trains a small BERT",
        "explain": "`explain` on 4,000 customer questions of BANKING77, trains a small BERT",
    }
    lines = ["| command | minutes of one core |", "|---|---|"]
    lines += [f"| {title} | {stored[name]['processor seconds'] / 60:.1f} |" for name, title in rows.items()]
    return "\n".join([*lines, "", costs()])


def costs() -> str:
    """Gradients of 100,000 texts, from what was measured."""
    collect, build = _read(RESULTS.parent / "collect.json"), _read(RESULTS.parent / "index.json")["build"]
    hours = TEXTS * collect["threads"] / collect["rows"]["row gradients"]["texts/s"] / 3600
    giga = TEXTS * build["file_bytes"] / build["texts"] / 1e9
    read = _read(RESULTS.parent / "index.json")["search"]["proponents"]["read_median"]
    return (
        f"**{TEXTS:,} texts** of 64 tokens take {hours:.1f} core hours and {giga:.1f} GB of disk, once, for each of three "
        f"to five checkpoints (a BERT of 6 layers of width 384).\nLater questions only read from disk. The score recommended for "
        f"classifiers reads all of it, the paper's about {read:.0%}. Time and bytes grow with the number of texts."
    )


def _captum() -> str:
    found = _read(RESULTS.parent / "drop_in.json")
    sides = [found["sides"][side] for side in ("ours", "captum")]
    ours, theirs = (f"{side['seconds']:.1f} s, {side['anonymous'] / 1e9:.1f} GB" for side in sides)
    verdict = f"**better**: {found['captum / ours']['seconds']:.1f} times as fast"
    return f"| equal scores, of a 12-layer BERT | time, memory | {ours} | Captum's `TracInCP`: {theirs} | {verdict} |"


def _taught(question: str, name: str, rival: str, title: str) -> str:
    content = _read(RESULTS / f"{name}.json")
    ours, theirs = (_apart(content, method) for method in ("WE, recommended", rival))
    cells = f"{float(ours.mean()):.2f} | {title}: {_signed(float(theirs.mean()))}"
    return f"| what taught an answer? {question} | separation | {cells} | {_verdict(bootstrap_mean(ours - theirs))} |"


def _wrong(name: str, rival: str, title: str) -> str:
    cells = list(_read(RESULTS / f"{name}.json")["cells"].values())
    ours, theirs = (sum(cell["AP"][method] for cell in cells) / len(cells) for method in ("suspects", rival))
    model = "a small CNN" if "cnn" in name else "a fine-tuned MiniLM"
    verdict = _verdict(Interval(*ahead(cells, "suspects", rival)))
    question = f"which labels are wrong? {len(cells)} trials, {model}"
    return f"| {question} | average precision | {ours:.2f} | {title}: {theirs:.2f} | {verdict} |"


def _language_model() -> list[str]:
    methods = _read(RESULTS.parent / "instructions.json")["methods"]
    ours = methods["output rows, idf², by words"]["recall@50"]
    rows = []
    for name, title in (
        ("BM25, answer", "a text search (BM25)"),
        ("words alone, idf², by words", "rare words, no model"),
    ):
        theirs = methods[name]["recall@50"]
        apart = ours["mean"] - theirs["mean"]
        verdict = "**better**" if ours["least"] > theirs["most"] else "**worse**" if apart < 0 else "better in the mean"
        cells = f"{ours['mean']:.0%} | {title}: {theirs['mean']:.0%} | {verdict}"
        rows.append(f"| what taught a language model this? mean of 3 data sets | planted texts found | {cells} |")
    return rows


def _apart(content: dict[str, Any], method: str) -> torch.Tensor:
    """Separation of each test text."""
    curves = [
        DeletionCurve(
            tuple(content["ks"]),
            tuple(content["seeds"]),
            torch.tensor(content["methods"][method][side], dtype=torch.float64),
            side == "proponents",
        ).by_test()
        for side in ("opponents", "proponents")
    ]
    return curves[0].mean(1) - curves[1].mean(1)


def _verdict(difference: Interval) -> str:
    if difference.excludes(0):
        return "**better**" if difference.estimate > 0 else "**worse**"
    return "level"


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


README = {"instead": instead, "takes": takes}
