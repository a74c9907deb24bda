"""The table of docs/methods.md: each question, the call, what it needs and costs, and what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from captum_tracinwe.evaluation import WordDeletion
from common import RESULTS

__all__ = ["methods"]

CLEANLAB, THE_CNNS = "words, 5 folds, cleanlab, adjusted", "the CNN's names"


def methods(deletion: Callable[[dict[str, Any]], str]) -> str:
    """Rows of the table; ``deletion`` makes the table of a deletion, from which separations are taken."""

    def apart(name: str, method: str) -> str:
        return _cell(deletion(_read(name)), method, 3)

    toxic, bert = "own-jigsaw_toxicity-cnn-cpu", "own-ag_news-bert-cpu"
    cells = _read("labels-cnn-s1")["cells"].values()
    precision = {name: sum(cell["AP"][name] for cell in cells) / len(cells) for name in ("suspects", "loss", CLEANLAB)}
    named, other = _hidden()
    index, collect = _read("index", above=True)["search"], _read("drop_in", above=True)["captum / ours"]
    groups, weights, sizes = (_table(name) for name in ("groups-cnn-cpu", "weights-cnn-cpu", "sizes-ag_news-bert-cpu"))
    near, poison, bias = (_table(name) for name in ("prefilter-ag_news-cnn-cpu", "poison-alpaca-cpu", "bias-cnn-cpu"))
    back = _table("rollback-ag_news-cnn-cpu")
    plain, weighted = (_cell(bias, "models: bias, 11 words", column) for column in (1, 2))
    rows = [
        ("Why did the model say this?", '`TracInWE(..., preconditioner="auto")` [page](guide/why.md)',
         "checkpoints, training texts", "a gradient pass over the training set, once with an index",
         f"separation {apart(toxic, 'WE, recommended')} on toxic comments; TR-TFIDF {apart(toxic, 'TR-TFIDF')}, BM25 "
         f"{apart(toxic, 'BM25')}. News, a small BERT: {apart(bert, 'WE, recommended')}; a regression on words "
         f"{apart(bert, 'regression on words')}: **behind**"),
        ("The same as Captum", "`TracInWE(...)` [page](guide/from_captum.md)", "the same", "the same",
         f"Captum's scores {collect['seconds']:.1f} times as fast; separation {apart(toxic, 'WE')}: weaker than \"auto\""),
        ("Which words carried it?", "`word_influence`, `word_report` [page](guide/spurious_words.md)", "the same", "the same",
         f"the named word hidden in 100 texts moves the answer by {named}, another word by {other}"),
        ("Which labels are wrong?", "`suspects` [page](guide/wrong_labels.md)", "the same",
         "a pass, and a Gram matrix of the texts",
         f"mean average precision {precision['suspects']:.2f}; the loss {precision['loss']:.2f}, cleanlab on words "
         f"{precision[CLEANLAB]:.2f}"),
        ("The best of very many texts", "`build_index`, `TracInWE(..., index=...)` [page](guide/fast.md)", "disk",
         f"{index['warm_seconds_per_question'] * 1e3:.0f} ms a question of {index['texts']:,} texts, paper's score",
         f"equal to brute force; {index['proponents']['verified_median']:.1%} of the texts looked at"),
        ("What does a whole group of texts do?", "`group_influence` [page](neighbours/groups.md)", "groups", "as one question",
         f"agreement with retraining {_cell(groups, 'TracIn-WE, recommended', 3)} for a question; TR-TFIDF summed "
         f"{_cell(groups, 'TR-TFIDF', 3)}: **behind**"),
        ("The same by unlearning", "`unlearn`, `unlearn_inverse` [page](neighbours/groups.md)", "the model itself",
         "a short training a group",
         f"agreement {_cell(groups, 'UnTrac', 3)} for a question, {_cell(groups, 'UnTrac', 1)} over all questions; group size "
         f"{_cell(groups, 'group size', 1)}: **no lead**"),
        ("A scorer without an index", "`prefilter` [page](neighbours/prefilter.md)", "features, or a cheap score",
         "the scorer on candidates alone",
         f"of 2,000 texts 100 hold {_cell(near, 'last layer, cosine', 2)} of the first ten by the last layer, "
         f"{_cell(near, 'TracIn-Last', 2)} by TracIn-Last's score"),
        ("Does a small model's ranking hold for a larger one?", "`rank_agreement` [page](neighbours/sizes.md)", "scores of both",
         "a second",
         f"without the CNN's names the probability of the BERT's answer changes by {_cell(sizes, THE_CNNS, 1)}; the "
         f"regression's {_cell(sizes, 'regression on words', 1)}: **level**"),
        ("What did the optimiser really do?", "`KeepUpdates`, `rollback` [page](neighbours/rollback.md)",
         "to be there while training", "a tenth of a small BERT's training",
         f"separation {_cell(back, 'Gradient Rollback', 3)}; recommended "
         f"{_cell(back, 'WE, recommended', 3)}: **behind**"),
        ("Were instructions poisoned?", "`influence_stability` [page](neighbours/poison.md)", "odd questions, and turned ones",
         "a question for each version", f"{_cell(poison, 'influence_stability', 1)} of the planted pairs; a search for the "
         f"questions' words {_cell(poison, 'words of the questions (tf-idf)', 1)}: **behind**"),
        ("Which words give the label away?", "`lexical_bias`, `independence_weights` [page](neighbours/bias.md)",
         "texts and labels, no model", "seconds; a minute for weights",
         f"bias in models {plain} before, {weighted} after; accuracy "
         f"{_cell(bias, 'models: accuracy, 2,000 texts', 3)}"),
        ("How much should each text count?", "`example_weights` [page](neighbours/weights.md)",
         "some texts with labels that are right", "a question, and a training",
         f"accuracy {_cell(weights, 'weighted, 1 round', 1)}, as they are "
         f"{_cell(weights, 'as they are', 1)}, suspects removed {_cell(weights, 'suspects removed', 1)}: **behind**"),
    ]  # fmt: skip
    head = "| question | call | needs | costs | measured |"
    return "\n".join([head, "|---|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def _read(name: str, above: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(((RESULTS.parent if above else RESULTS) / f"{name}.json").read_text())
    return content


def _table(name: str) -> str:
    """What a neighbour's own script makes of its result."""
    made: str = import_module(name.split("-")[0]).table(_read(name))
    return made


def _cell(table: str, row: str, column: int) -> str:
    """A cell of the first row of that name."""
    return next(line for line in table.splitlines() if line.startswith(f"| {row} |")).split(" | ")[column].strip(" |")


def _hidden() -> tuple[Any, Any]:
    import torch

    content = _read("recommended_words-ag_news-cnn-cpu")
    sides = (torch.tensor(content[side], dtype=torch.float64) for side in ("named", "control"))
    return WordDeletion(*sides).intervals()
