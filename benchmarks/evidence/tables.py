"""Write the tables of this folder's README, the repository's, the guide's and the pages of neighbours from the stored results.

python benchmarks/evidence/tables.py           rewrites them between their markers, and nothing else
python benchmarks/evidence/tables.py --check   fails if that would change one
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from captum_tracinwe.evaluation import (
    DeletionCurve,
    Interval,
    WordDeletion,
    auc_del,
    bootstrap,
    bootstrap_mean,
    separation,
)
from captum_tracinwe.evaluation.mistakes import Mistakes
from common import RESULTS
from label_tables import labels, suggestions, why
from method_tables import methods
from readme_tables import README

ROOT = Path(__file__).parents[2]
PAGES = [
    Path(__file__).parent / "README.md",
    ROOT / "README.md",
    ROOT / "docs" / "methods.md",
    ROOT / "docs" / "guide" / "true_ranking.md",
    ROOT / "docs" / "labels.md",
    ROOT / "docs" / "scale.md",
    *sorted((ROOT / "docs" / "neighbours").glob("*.md")),
]
MARKERS = re.compile(r"(<!-- table (?P<name>\S+) -->\n).*?(<!-- end -->)", re.S)
# AUC-DEL of the paper (arXiv 2202.11844): 50,000 texts, BERT, k to 100, 10 retrainings.
PAPER = {
    "ag_news": {
        "WE": "−.148/.100", "WE-Topk": "−.152/.100", "WE-Syn": "−.142/.096", "TR-Last": "−.032/.017",
        "Influence-Last": "−.025/.023", "Representer": "−.021/.021", "TR-TFIDF": "−.083/.054",
    },
    "jigsaw_toxicity": {
        "WE": "−.105/.122", "WE-Topk": "−.104/.125", "WE-Syn": "−.103/.125", "TR-Last": "−.025/.007",
        "Influence-Last": "−.022/−.001", "Representer": "−.021/.006", "TR-TFIDF": "−.067/.044",
    },
}  # fmt: skip


# Whose separation that of the others is set against, question by question.
RIVALS = "TR-TFIDF", "regression on words"


def curves_of(content: dict[str, Any]) -> dict[tuple[str, bool], DeletionCurve]:
    ks, seeds = tuple(content["ks"]), tuple(content["seeds"])
    return {
        (name, direction): DeletionCurve(ks, seeds, torch.tensor(row[side], dtype=torch.float64), direction)
        for name, row in content["methods"].items()
        for side, direction in (("proponents", True), ("opponents", False))
    }


def deletion(content: dict[str, Any]) -> str:
    curves, ks, seeds = curves_of(content), content["ks"], content["seeds"]
    names = list(content["methods"])
    tests, paper = next(iter(curves.values())).changes.shape[1], PAPER.get(content["dataset"], {})
    own = content.get("own", False)
    trained = (
        f"{_models(len(seeds))}, each retrained from its own seed" if own else f"{_pairs(len(seeds))} for each set"
    )
    models = content.get("models", 1)
    asked = f", the scores of {models} models added up" if models > 1 else ""
    rivals = [name for name in RIVALS if name in names and len(names) > 1]
    last = ["scoring, s", *([] if own else ["the paper's"])]
    lines = [
        f"{content['settings']['texts']:,} texts, {tests} test points{asked}, {trained}, grid k = {', '.join(map(str, ks))}.",
        "",
        f"| {' | '.join(['method', 'AUC-DEL₊ ↓', 'AUC-DEL₋ ↑', 'separation', *(f'ahead of {r} by' for r in rivals), *last])} |",
        "|---|" + "---|" * (3 + len(rivals) + len(last)),
    ]
    apart = {name: curves[name, False].by_test().mean(1) - curves[name, True].by_test().mean(1) for name in names}
    for name in names:
        plus, minus = curves[name, True], curves[name, False]
        ahead = [_difference(apart[name], apart[rival]) if name != rival else "" for rival in rivals]
        cells = [auc_del(plus), auc_del(minus), separation(plus, minus), *ahead]
        cells += [f"{content['methods'][name]['seconds']:.1f}", *([] if own else [paper.get(name, "–")])]
        lines.append(f"| {' | '.join(map(str, [name, *cells]))} |")
    if {"WE", "TR-Last"} <= set(names):
        we, last = apart["WE"], apart["TR-Last"]
        ratio = bootstrap(lambda i: we[i].mean() / last[i].mean(), len(we))
        difference = bootstrap_mean(we - last)
        # A ratio to what cannot be told from 0 says nothing.
        told = separation(curves["TR-Last", True], curves["TR-Last", False]).excludes(0)
        of_ratio = f", ratio {_plain(ratio, 1)}" if told else ""
        lines += ["", f"Separation of WE against TR-Last: difference {difference}{of_ratio}."]
    return "\n".join(lines)


def noise(content: dict[str, Any]) -> str:
    measures = ["ROC AUC", "NDR@30", "AUC_NDR"]
    lines = [
        f"{content['settings']['texts']:,} texts, {content['wrong']:.1%} of the labels wrong, "
        f"{content['settings']['tests']} test points, test accuracy {content['test accuracy']:.2f}.",
        "",
        f"| ranking | {' | '.join(measures)} |",
        "|---|---|---|---|",
    ]
    rows = sorted(content["methods"].items(), key=lambda item: -item[1]["ROC AUC"][0])
    for name, row in rows:
        lines.append(f"| {name} | {' | '.join(_plain(Interval(*row[m]), 2) for m in measures)} |")
    return "\n".join(lines)


def cancellation(content: dict[str, Any]) -> str:
    epochs = content["epochs"]
    lines = [
        f"{content['examples']} training examples; mean loss {', '.join(f'{x:.2f}' for x in content['losses'])}.",
        "",
        f"| C(W) after epoch | {' | '.join(map(str, epochs))} |",
        "|---|" + "---|" * len(epochs),
    ]
    lines += [f"| {name} | {' | '.join(f'{x:.1f}' for x in row)} |" for name, row in content["cancellation"].items()]
    return "\n".join(lines)


def words(content: dict[str, Any]) -> str:
    changes = [torch.tensor(content[side], dtype=torch.float64) for side in ("named", "control", "shared")]
    found, among_shared = WordDeletion(*changes[:2]), WordDeletion(changes[0], changes[2])
    first, second = found.intervals()
    hidden = content["words hidden"]
    positions = ", ".join(f"{side} {sum(n) / len(n):.0f}" for side, n in content["positions"].items())
    return "\n".join(
        [
            f"{found.named.shape[1]} test points, {_pairs(found.named.shape[0])}, on average {sum(hidden) / len(hidden):.0f} of "
            f"{content['proponents']} proponents with a named word; positions hidden per test point: {positions}.",
            "",
            "| hidden | change of the true class's probability |",
            "|---|---|",
            f"| the word that TracIn-WE names | {first} |",
            f"| another word of the same texts | {second} |",
            f"| another word of the same texts that the test text holds | {among_shared.intervals()[1]} |",
            f"| named against another | {found.difference()} |",
            f"| named against another shared one | {among_shared.difference()} |",
        ]
    )


def mistakes(content: dict[str, Any]) -> str:
    lines = ["| retrained without | mistakes fixed |", "|---|---|"]
    count = 0
    for name, row in content["runs"].items():
        found = Mistakes(*(torch.tensor(row[side]).bool() for side in ("wrong before", "right after")))
        count = int(found.wrong_before.sum())
        lines.append(f"| {name} | {_plain(found.fixed(), 2)} |")
    seeds = len(content["seeds"])
    return "\n".join(
        [f"{count} mistakes over {seeds} seed(s) of {found.wrong_before.shape[1]} test points.", "", *lines]
    )


def lds(content: dict[str, Any]) -> str:
    names = list(content["methods"])
    lines = [
        f"{content['subsets']} random halves of {content['settings']['texts']:,} texts, {content['settings']['tests']} test "
        f"points; on the right, the overlap of the {content['k']} strongest proponents.",
        "",
        f"| method | LDS | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for name in names:
        row = content["methods"][name]
        overlap = " | ".join("" if other == name else f"{row['agreement'][other][1]:.2f}" for other in names)
        lines.append(f"| {name} | {Interval(*row['interval'])} | {overlap} |")
    return "\n".join(lines)


def causes(content: dict[str, Any]) -> str:
    ways, k = content["ways"], content["planted"]
    names = list(next(iter(ways.values()))["methods"])
    asked = ", ".join(f"{way} {' + '.join(map(str, row['questions by seed']))}" for way, row in ways.items())
    proven = ", ".join(f"{sum(row['proven by seed']) / len(row['proven by seed']):.0%}" for row in ways.values())
    sides = ("as trained", "without what it learned", "without the other")
    pairs = f"{len(content['seeds'])} pair{'s' if len(content['seeds']) > 1 else ''} of models"
    lines = [
        f"{content['settings']['texts']:,} texts, {k} with each tag, {pairs} for each way. Questions by pair: {asked}. Of "
        f"the candidates the cause is proven of {proven}.{' Others are asked too.' * content.get('unproven asked too', False)}",
        "",
        f"| the answer's probability | {' | '.join(ways)} |",
        "|---|" + "---|" * len(ways),
    ]
    for side, title in zip(
        sides, ("as trained", f"retrained without the {k} learned", "without the other ones"), strict=True
    ):
        lines.append(f"| {title} | {' | '.join(_plain(Interval(*row[side]), 2) for row in ways.values())} |")
    lines += [
        "",
        f"| told: learned above other | {' | '.join(ways)} | in how many pairs above 0.5 |",
        "|---|" + "---|" * (len(ways) + 1),
    ]
    for name in names:
        rows = [row["methods"][name] for row in ways.values()]
        seeds = [value for row in rows for value in row["told by seed"]]
        cells = " | ".join(_plain(Interval(*row["told"]), 2) for row in rows)
        lines.append(f"| {name} | {cells} | {sum(round(value, 3) > 0.5 for value in seeds)} of {len(seeds)} |")
    lines += ["", f"| recall@{k}: learned / other, difference | {' | '.join(ways)} |", "|---|" + "---|" * len(ways)]
    for name in names:
        rows = [row["methods"][name] for row in ways.values()]
        cells = " | ".join(
            f"{row['learned'][0]:.2f} / {row['other'][0]:.2f}, {Interval(*row['difference'])}" for row in rows
        )
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def choosing(content: dict[str, Any]) -> str:
    settings = content["settings"]
    lines = [
        f"{content['sets']} sets of {content['removed']} texts, {settings['tests']} questions, {settings['texts']:,} texts; data "
        f"seed {settings['data seed']}, the model's seed {content['seed']}.",
        "",
        "| score | rank correlation | ahead of TR-TFIDF by |",
        "|---|---|---|",
    ]
    for name, row in content["methods"].items():
        own, ahead = (Interval(*one) for one in row["intervals"])
        lines.append(f"| {name} | {own} | {'' if name == 'TR-TFIDF' else ahead} |")
    return "\n".join(lines)


def speed(content: dict[str, Any]) -> str:
    lines = ["| | seconds per epoch and model (rounds) | times faster |", "|---|---|---|"]
    for name, values in content["seconds per epoch"].items():
        lines.append(f"| {name} | {', '.join(f'{v:.2f}' for v in values)} | {content['ratio'][name]:.1f} |")
    return "\n".join(
        [*lines, "", f"Largest difference of a predicted probability: {content['largest difference']:.0e}."]
    )


def _difference(one: torch.Tensor, other: torch.Tensor) -> Interval:
    """Of two methods, paired by test point."""
    return bootstrap_mean(one - other)


KINDS: dict[str, Callable[[dict[str, Any]], str]] = {
    f.__name__: f
    for f in (deletion, noise, cancellation, words, mistakes, lds, causes, choosing, speed, labels, suggestions, why)
} | {"own": deletion, "ensemble": deletion, "recommended_words": words}


def _models(count: int) -> str:
    return f"{count} explained model{'s' if count > 1 else ''}"


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count > 1 else ''} of retrainings"


def _plain(interval: Interval, digits: int) -> str:
    return f"{interval.estimate:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]".replace("-", "−")


# What stands in the guide, first which texts taught an answer: experiment, results file, and the name there
# of each column's method.
ANSWERS = {
    "recommended": "WE, recommended",
    "TracIn-WE (the paper's)": "WE",
    "TR-TFIDF": "TR-TFIDF",
    "regression on words (no model)": "regression on words",
    "BM25 (no model)": "BM25",
    "TracIn, last layer": "TR-Last",
}
RETRAINED = [
    ("own seed, toxicity, CNN", "own-jigsaw_toxicity-cnn-cpu"),
    ("own seed, AG News, CNN", "own-ag_news-cnn-cpu"),
    ("own seed, SNLI, CNN", "own-snli-cnn-cpu"),
    ("own seed, AG News, BERT 2 x 128", "own-ag_news-bert-cpu"),
    ("own seed, AG News, MiniLM fine-tuned", "own-ag_news-minilm-cpu"),
    ("other seeds, toxicity, CNN", "deletion-jigsaw_toxicity-cnn-cpu"),
    ("other seeds, AG News, CNN", "deletion-ag_news-cnn-cpu"),
    ("other seeds, SNLI, CNN", "deletion-snli-cnn-cpu"),
    ("other seeds, AG News, BERT 2 x 128", "deletion-ag_news-bert-cpu"),
]
# Then the rest: experiment, results file, and the names there of each column.
COLUMNS = "TracIn-WE", "TracIn, last layer", "TR-TFIDF", "BM25 (labels: the loss)", "random"
HEADLINES = [
    ("human label errors, CNN, self-influence", "noise-ag_news_noisy-cnn-cpu",
     ("WE self-influence", "TR-Last self-influence", "TR-TFIDF", "loss", "random")),
    ("the same, vote of 200 test texts", "noise-ag_news_noisy-cnn-cpu",
     ("WE, vote", "TR-Last, vote", "TR-TFIDF", "loss", "random")),
    ("human label errors, MiniLM fine-tuned, self-influence", "noise-ag_news_noisy-minilm-cpu",
     ("WE self-influence", "TR-Last self-influence", "TR-TFIDF", "loss", "random")),
    ("the same, vote of 200 test texts", "noise-ag_news_noisy-minilm-cpu",
     ("WE, vote", "TR-Last, vote", "TR-TFIDF", "loss", "random")),
    ("sums over random halves", "lds-ag_news-cnn-cpu", ("WE", "TR-Last", "TR-TFIDF", "BM25", "random")),
]  # fmt: skip
MEASURES = {"deletion": "separation", "noise": "ROC AUC", "lds": "LDS"}


def answers() -> str:
    """Separation of each method, where a model was retrained without what it names."""
    lines = [f"| retrained | {' | '.join(ANSWERS)} |", "|---|" + "---|" * len(ANSWERS)]
    for experiment, name in RETRAINED:
        path = RESULTS / f"{name}.json"
        if path.exists():
            content = json.loads(path.read_text())
            cells = [_headline("deletion", content, method) for method in ANSWERS.values()]
            lines.append(f"| {experiment} | {' | '.join(cells)} |")
    return "\n".join(lines)


def headlines() -> str:
    lines = [f"| experiment | measure | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for experiment, name, columns in HEADLINES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            kind, content = name.split("-")[0], json.loads(path.read_text())
            cells = [_headline(kind, content, column) for column in columns]
            lines.append(f"| {experiment} | {MEASURES[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _headline(kind: str, content: dict[str, Any], name: str) -> str:
    if name not in content["methods"]:
        return "–"
    row = content["methods"][name]
    if kind == "deletion":
        curves = curves_of(content)
        return f"{separation(curves[name, True], curves[name, False])}"
    return _plain(Interval(*(row["ROC AUC"] if kind == "noise" else row["interval"])), 2)


def _table(match: re.Match[str]) -> str:
    return f"{match[1]}\n{_body(match['name'])}\n\n{match[3]}"


@functools.cache
def _body(name: str) -> str:
    if name in README:
        return README[name]()
    if name == "methods":
        return methods(deletion)
    if name in ("answers", "headlines"):
        return answers() if name == "answers" else headlines()
    path = RESULTS / f"{name}.json"
    content = json.loads(path.read_text())
    versions = f"torch {content['versions']['torch']}, captum {content['versions']['captum']}"
    kind = name.split("-")[0]
    body = (
        KINDS[kind](content) if kind in KINDS else import_module(kind).table(content)
    )  # a neighbour's script has its own
    body += f"\n\n{content['note']}" if "note" in content else ""
    return f"{body}\n\n`results/evidence/{name}.json`, {content['date']}, {versions}."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    args = parser.parse_args(argv)
    for page in PAGES:
        text = page.read_text()
        new = MARKERS.sub(_table, text)
        if args.check and new != text:
            sys.exit(f"{page} is not what the stored results give: run `python benchmarks/evidence/tables.py`.")
        if not args.check:
            page.write_text(new)


if __name__ == "__main__":
    main()
