"""Tables of the experiments on wrong labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from captum_tracinwe.evaluation import bootstrap_mean

__all__ = ["ahead", "labels", "suggestions", "why"]

OURS = "suspects", "suspects, 5 folds"
SURE_ONES = "sure", "right of the sure", "found", "right"
BY_RIGHT = "right by one that was taught right labels"


def ahead(cells: list[dict[str, Any]], ours: str, rival: str) -> tuple[float, float, float]:
    """The mean over cells of our average precision less the rival's, with its 95 % interval over the texts of each cell."""
    by = [one["AP"][ours] - one["AP"][rival] for one in cells]
    off = 1.96 * math.sqrt(sum(one["variance of AP less ours"][ours][rival] for one in cells)) / len(cells)
    mean = sum(by) / len(by)
    return mean, mean - off, mean + off


def labels(content: dict[str, Any]) -> str:
    cells = content["cells"]
    names = sorted(next(iter(cells.values()))["AP"], key=lambda name: -_mean(cells, "AP", name))
    lines = [
        f"{len(cells)} cells. Ahead: the mean difference of average precision, its 95 % interval over the texts of each cell, "
        f"and the least of all cells.",
        "",
        f"| | mean AP | mean AUC | {' | '.join(f'{one} ahead by' for one in OURS)} |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        apart = []
        for one in OURS:
            mean, low, high = ahead(list(cells.values()), one, name)
            least = min(cell["AP"][one] - cell["AP"][name] for cell in cells.values())
            apart.append("" if one == name else _signed(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], least {least:+.3f}"))
        lines.append(
            f"| {name} | {_mean(cells, 'AP', name):.3f} | {_mean(cells, 'AUC', name):.2f} | {' | '.join(apart)} |"
        )
    rivals = [name for name in names if name not in OURS]
    lines += [
        "",
        "| cell | wrong | loss | best of the others | suspects | with 5 folds | promised and found among the first 50, 100, 200 "
        "| suggested right | model's weight | labels told |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, cell in cells.items():
        best = max(rivals, key=lambda name: cell["AP"][name])
        told = cell["expected and found"]["suspects"]
        promised = ", ".join(f"{told[n][0]:.0f} / {told[n][1]}" for n in ("50", "100", "200"))
        lines.append(
            f"| {key} | {cell['wrong']} of {cell['texts']:,} | {cell['AP']['loss']:.3f} | {cell['AP'][best]:.3f} ({best}) | "
            f"{cell['AP'][OURS[0]]:.3f} | {cell['AP'][OURS[1]]:.3f} | {promised} | {cell['suggested right']:.0%} | "
            f"{cell['weight']:.2f} | {cell['accuracy']:.0%}{'' if cell['tells'] else ', too few'} |"
        )
    return "\n".join(lines)


def suggestions(content: dict[str, Any]) -> str:
    cells = content["cells"]
    told = [cell for cell in cells.values() if cell["classes"] > 2 and cell["tells"]]
    sure, right_of_sure, found, right = (sum(cell[of] for cell in told) for of in SURE_ONES)
    lines = [
        f"{len(told)} cells of more than two classes where words tell them. Of the suggestions for {found:,} wrong labels found "
        f"{right / found:.1%} are right. {sure / found:.0%} have a certainty of {content['settings']['sure']} or more; of these "
        f"{right_of_sure / sure:.1%} are right. A regression on words that is taught the right labels of other texts has "
        f"{sum(cell[BY_RIGHT] for cell in told) / found:.1%} right.",
        "",
        "| cell | wrong labels found | suggested right | by one taught right labels | promised | sure | right of the sure |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, cell in cells.items():
        known = cell["promised"] is not None
        promised = f"{cell['promised'] / max(1, cell['found']):.0%}" if known else "nobody can tell"
        share = f"{cell['sure'] / max(1, cell['found']):.0%}" if known else ""
        of_sure = f"{cell['right of the sure'] / cell['sure']:.1%}" if cell["sure"] else ""
        lines.append(
            f"| {key} | {cell['found']} | {cell['right'] / max(1, cell['found']):.0%} | "
            f"{cell[BY_RIGHT] / max(1, cell['found']):.0%} | {promised} | {share} | {of_sure} |"
        )
    return "\n".join(lines)


NAMES = {
    "itself": "the text itself, alone",
    "suspects": "the texts named",
    "TR-TFIDF": "texts named by TR-TFIDF",
    "nearest of the label": "the nearest texts of the label",
    "others of the label": "other texts of the label",
    "words, hidden": "the named words, hidden",
    "other words, hidden": "other words, hidden",
}


def why(content: dict[str, Any]) -> str:
    falls = {name: torch.tensor(row) for name, row in content["fall of the wrong label's probability"].items()}
    below = content["wrong label below a half"]
    sure = falls.pop("probability without itself")
    lines = [
        f"{content['asked']} texts. Without the text itself the wrong label's probability is {float(sure.mean()):.2f}.",
        "",
        "| taken away or hidden | the wrong label's probability falls by | is below a half | the named texts are ahead by |",
        "|---|---|---|---|",
    ]
    for name, fall in falls.items():
        others = "" if name in ("itself", "suspects") or "hidden" in name else bootstrap_mean(falls["suspects"] - fall)
        fallen = bootstrap_mean(fall) if name != "itself" else ""
        lines.append(f"| {NAMES.get(name, name)} | {fallen} | {sum(below[name]) / len(below[name]):.0%} | {others} |")
    apart = bootstrap_mean(falls["words, hidden"] - falls["other words, hidden"])
    return "\n".join([*lines, "", f"The named words ahead of others in the same texts by {apart}."])


def _mean(cells: dict[str, dict[str, Any]], measure: str, name: str) -> float:
    return sum(cell[measure][name] for cell in cells.values()) / len(cells)


def _signed(text: str) -> str:
    return text.replace("-", "−")
