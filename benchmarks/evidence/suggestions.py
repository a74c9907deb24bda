"""How often the label that `suspects` suggests is the right one, and whether it knows: of the wrong labels that it finds.

    python benchmarks/evidence/suggestions.py --seed 1      results/evidence/suggestions-cnn-s1.json
    python benchmarks/evidence/suggestions.py --model minilm --sets ag_news jigsaw_toxicity --noises uniform10 --seed 1

Cells are those of `labels.py`. Of as many first texts as there are wrong labels, the wrong ones are looked at. Certainties are
told without one right label. How well could anyone do? A logistic regression on words is taught the *right* labels of four
fifths of the texts, and names the best label but the given one of the others. A cell that the results file has is not computed
again.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from captum_tracinwe.texts import tokenize
from common import PRESETS, arguments, facts, load, store
from labels import HUMAN, NOISES, SETS, by_words, prepared, prepared_right, recommended

from captum_tracinwe import suspects

#: From here on a suggestion is called sure.
SURE = 0.95


def cell(name: str, noise: str, model: str, texts: int, seed: int, folder: Any) -> dict[str, Any]:
    """Of the wrong labels found: how many suggestions are right, how many are sure, how many of these are right."""
    task, wrong = prepared(name, noise, model, texts, seed, folder)
    ids, labels = task.train.batch
    with tempfile.TemporaryDirectory() as place:
        explained = task.explained(place, seed, progress=lambda _: None)
        tracin = recommended(task, explained)
        found = suspects(tracin, texts=tokenize(task.texts[0], task.tokenizer, max_length=ids.shape[1]), limit=0)
    truth = prepared_right(task, name, noise, model, texts, seed, folder)
    places = [at for at, index in enumerate(found.order[: int(wrong.sum())]) if wrong[index]]
    right = np.array([found.suggested[at] == str(truth[found.order[at]]) for at in places])
    met = [found.order[at] for at in places]
    taught_right = by_words(list(task.texts[0]), np.array(truth), len(task.classes), seed)[met]
    taught_right[np.arange(len(met)), labels.numpy()[met]] = -1
    told = bool(found.certainties)
    said = np.array([found.certainties[at] for at in places]) if told else np.zeros(0)
    sure = said >= SURE if told else np.zeros(len(right), bool)
    return {
        "texts": len(labels),
        "classes": len(task.classes),
        "wrong": int(wrong.sum()),
        "found": len(places),
        "right": int(right.sum()),
        "right by one that was taught right labels": int((taught_right.argmax(1) == np.array(truth)[met]).sum()),
        "promised": float(said.sum()) if told else None,
        "sure": int(sure.sum()),
        "right of the sure": int(right[sure].sum()),
        "tells": found.tells,
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--noises", nargs="+", default=[*NOISES, "human"], choices=[*NOISES, "human"])
    parser.add_argument("--seed", type=int, default=1, help="of data, errors and model; certainties were chosen on 0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = args.texts or (2000 if args.model == "minilm" else 4000)
    path = args.out / f"suggestions-{args.model}-s{args.seed}.json"
    stored: dict[str, Any] = json.loads(path.read_text())["cells"] if path.exists() else {}
    for noise in args.noises:
        for name in args.sets:
            key = f"{name}, {noise}"
            if key in stored or (noise == "human" and name != "ag_news"):
                continue
            begun = time.perf_counter()
            size = HUMAN[args.model] if noise == "human" and not args.texts else texts
            one = stored[key] = cell(name, noise, args.model, size, args.seed, args.data)
            print(f"{key}: {time.perf_counter() - begun:.0f} s; {json.dumps(one)}", flush=True)
            task = load("ag_news", args.model, replace(PRESETS["cpu"], texts=200, tests=200), args.data)
            about = facts(task, "cpu") | {
                "settings": {"texts": texts, "positions": 48, "seed": args.seed, "sure": SURE}
            }
            store(args.out, path.stem, about | {"cells": stored})
    print(path)


if __name__ == "__main__":
    main()
