"""What an index of fewer bits or columns loses: its size, the top 10 it finds, and what retraining without those it names does.

    python benchmarks/evidence/small_index.py       results/evidence/small_index-ag_news-cnn-cpu.json

Of each explained model one index is built in float32, and the same rows in other forms. A question asks each form for all
scores, plain and recommended. Recall is the share of float32's first ten (and last ten) that a form names. Then the model is
trained again, from its own seed, without the 50 texts that a form's recommended score names first, and without the last 50:
separation is half the distance between the two. A loss is the paired difference against float32. With --cache an interrupted
run goes on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from captum_tracinwe.evaluation import DeletionCurve, bootstrap_mean, deletion_curves
from captum_tracinwe.methods import Explained
from common import Task, arguments, facts, load, preset_of, store
from torch import Tensor

from captum_tracinwe import TracInWE

K, REMOVED, RANK = 10, 50, 7
WHOLE = "float32, rank 31"
#: Name → options of an index; rank 7 is enough where rows are short.
FORMS: dict[str, dict[str, Any]] = {
    WHOLE: {"rank": 31},
    "bfloat16": {"dtype": "bfloat16", "rank": RANK},
    "int8": {"dtype": "int8", "rank": RANK},
    "int4": {"dtype": "int4", "rank": RANK},
    "int2": {"dtype": "int2", "rank": RANK},
    "16 columns": {"project": 16, "rank": RANK},
    "16 columns, int8": {"project": 16, "dtype": "int8", "rank": RANK},
    "32 columns, int4": {"project": 32, "dtype": "int4", "rank": RANK},
}
SCORES = {"plain": None, "recommended": "auto"}


def tracin_of(task: Task, explained: Explained, preconditioner: str | None, index: Any = None) -> TracInWE:
    options = {"loss_fn": explained.loss_fn, "batch_size": 64, "preconditioner": preconditioner, "index": index}
    return TracInWE(explained.model, task.train.dataset(), list(explained.checkpoints), **options)


def forms_of(task: Task, explained: Explained, score: str, folder: Path) -> dict[str, dict[str, Any]]:
    """All scores by each form, with bytes, and how wide the intervals of the first ten are."""
    found: dict[str, dict[str, Any]] = {}
    for name, options in FORMS.items():
        if score == "recommended" and "project" in options:
            continue  # it needs the columns of its two tables apart
        index = tracin_of(task, explained, SCORES[score]).build_index(folder / f"{score} {name}", **options)
        asked = tracin_of(task, explained, SCORES[score], index)
        rows = {"bytes": index.file_bytes, "rows": index.rows().num_rows, "scores": asked.influence(task.test.batch)}
        if score == "plain":
            best = index.search(asked.row_gradients(task.test.batch), K)
            if best.stats.intervals is not None:
                low, high = best.stats.intervals.double().unbind(2)
                rows["half interval / score"] = float(((high - low) / 2 / best.influence_scores.abs()).median())
        found[name] = rows
    return found


def recall(scores: Tensor, exact: Tensor, proponents: bool) -> Tensor:
    """Of each question the share of the exact first ten that are named, float64 ``(N,)``."""
    sign = 1 if proponents else -1
    named, right = ((sign * one).topk(K).indices for one in (scores, exact))
    return torch.stack([torch.isin(a, b).double().mean() for a, b in zip(right, named, strict=True)])


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    preset = preset_of(args)
    task = load(args.dataset, args.model, preset, args.data)
    removed = REMOVED if args.preset == "cpu" else preset.ks[-1]
    retrain = task.retrain(args.workers, args.cache)
    found: dict[str, dict[str, dict[str, Any]]] = {score: {} for score in SCORES}
    curves: dict[tuple[str, bool], list[DeletionCurve]] = {}
    seeds: list[int] = []
    for seed in range(1, 1 + (args.seeds or 3)):
        with tempfile.TemporaryDirectory() as folder:
            explained = task.explained(folder, seed)
            for score in SCORES:
                forms = forms_of(task, explained, score, Path(folder))
                exact = forms[WHOLE]["scores"]
                for name, one in forms.items():
                    kept = found[score].setdefault(name, {"bytes": one["bytes"], "rows": one["rows"]})
                    kept.setdefault("half interval / score", []).append(one.get("half interval / score"))
                    for side, proponents in (("recall", True), ("recall of the last", False)):
                        kept.setdefault(side, []).append(recall(one["scores"], exact, proponents))
        cut = {name: one["scores"] for name, one in forms.items()}  # of the recommended score, asked last
        for key, curve in deletion_curves(cut, retrain, ks=(0, removed), seeds=[seed]).items():
            curves.setdefault(key, []).append(curve)
        seeds.append(seed)
        content = {
            "k": K,
            "removed": removed,
            "seeds": seeds,
            "forms": {
                score: {
                    name: {key: torch.stack(value) if key.startswith("recall") else value for key, value in one.items()}
                    for name, one in forms.items()
                }
                for score, forms in found.items()
            },
            "separation": {name: separation(curves, name) for name in cut},
        }
        path = store(
            args.out, f"small_index-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content
        )
        print(f"{path}\n{table(content)}", flush=True)


def separation(curves: dict[tuple[str, bool], list[DeletionCurve]], name: str) -> Tensor:
    """Half of how far apart the two deletions drive the probability of the true class, ``(seeds, questions)``."""
    first, last = (DeletionCurve.cat(curves[name, side]).changes[:, :, -1] for side in (True, False))
    return (last - first).double() / 2


# -------------------------------------------------------------------------------------------------------------- table


def table(content: dict[str, Any]) -> str:
    """Markdown, of stored values of single questions."""
    whole = content["forms"]["plain"][WHOLE]["bytes"]
    separations = {name: torch.as_tensor(one, dtype=torch.float64) for name, one in content["separation"].items()}
    lines = [
        f"| form | of float32's bytes | plain: first {content['k']} found | last {content['k']} | recommended: first "
        f"{content['k']} | last {content['k']} | half interval / score | separation lost, recommended |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, plain in content["forms"]["plain"].items():
        best = content["forms"]["recommended"].get(name)
        cells = [f"1/{whole / plain['bytes']:.1f}"]
        for form in (plain, best):
            for side in ("recall", "recall of the last"):
                cells += ["" if form is None else f"{float(torch.as_tensor(form[side]).mean()):.3f}"]
        wide = [one for one in plain["half interval / score"] if one is not None]
        cells.append(f"{sum(wide) / len(wide):.2f}" if wide else "")
        lost = separations[WHOLE] - separations[name] if name in separations and name != WHOLE else None
        cells.append("" if lost is None else str(bootstrap_mean(lost.mean(0))))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    count, of = separations[WHOLE].shape[1], len(content["seeds"])
    return "\n".join(
        [
            *lines,
            "",
            f"{count} questions, {of} explained models, each retrained from its own seed without {content['removed']} texts; "
            f"separation with float32: {bootstrap_mean(separations[WHOLE].mean(0))}.",
        ]
    )


if __name__ == "__main__":
    main()
