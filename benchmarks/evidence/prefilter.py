"""FastIF's two speed-ups: nearest neighbours before a scorer, with what they miss, and sampled products in place of a solve.

    python benchmarks/evidence/prefilter.py        results/evidence/prefilter-ag_news-cnn-cpu.json

2,000 texts, 20 questions, a text CNN. Exact top 10 of two scorers: Captum's TracInCP on all layers at the last checkpoint,
which no index can hold, and TracIn-WE, which has one. Candidates come from neighbours in features of the model and of a
sentence encoder, and, as simpler rivals, from words and from cheap scores. One question alone is timed, for the training
texts' gradients are shared by all that are asked together. Then the solve of a question: exact by posting lists and by
sampled products, with correlation of scores. Seed 0 was looked at while settings were chosen, and is not in the tables.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from captum_tracinwe.evaluation import Interval, bootstrap_mean, spearman, top_k_agreement
from captum_tracinwe.methods import Examples, Explained, Method
from common import Task, arguments, facts, load, preset_of, store
from torch import Tensor
from torch.utils.data import TensorDataset

from captum_tracinwe import RowGradients, TracInWE, methods
from captum_tracinwe.neighbours import Candidates, last_features, prefilter, s_test
from captum_tracinwe.preconditioners import GaussNewton

K, SHARES = 10, (0.025, 0.05, 0.1, 0.2)
FEWER = 2000
DAMPINGS = (10.0, 1000.0)
# (steps, texts in a step, runs averaged)
SAMPLED = ((1000, 1, 1), (1000, 1, 4), (1000, 8, 1), (10_000, 1, 1))
ALL_LAYERS, WE = "TracInCP, all layers", "TracIn-WE"
NEAREST = "last layer, cosine"


def sources(
    task: Task, explained: Explained, seed: int, most: int, sentences: Any
) -> tuple[dict[str, Candidates], dict[str, Candidates]]:
    """Where candidates for the highest scores come from, and those for the lowest: a cheap score's own lowest."""
    sides = [last_features(explained, side) for side in (task.train, task.test)]
    found = {f"last layer, {measure}": prefilter(*sides, most, measure=measure) for measure in ("cosine", "l2")}
    if sentences is not None:
        found["sentence embeddings, cosine"] = prefilter(*sentences, most)
    lowest = dict(found)
    cheap: dict[str, Method] = {
        "TF-IDF": methods.tfidf,
        "TR-TFIDF": methods.tr_tfidf(explained),
        "TracIn-Last": methods.tracin_last(explained),
        WE: methods.tracin_we(explained),
        "random": methods.random_scores(seed),
    }
    for name, method in cheap.items():
        scores = method(task.test, task.train)
        found[name] = Candidates(scores.topk(most).indices, scores.shape[1])
        # TF-IDF knows no opponents: texts that share no word are no better candidates.
        lowest[name] = found[name] if name == "TF-IDF" else Candidates((-scores).topk(most).indices, scores.shape[1])
    return found, lowest


def embeddings(task: Task) -> tuple[Tensor, Tensor]:
    """Mean token states of all-MiniLM-L6-v2, of the training and the test texts."""
    from models import minilm_folder, minilm_tokenizer
    from transformers import AutoModel

    encoder, tokenizer = AutoModel.from_pretrained(minilm_folder()).eval(), minilm_tokenizer(())
    sides = []
    for texts in task.texts:
        parts = []
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                texts[start : start + 64], truncation=True, max_length=32, padding=True, return_tensors="pt"
            )
            with torch.no_grad():
                states, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
            parts.append((states * mask).sum(1) / mask.sum(1))
        sides.append(torch.cat(parts))
    return sides[0], sides[1]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    return run(), time.process_time() - started


def one_question(task: Task, scorer: Method, candidates: Candidates, counts: tuple[int, ...]) -> dict[str, float]:
    """The processor's seconds of the first question alone: of all texts, and of so many candidates."""
    first = Examples(tuple(field[:1] for field in task.test.batch))
    spent = {"all texts": timed(lambda: scorer(first, task.train))[1]}
    for count in counts:
        part = Candidates(candidates.indices[:1, :count], len(task.train))
        spent[str(count)] = timed(lambda part=part: part.score(scorer, first, task.train, K))[1]
    return spent


def by_index(task: Task, explained: Explained, exact: Tensor) -> dict[str, Any]:
    """The exact search among bounds in an index of TracIn-WE's rows."""
    train, questions = task.train.dataset(), task.test.batch
    with tempfile.TemporaryDirectory() as folder:
        paths = list(explained.checkpoints)
        tracin = TracInWE(explained.model, train, paths, loss_fn=explained.loss_fn, batch_size=64)
        index, building = timed(lambda: tracin.build_index(f"{folder}/index"))
        rows = tracin.row_gradients(questions)
        seconds, hits, read, verified = [], [], [], []
        for i in range(len(rows)):
            found, spent = timed(lambda i=i: index.search(rows.select([i]), K))
            seconds.append(spent)
            read.append(found.stats.bytes_read / found.stats.payload_bytes)
            verified.append(found.stats.verified)
            best = exact[i].topk(K).indices
            hits.append(float(torch.isin(best, found.indices[0]).double().mean()))
    return {"building": building, "seconds": seconds, "recall": hits, "read": read, "verified": verified}


def solves(task: Task, explained: Explained, seed: int) -> list[dict[str, Any]]:
    """Scores after the damped Gauss-Newton solve, exact and sampled, at the last checkpoint."""
    train, paths = TensorDataset(*task.train.batch), list(explained.checkpoints)[-1:]
    tracin = TracInWE(explained.model, train, paths, loss_fn=explained.loss_fn, batch_size=64)
    rows, questions = tracin.row_gradients(), tracin.row_gradients(task.test.batch)
    found = []
    for damping in DAMPINGS:

        def solved(damping: float = damping) -> Tensor:
            return GaussNewton(damping=damping).fit(rows).apply(questions).dot(rows)

        exact, seconds = timed(solved)
        runs: dict[str, tuple[Tensor, float]] = {"exact, posting lists and Cholesky": (exact, seconds)}
        runs["no solve: plain scores"] = timed(lambda: questions.dot(rows))
        for depth, batch, repeats in SAMPLED:
            name = f"{depth:,} steps of {batch}" + (f", mean of {repeats} runs" if repeats > 1 else "")
            runs[name] = timed(lambda d=damping, s=(depth, batch, repeats): sampled(rows, questions, d, s, seed))
        for name, (scores, seconds) in runs.items():
            alike = {"spearman": spearman(scores, exact), "top": top_k_agreement(scores, exact, K)}
            found.append({"damping": damping, "way": name, "seconds": seconds} | alike)
    return found


def sampled(
    rows: RowGradients, questions: RowGradients, damping: float, size: tuple[int, int, int], seed: int
) -> Tensor:
    depth, batch, repeats = size
    found = s_test(
        rows, questions, damping=damping, depth=depth, batch_size=min(batch, len(rows)), repeats=repeats, seed=seed
    )
    return found.rows.dot(rows)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--no-sentences", action="store_true", help="without the sentence encoder")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    preset = preset_of(args)
    if args.preset == "cpu" and args.texts is None:
        preset = replace(preset, texts=FEWER)
    task = load(args.dataset, args.model, preset, args.data)
    texts = len(task.train)
    counts = tuple(sorted({max(K, round(share * texts)) for share in SHARES}))
    sentences = None if args.no_sentences else embeddings(task)
    recall: dict[str, dict[str, list[Tensor]]] = {}
    content: dict[str, Any] = {"k": K, "counts": list(counts), "seeds": []}
    for seed in range(1, 1 + (args.seeds or 2)):
        with tempfile.TemporaryDirectory() as folder:
            explained = task.explained(folder, seed)
            last = replace(explained, checkpoints=list(explained.checkpoints)[-1:], batch_size=8)
            scorers = {ALL_LAYERS: methods.tracin_layers(last, None), WE: methods.tracin_we(explained)}
            candidates, opponents = sources(task, explained, seed, counts[-1], sentences)
            for name, scorer in scorers.items():
                exact, spent = timed(lambda scorer=scorer: scorer(task.test, task.train))
                print(f"seed {seed}, {name}: {spent:.1f} s for {len(task.test)} questions", flush=True)
                for source, found in candidates.items():
                    if source == name:
                        continue
                    for side, chosen in (("first", found), ("last", opponents[source])):
                        report = chosen.recall(
                            scorer,
                            task.test,
                            task.train,
                            K,
                            counts=counts,
                            exact=exact,
                            timed=False,
                            proponents=side == "first",
                        )
                        recall.setdefault(f"{name}, {side}", {}).setdefault(source, []).append(report.recall)
                if not content["seeds"]:
                    content.setdefault("all questions, s", {})[name] = spent
                    content.setdefault("one question, s", {})[name] = one_question(
                        task, scorer, candidates[NEAREST], counts
                    )
                if name == WE:
                    content.setdefault("index", []).append(by_index(task, explained, exact))
            content.setdefault("solves", []).append(solves(task, explained, seed))
        content["seeds"].append(seed)
        content["search, s"] = {source: found.seconds for source, found in candidates.items()}
        content["recall"] = {name: {s: torch.stack(r) for s, r in rows.items()} for name, rows in recall.items()}
        path = store(
            args.out, f"prefilter-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content
        )
        print(f"{path}\n{table(content)}", flush=True)


# -------------------------------------------------------------------------------------------------------------- table


def table(content: dict[str, Any]) -> str:
    """Markdown: recall by source of candidates, seconds of one question, the index, the solves."""
    counts, k = content["counts"], content["k"]
    found = {
        (name, side): {source: _by_question(rows) for source, rows in content["recall"][f"{name}, {side}"].items()}
        for name in (ALL_LAYERS, WE)
        for side in ("first", "last")
    }
    # Columns: scorer, which end, place among the counts.
    columns = [(ALL_LAYERS, "first", place) for place in range(len(counts))]
    columns += [(ALL_LAYERS, "last", len(counts) - 1), *((WE, "first", place) for place in (1, len(counts) - 1))]
    heads = [f"{name}: {side} {k} among {counts[place]}" for name, side, place in columns]
    lines = [f"| candidates by | {' | '.join(heads)} |", "|---|" + "---|" * len(columns)]
    for source in found[ALL_LAYERS, "first"]:
        cells = [
            _plain(bootstrap_mean(found[name, side][source][:, place])) if source != name else ""
            for name, side, place in columns
        ]
        lines.append(f"| {source} | {' | '.join(cells)} |")
    rows = found[ALL_LAYERS, "first"]
    ahead = {rival: bootstrap_mean(rows[NEAREST][:, -1] - rows[rival][:, -1]) for rival in ("TF-IDF", "TracIn-Last")}
    told = ", ".join(f"{rival} by {gain}" for rival, gain in ahead.items())
    lines += ["", f"All layers, {counts[-1]} candidates: {NEAREST}, ahead of {told}.", ""]
    one = content["one question, s"]
    lines += [
        f"| one question alone, seconds | {' | '.join(f'{c} candidates' for c in counts)} | all texts |",
        "|---|" + "---|" * (len(counts) + 1),
    ]
    for name in (ALL_LAYERS, WE):
        cells = [f"{one[name][key]:.2f}" for key in [*map(str, counts), "all texts"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    index = content["index"]
    seconds, read = ([value for one in index for value in one[key]] for key in ("seconds", "read"))
    hits = [value for one in index for value in one["recall"]]
    lines += [
        "",
        f"TracIn-WE by its index: recall@{k} {sum(hits) / len(hits):.2f}, {1000 * sorted(seconds)[len(seconds) // 2]:.0f} ms a "
        f"question in the median, {sorted(read)[len(read) // 2]:.0%} of the gradients' bytes read; building it took "
        f"{index[0]['building']:.1f} s. All {len(index[0]['seconds'])} questions together, without it: "
        f"{content['all questions, s'][WE]:.1f} s, all layers {content['all questions, s'][ALL_LAYERS]:.1f} s.",
        "",
        f"| (F + λI)⁻¹q by | {' | '.join(f'seconds | Spearman, damping {d:,.0f} | first {k} in common' for d in DAMPINGS)} |",
        "|---|" + "---|---|---|" * len(DAMPINGS),
    ]
    runs = content["solves"]
    for way in dict.fromkeys(row["way"] for row in runs[0]):
        cells = []
        for damping in DAMPINGS:
            own = [row for run in runs for row in run if (row["way"], row["damping"]) == (way, damping)]
            cells.append(f"{sum(row['seconds'] for row in own) / len(own):.1f}")
            for key in ("spearman", "top"):
                values = torch.stack([torch.as_tensor(row[key], dtype=torch.float64) for row in own]).mean(0)
                cells.append(_plain(bootstrap_mean(values)))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_question(found: Any) -> Tensor:
    """Recall ``(seeds, N, counts)`` as the mean over seeds."""
    return torch.as_tensor(found, dtype=torch.float64).mean(0)


def _plain(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-", "−")


if __name__ == "__main__":
    main()
