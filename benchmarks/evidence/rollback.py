"""Gradient Rollback: does deletion prove it right, does the first order hold, and what does it cost a training?

    python benchmarks/evidence/rollback.py --seeds 3 --rivals stored      AG News, CNN; rollback-ag_news-cnn-cpu.json
    python benchmarks/evidence/rollback.py --model bert --only overhead   the BERT 2 x 128: seconds and memory alone

With --rivals stored the rivals' changes are those of results/evidence/own-DATASET-MODEL-PRESET.json, by deletion.py --own: of the
same texts, questions, seeds and models, whose answers before any deletion must be the same here.

Each explained model is retrained from its own seed, as by deletion.py --own: updates are kept along the very training that made
the model, and its rivals are asked at that training's checkpoints. Seconds are those of the processor, for one thread.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from captum_tracinwe.evaluation import auc_del, bootstrap_mean, deletion_curves, separation
from captum_tracinwe.evaluation.deletion import DeletionCurve
from common import RESULTS, Task, arguments, begin, facts, store
from deletion import contenders
from torch import Tensor, nn

from captum_tracinwe.neighbours import KeepUpdates, Updates, rollback, rollback_scores

OURS = "Gradient Rollback"
RIVALS = "WE", "WE, recommended", "TR-TFIDF"
# The strongest of each question are predicted again, from both ends.
AGAIN = 20


def fitted(task: Task, seed: int, keep: bool) -> tuple[nn.Module, KeepUpdates | None]:
    """The training of `task.explained(seed)`, step by step."""
    ids, labels = task.train.batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.make_model().train()
        keeper = KeepUpdates(model, examples=len(ids)) if keep else None
        optimizer = task.recipe.optimizer_of(model)
        for _, indices in task.recipe.batches(len(ids), seed):
            optimizer.zero_grad(set_to_none=False)
            if keeper is None:
                nn.functional.cross_entropy(model(ids[indices]), labels[indices]).backward()
                optimizer.step()
            else:
                with keeper.batch(indices):
                    nn.functional.cross_entropy(model(ids[indices]), labels[indices]).backward()
                with keeper.step():
                    optimizer.step()
    return model.eval(), keeper


# ---------------------------------------------------------------------------------------------------------- deletion


def ranks(values: Tensor) -> Tensor:
    return values.argsort(-1).argsort(-1).double()


def agreement(found: Any) -> Tensor:
    """Rank correlation of the first order with what is predicted again, for each question."""
    pairs = zip(ranks(found.first_order), ranks(found.loss_change), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


def scores_of(task: Task, seed: int, rivals: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Scores of Rollback and its rivals for the model of a seed, and what else is told of the updates."""
    loss_fn, about = nn.CrossEntropyLoss(reduction="none"), {}
    model, keeper = fitted(task, seed, keep=True)
    assert keeper is not None
    updates = keeper.updates()
    started = time.process_time()
    scores = {OURS: rollback_scores(model, updates, task.test.batch, loss_fn)}
    seconds = {OURS: time.process_time() - started}
    k = min(AGAIN, len(task.train) // 2)
    ends = [rollback(model, updates, task.test.batch, loss_fn, k=k, proponents=side) for side in (True, False)]
    for name, one in zip(("proponents", "opponents"), ends, strict=True):
        about[f"agreement, {name}"] = agreement(one)
    about["nobody's"] = updates.rest_share()
    if rivals:
        with tempfile.TemporaryDirectory() as folder:
            explained = task.explained(folder, seed, progress=lambda _: None)
            same = zip(model.parameters(), explained.model.parameters(), strict=True)
            about["the same model"] = all(torch.equal(one, other) for one, other in same)
            for name, make in contenders(explained, task.train).items():
                if name in rivals:
                    started = time.process_time()
                    scores[name] = make()(task.test, task.train)
                    seconds[name] = time.process_time() - started
    return scores, about | {"seconds": seconds}


def stored_rivals(task: Task, preset: str) -> dict[str, Any]:
    """What deletion.py --own found of the same texts, questions and seeds.

    Raises:
        SystemExit: it is of other ones.
    """
    path = RESULTS / f"own-{task.name}-{task.kind}-{preset}.json"
    content: dict[str, Any] = json.loads(path.read_text())
    ours, theirs = json.loads(json.dumps(facts(task, preset)["settings"])), content["settings"]
    other = [name for name in ours if name != "seeds" and ours[name] != theirs.get(name)]
    if other or not set(task.seeds()) <= set(content["seeds"]) or content["ks"] != list(task.preset.ks):
        raise SystemExit(f"--rivals stored: {path.name} is of other {', '.join(other) or 'seeds or numbers removed'}.")
    return content


def deletion(task: Task, workers: int, cache: Any, stored: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What is known after each seed."""
    retrain = task.retrain(workers, cache)
    curves: dict[tuple[str, bool], list[DeletionCurve]] = {}
    told: list[dict[str, Any]] = []
    for place, seed in enumerate(task.seeds(), 1):
        scores, about = scores_of(task, seed, () if stored else RIVALS)
        told.append(about)
        for key, curve in deletion_curves(scores, retrain, ks=task.preset.ks, seeds=[seed]).items():
            curves.setdefault(key, []).append(curve)
        joined = {key: DeletionCurve.cat(parts) for key, parts in curves.items()}
        methods = {
            name: {
                "proponents": joined[name, True].changes,
                "opponents": joined[name, False].changes,
                "seconds": statistics.median(one["seconds"][name] for one in told),
            }
            for name in scores
        }
        if stored:
            chosen = [stored["seeds"].index(one) for one in task.seeds()[:place]]
            for name in RIVALS:
                row = stored["methods"][name]
                methods[name] = {side: [row[side][i] for i in chosen] for side in ("proponents", "opponents")}
        before = retrain(torch.ones(1, len(task.train), dtype=torch.bool), [seed])[0]
        if stored and not torch.allclose(before.cpu(), torch.tensor(stored["p_before"][chosen[-1]]), atol=1e-5):
            raise SystemExit(
                f"--rivals stored: the model of seed {seed} answers otherwise on this machine: take --rivals trained."
            )
        yield {"p_before": before, "rivals stored": stored is not None} | {
            "seeds": task.seeds()[:place],
            "ks": list(task.preset.ks),
            "methods": methods,
            "of the updates": told,
        }


# ---------------------------------------------------------------------------------------------------------- overhead


def _measured(task: Task, keep: bool, out: Any) -> None:
    torch.set_num_threads(1)
    started = time.process_time()
    _, keeper = fitted(task, 1, keep)
    seconds = time.process_time() - started
    size = steps = 0
    if keeper is not None:
        updates: Updates = keeper.updates()
        size, steps = sum(rows.nbytes for _, rows in updates.blocks()), updates.steps
    out.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, size, steps))


def overhead(task: Task, rounds: int) -> dict[str, Any]:
    """Each training in a process of its own, with and without, in turn."""
    context = multiprocessing.get_context("fork")
    found: dict[bool, list[Any]] = {False: [], True: []}
    for place in range(rounds):
        for keep in (False, True) if place % 2 else (True, False):
            out = context.Queue()
            child = context.Process(target=_measured, args=(task, keep, out))
            child.start()
            found[keep].append(out.get())
            child.join()
    table = next(one for one in task.make_model().modules() if isinstance(one, nn.Embedding)).weight
    return {
        "seconds plain": [one[0] for one in found[False]],
        "seconds kept": [one[0] for one in found[True]],
        "ratio": [kept[0] / plain[0] for plain, kept in zip(found[False], found[True], strict=True)],
        "peak MB plain": [one[1] for one in found[False]],
        "peak MB kept": [one[1] for one in found[True]],
        "updates MB": found[True][0][2] / 2**20,
        "steps": found[True][0][3],
        "table": list(table.shape),
    }


# ------------------------------------------------------------------------------------------------------------- table


def table(content: dict[str, Any]) -> str:
    """The table of a page."""
    lines: list[str] = []
    if "methods" in content:
        lines += _deletions(content)
    if "overhead" in content:
        lines += _costs(content)
    return "\n".join(lines).strip()


def _deletions(content: dict[str, Any]) -> list[str]:
    ks, seeds = tuple(content["ks"]), tuple(content["seeds"])
    curves = {
        (name, side == "proponents"): DeletionCurve(
            ks, seeds, torch.tensor(row[side], dtype=torch.float64), side == "proponents"
        )
        for name, row in content["methods"].items()
        for side in ("proponents", "opponents")
    }
    names, settings = list(content["methods"]), content["settings"]
    apart = {name: curves[name, False].by_test().mean(1) - curves[name, True].by_test().mean(1) for name in names}
    lines = [
        f"{content['model'].upper()}, {settings['texts']:,} texts, {settings['tests']} questions, {len(seeds)} explained model"
        f"{'s' * (len(seeds) > 1)}, each retrained from its own seed, k = {', '.join(map(str, ks))}."
        + " The rivals' results are those that deletion.py --own stored, of the same models."
        * content["rivals stored"],
        "",
        "| method | AUC-DEL₊ ↓ | AUC-DEL₋ ↑ | separation | Gradient Rollback ahead by | scoring, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        plus, minus = curves[name, True], curves[name, False]
        ahead = "" if name == OURS else f"{bootstrap_mean(apart[OURS] - apart[name])}"
        seconds = content["methods"][name].get("seconds")
        cells = [
            auc_del(plus),
            auc_del(minus),
            separation(plus, minus),
            ahead,
            f"{seconds:.1f}" if seconds is not None else "",
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    told = content["of the updates"]
    again = [torch.tensor([one[f"agreement, {side}"] for one in told]).mean(0) for side in ("proponents", "opponents")]
    rest = statistics.mean(one["nobody's"] for one in told)
    return [
        *lines,
        "",
        f"Of all movement of the table {rest:.0%} belongs to nobody. Rank correlation of the first order with the loss predicted "
        f"again, over the {AGAIN} strongest: proponents {bootstrap_mean(again[0])}, opponents {bootstrap_mean(again[1])}.",
        "",
    ]


def _costs(content: dict[str, Any]) -> list[str]:
    cost, texts = content["overhead"], content["settings"]["texts"]
    middle = {name: statistics.median(cost[name]) for name in cost if isinstance(cost[name], list)}
    ratio = f"{middle['ratio']:.2f} ({min(cost['ratio']):.2f} to {max(cost['ratio']):.2f})"
    return [
        f"| {content['model'].upper()}, {texts:,} texts, {cost['steps']} steps | plain | with updates kept | ratio |",
        "|---|---|---|---|",
        f"| processor seconds, median of {len(cost['ratio'])} | {middle['seconds plain']:.1f} | {middle['seconds kept']:.1f} | "
        f"{ratio} |",
        f"| peak memory of the process, MB | {middle['peak MB plain']:.0f} | {middle['peak MB kept']:.0f} | "
        f"{middle['peak MB kept'] / middle['peak MB plain']:.2f} |",
        "",
        f"The updates take {cost['updates MB']:.0f} MB, a table of {cost['table'][0]:,} x {cost['table'][1]} beside them.",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("deletion", "overhead"), help="one part alone")
    parser.add_argument("--rivals", choices=("trained", "stored"), default="trained", help="stored: take their results")
    parser.add_argument("--rounds", type=int, help="pairs of trainings that are timed; default 3")
    args, task = begin(parser, argv)
    rounds = args.rounds or (1 if args.preset == "smoke" else 3)
    content = facts(task, args.preset)
    if args.only != "deletion":
        content["overhead"] = overhead(task, rounds)
    name = f"rollback-{args.dataset}-{args.model}-{args.preset}"
    stored = stored_rivals(task, args.preset) if args.rivals == "stored" else None
    for part in [{}] if args.only == "overhead" else deletion(task, args.workers, args.cache, stored):
        path = store(args.out, name, content | part)
        print(f"{table(json.loads(path.read_text()))}\n\n{path}", flush=True)


if __name__ == "__main__":
    main()
