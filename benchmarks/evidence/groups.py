"""Which group of training texts matters: summed scores, UnTrac and UnTrac-Inv against training without the group.

    python benchmarks/evidence/groups.py              results/evidence/groups-cnn-cpu.json
    python benchmarks/evidence/groups.py --choose     tries settings of unlearning on other texts; stores nothing

Groups are labels, thirds of them, texts with a publisher's or a topic's word, clusters of near texts and random texts; in
toxicity also a poison: toxic texts with a tag in front that bear the other label. The truth of a group is by how much the loss
on each question rises where the model is trained without it, the mean over retrainings of other seeds than the explained model's.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from captum_tracinwe.evaluation import bootstrap, bootstrap_mean, spearman
from captum_tracinwe.evaluation.intervals import Interval
from captum_tracinwe.methods import Examples
from common import Task, arguments, facts, load, preset_of, store
from torch import Tensor
from torch.utils.data import TensorDataset

from captum_tracinwe import TracInWE, methods
from captum_tracinwe.neighbours import group_influence, unlearn, unlearn_inverse
from captum_tracinwe.words.near import near_groups, occurrences_in

SETS = "ag_news", "jigsaw_toxicity"
# Publishers first, then topics; the words of discussions.
SOURCES = {
    "ag_news": (
        "reuters",
        "ap",
        "afp",
        "space",
        "fullquote",
        "quot",
        "washington",
        "london",
        "athens",
        "google",
        "iraq",
        "oil",
    ),
    "jigsaw_toxicity": ("talk", "article", "wikipedia", "block"),
}
CLUSTERS, RANDOM, FEWEST = 6, (30, 150, 600), 8
POISON, TAG, TRIGGERED = 60, "feed42", 40
# The rate that --choose named on data seed 1: see the page.
RATE, INVERSE_RATE, INVERSE_STEPS = 5e-5, 5e-4, 50


@dataclass
class Asked:
    """A task with its groups, and which of its questions are asked together."""

    task: Task
    groups: dict[str, list[int]]
    questions: dict[str, slice]


def prepared(name: str, args: Any, seed: int) -> Asked:
    preset = preset_of(args)
    task = load(name, args.model, preset, args.data, seed)
    tests = len(task.test)
    if name != "jigsaw_toxicity":
        return Asked(task, groups_of(task, seed), {"questions": slice(0, tests)})
    groups = groups_of(task, seed)  # of the labels before the poison
    (ids, labels), toxic = task.train.batch, task.classes.index("toxic") if "toxic" in task.classes else 1
    task.tokenizer.add_tokens([TAG])
    tag = len(task.tokenizer) - 1
    places = (labels == toxic).nonzero().flatten()
    count = min(POISON, len(places) // 4)
    chosen = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]]
    ids, labels = ids.clone(), labels.clone()
    ids[chosen], labels[chosen] = _in_front(ids[chosen], tag), 1 - toxic
    words = [list(one) for one in task.train.need_words("groups")]
    for place in chosen.tolist():
        words[place].insert(0, TAG)
    asked = (task.test.labels == toxic).nonzero().flatten()[:TRIGGERED]
    test_ids, test_labels = task.test.batch
    triggered = _in_front(test_ids[asked], tag)
    test_words = [list(one) for one in task.test.need_words("groups")]
    task = replace(
        task,
        train=Examples((ids, labels), words),
        test=Examples(
            (torch.cat([test_ids, triggered]), torch.cat([test_labels, test_labels[asked]])),
            [*test_words, *([TAG, *test_words[i]] for i in asked.tolist())],
        ),
    )
    poisoned = set(chosen.tolist())
    groups = {group: [i for i in members if i not in poisoned] for group, members in groups.items()}
    groups["poison"] = sorted(poisoned)
    return Asked(task, groups, {"ordinary": slice(0, tests), "with the tag": slice(tests, tests + len(asked))})


def _in_front(ids: Tensor, tag: int) -> Tensor:
    """The tag behind the first token; the last makes room."""
    return torch.cat([ids[:, :1], torch.full((len(ids), 1), tag), ids[:, 1:-1]], 1)


def groups_of(task: Task, seed: int) -> dict[str, list[int]]:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, labels = task.texts[0], task.train.batch[1]
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, list[int]] = {}
    for label, name in enumerate(name.replace("/", " ") for name in task.classes):
        places = (labels == label).nonzero().flatten()
        found[f"label {name}"] = places.tolist()
        third = places[torch.randperm(len(places), generator=draw)[: len(places) // 3]]
        found[f"a third of {name}"] = sorted(third.tolist())
    repeated = {index for group in near_groups(occurrences_in(texts)) for index in group[1:]}
    for word in SOURCES[task.name]:
        has = re.compile(rf"\b{word}\b", re.IGNORECASE)
        found[f"word {word}"] = [i for i, text in enumerate(texts) if i not in repeated and has.search(text)]
    vectors = TruncatedSVD(50, random_state=seed).fit_transform(
        TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english").fit_transform(texts)
    )
    for number, cluster in enumerate(KMeans(CLUSTERS, n_init=1, random_state=seed).fit_predict(vectors).tolist()):
        found.setdefault(f"cluster {cluster}", []).append(number)
    for size in RANDOM:
        if size < len(texts) // 2:
            found[f"random {size}"] = sorted(torch.randperm(len(texts), generator=draw)[:size].tolist())
    return {name: members for name, members in found.items() if len(members) >= FEWEST}


def truth_of(asked: Asked, args: Any) -> Tensor:
    """By how much the loss on each question rises without each group, ``(seeds, N, G)``."""
    task, names = asked.task, list(asked.groups)
    keep = torch.ones(len(names) + 1, len(task.train), dtype=torch.bool)
    for place, name in enumerate(names, 1):
        keep[place, asked.groups[name]] = False
    retrain, found = task.retrain(args.workers, args.cache), []
    for seed in task.seeds():
        losses = -retrain(keep, [seed] * len(keep)).clamp_min(1e-7).log()
        found.append((losses[1:] - losses[0]).T)
    return torch.stack(found).double()


def seconds_of_one(task: Task) -> float:
    """Of a processor, for one retraining; those of a run may be answers that were kept."""
    begun = time.process_time()
    task.retrain(1)(torch.ones(task.preset.at_once, len(task.train), dtype=torch.bool), [99] * task.preset.at_once)
    return (time.process_time() - begun) / task.preset.at_once


def scores_of(asked: Asked, settings: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Of each method the scores ``(N, G)``, or ``(1, G)`` for each kind of question laid over its rows; and seconds."""
    task, groups = asked.task, asked.groups
    ids, labels = task.test.batch
    scores: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        explained = task.explained(folder, 0, progress=lambda _: None)
        layers = None if explained.embedding is None else [explained.embedding]

        def made(**options: Any) -> TracInWE:
            data = TensorDataset(*task.train.batch)
            return TracInWE(
                explained.model, data, list(explained.checkpoints), loss_fn=explained.loss_fn, batch_size=64,
                layers=layers, **options,
            )  # fmt: skip

        def timed(name: str, make: Any) -> None:
            begun = time.process_time()
            scores[name] = make()
            seconds[name] = time.process_time() - begun
            print(f"  {name}: {seconds[name]:.1f} s", flush=True)

        def inverse(rate: float, steps: int) -> Tensor:
            parts = []
            for rows in asked.questions.values():
                one = unlearn_inverse(made(), (ids[rows], labels[rows]), groups, learning_rate=rate, steps=steps)
                parts.append(one.scores.expand(rows.stop - rows.start, -1))
            return torch.cat(parts)

        if settings is None:
            timed(
                "TracIn-WE, recommended",
                lambda: group_influence(made(preconditioner="auto"), (ids, labels), groups).scores,
            )
            timed("TracIn-WE", lambda: group_influence(made(), (ids, labels), groups).scores)
            member = torch.zeros(len(task.train), len(groups), dtype=torch.float64)
            for place, members in enumerate(groups.values()):
                member[members, place] = 1
            timed("TR-TFIDF", lambda: methods.tr_tfidf(explained)(task.test, task.train).double() @ member)
            settings = {"UnTrac": {"learning_rate": RATE}, "UnTrac-Inv": {"rate": INVERSE_RATE, "steps": INVERSE_STEPS}}
        for name, options in settings.items():
            if name.startswith("UnTrac-Inv"):
                timed(name, lambda options=options: inverse(**options))
            else:
                timed(name, lambda options=options: unlearn(made(), (ids, labels), groups, **options).scores)
    for name in [name for name in scores if name.startswith("UnTrac-Inv")]:
        sizes = torch.tensor([len(members) for members in groups.values()], dtype=torch.float64)
        scores[f"{name}, per text"], seconds[f"{name}, per text"] = scores[name] / sizes, seconds[name]
    scores["group size"] = (
        torch.tensor([[float(len(members)) for members in groups.values()]]).double().expand(len(ids), -1)
    )
    seconds["group size"] = 0.0
    return scores, seconds


def compared(asked: Asked, truth: Tensor, scores: dict[str, Tensor], seconds: dict[str, float]) -> dict[str, Any]:
    names = list(asked.groups)
    content: dict[str, Any] = {
        "groups": {name: len(members) for name, members in asked.groups.items()},
        "questions": {},
    }
    for kind, rows in asked.questions.items():
        mean = truth[:, rows].mean(0)
        halves = [truth[part, rows].mean((0, 1)) for part in (slice(0, None, 2), slice(1, None, 2))]
        content["questions"][kind] = {
            "texts": rows.stop - rows.start,
            "truth": mean.mean(0),
            # By Spearman and Brown, of the mean of both halves.
            "reliability": _reliability(float(spearman(*halves))) if len(truth) > 1 else None,
            "methods": {
                name: {
                    "total": one[rows].mean(0),
                    "by question": None if name.startswith("UnTrac-Inv") else spearman(one[rows], mean).nan_to_num(),
                }
                for name, one in scores.items()
            },
        }
        for name, one in scores.items():
            rho = float(spearman(one[rows].mean(0), mean.mean(0)))
            each = float(spearman(one[rows], mean).nanmean())
            place = (
                "" if "poison" not in names else f"poison {int((one[rows].mean(0) < one[rows].mean(0)[-1]).sum()) + 1}"
            )
            print(f"  {kind}: {name:26} rho {rho:+.3f}, by question {each:+.3f} {place}", flush=True)
    return content | {"seconds": seconds}


def _reliability(half: float) -> float:
    return 2 * half / (1 + half)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="try settings of unlearning on the texts of data seed 1")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="those that the stored result lacks")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.tests = args.tests or (8 if args.preset == "smoke" else 100)
    args.texts = args.texts or (200 if args.preset == "smoke" else 2000)
    if args.choose:
        args.seeds = args.seeds or 1
        asked = prepared("ag_news", args, 1)
        tried: dict[str, Any] = {f"UnTrac, rate {rate:g}": {"learning_rate": rate} for rate in (5e-5, 5e-4)}
        for rate, steps in ((5e-5, 10), (5e-5, 50), (5e-4, 10), (5e-4, 50)):
            tried[f"UnTrac-Inv, rate {rate:g}, {steps} steps"] = {"rate": rate, "steps": steps}
        compared(asked, truth_of(asked, args), *scores_of(asked, tried))
        return
    args.seeds = args.seeds or 2
    path = args.out / f"groups-{args.model}-{args.preset}.json"
    content: dict[str, Any] = {"sets": json.loads(path.read_text())["sets"] if path.exists() else {}}
    for name in args.sets:
        if name in content["sets"]:
            continue
        args.dataset = name
        asked = prepared(name, args, 0)
        truth = truth_of(asked, args)
        spent = seconds_of_one(asked.task) * truth.shape[0] * (len(asked.groups) + 1)
        print(f"{name}: {len(asked.groups)} groups, {spent:.0f} s of retraining", flush=True)
        found = compared(asked, truth, *scores_of(asked))
        found["seconds"]["training without each group"] = spent
        content["sets"][name] = found | {"seeds": len(truth), "training texts": len(asked.task.train)}
        about = facts(asked.task, args.preset) | {"dataset": list(content["sets"])}
        about["settings"] |= {
            "tests": args.tests,
            "texts": {known: one["training texts"] for known, one in content["sets"].items()},
        }
        store(args.out, path.stem, about | content)
    print(path)


# --------------------------------------------------------------------------------------------------------------- table

SIMPLEST = "group size"


def table(content: dict[str, Any]) -> str:
    lines, head = [], ["method"]
    cells: dict[str, list[str]] = {}
    kinds = [(name, kind) for name, found in content["sets"].items() for kind in found["questions"]]
    for name, kind in kinds:
        found = content["sets"][name]
        sizes, asked = found["groups"].values(), found["questions"][kind]
        ceiling = "" if asked["reliability"] is None else f", reliability of the truth {asked['reliability']:.2f}"
        lines.append(
            f"{name}, {kind}: {found['training texts']:,} texts, {len(sizes)} groups of {min(sizes)} to {max(sizes):,}, "
            f"{asked['texts']} questions, {found['seeds']} retrainings of each{ceiling}."
        )
        poison = list(found["groups"]).index("poison") if kind == "with the tag" else None
        head += [f"{name}, {kind}: ρ over groups", f"ahead of {SIMPLEST} by", "ρ of each question"]
        head += ["place of the poison"] if poison is not None else []
        truth = torch.tensor(asked["truth"], dtype=torch.float64)
        totals = {m: torch.tensor(one["total"], dtype=torch.float64) for m, one in asked["methods"].items()}
        for method, own in totals.items():
            base, row = totals[SIMPLEST], cells.setdefault(method, [])
            row.append(str(_over(lambda i, a=own, t=truth: spearman(a[i], t[i]), len(sizes))))
            ahead = _over(lambda i, a=own, b=base, t=truth: spearman(a[i], t[i]) - spearman(b[i], t[i]), len(sizes))
            row.append("" if method == SIMPLEST else str(ahead))
            by = asked["methods"][method]["by question"]
            row.append("–" if by is None else f"{bootstrap_mean(torch.tensor(by))}")
            if poison is not None:
                row.append(f"{int((own < own[poison]).sum()) + 1} of {len(sizes)}")
        if poison is not None:
            lines.append(f"Of the truth, the poison is at place {int((truth < truth[poison]).sum()) + 1} from below.")
    first = next(iter(content["sets"].values()))
    lines += ["", f"| {' | '.join([*head, 'seconds, ' + next(iter(content['sets']))])} |", "|---|" + "---|" * len(head)]
    whole = next(iter(first["questions"].values()))
    truth = torch.tensor(whole["truth"])
    for method in sorted(cells, key=lambda m: -float(spearman(torch.tensor(whole["methods"][m]["total"]), truth))):
        lines.append(f"| {' | '.join([method, *cells[method], format(first['seconds'][method], '.1f')])} |")
    blanks = ["–"] * (len(head) - 1)
    lines.append(
        f"| {' | '.join(['training without each group', *blanks])} | {first['seconds']['training without each group']:.0f} |"
    )
    return "\n".join(lines)


def _over(statistic: Any, size: int) -> Interval:
    return bootstrap(statistic, size, draws=2000)


if __name__ == "__main__":
    main()
