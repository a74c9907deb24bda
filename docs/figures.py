"""The figures that the pages quote, read from benchmarks/results: a page cannot differ from what was measured."""

import json
from pathlib import Path

import torch
from captum_tracinwe.evaluation import WordDeletion

from captum_tracinwe.index.sizes import Form, Texts


def substitutions(results):
    """Name → figure, for ``{{ name }}`` in a page."""
    found = {
        name: json.loads((Path(results) / f"{name}.json").read_text()) for name in ("collect", "drop_in", "row_dot")
    }
    found |= {name: json.loads((Path(results) / f"{name}.json").read_text()) for name in ("auto", "index")}
    found["end"] = json.loads((Path(results) / "end_to_end.json").read_text())
    cost = {name: row["cost, of bare"] for name, row in found["collect"]["rows"].items()}
    sides, ratio = found["drop_in"]["sides"], found["drop_in"]["captum / ours"]
    cases = {(case["name"], case["width"], case["threads"]): case for case in found["row_dot"]["cases"]}
    lists = {width: cases["1 test, by token", width, 1] for width in (128, 384, 768)}
    rows = {width: cases["1 test", width, 1] for width in (128, 384, 768)}
    tokens = json.loads((Path(results) / "memory.json").read_text())["cases"][0]
    figures = {
        "tokens_measured": f"{tokens['measured'] / 1e6:,.0f}",
        "tokens_formula": f"{tokens['formula'] / 1e6:,.0f}",
        "cost_rows": f"{cost['row gradients']:.2f}",
        "cost_ragged": f"{cost['ragged']:.2f}",
        "cost_by_length": f"{cost['ragged, by length']:.2f}",
        "cost_dense": f"{cost['Captum TracInCP, dense']:.1f}",
        "cost_fast": f"{cost['Captum TracInCPFast (last layer)']:.2f}",
        "dense_seconds": f"{sides['captum']['seconds']:.1f}",
        "our_seconds": f"{sides['ours']['seconds']:.1f}",
        "dense_memory": f"{sides['captum']['anonymous'] / 1e6:,.0f}",
        "our_memory": f"{sides['ours']['anonymous'] / 1e6:,.0f}",
        "ratio_seconds": f"{ratio['seconds']:.1f}",
        "ratio_memory": f"{ratio['anonymous']:.1f}",
        "ratio_mapped": f"{ratio['rss']:.1f}",
        "end_seconds": f"{found['end']['rows']['TracInWE.influence(k=10)']['seconds']:.1f}",
        "end_dense": f"{found['end']['rows']['Captum TracInCP, dense']['seconds']:,.0f}",
        "linear": f"{found['row_dot']['exponent_of_time_over_pairs']:.3f}",
        "bfloat16_least": f"{min(case['bfloat16_times_faster'] for case in lists.values()):.1f}",
        "bfloat16_most": f"{max(case['bfloat16_times_faster'] for case in lists.values()):.1f}",
    }
    for size, one in found["auto"]["sizes"].items():
        name = size.replace("-", "_")
        figures |= {
            f"auto_plain_{name}": f"{one['plain question, seconds']:.1f}",
            f"auto_first_{name}": f"{one['first question, seconds']:.1f}",
            f"auto_further_{name}": f"{one['further question, seconds']:.1f}",
            f"auto_memory_{name}": f"{one['extra memory, bytes'] / 1e6:,.0f}",
        }
        asked = one["from an index"]
        figures |= {
            f"auto_index_plain_{name}": f"{asked['plain question, seconds']:.2f}",
            f"auto_index_first_{name}": f"{asked['first question of all, seconds']:.1f}",
            f"auto_index_other_{name}": f"{asked['first question of another process, seconds']:.2f}",
            f"auto_index_further_{name}": f"{asked['further question, seconds']:.2f}",
            "auto_kept": f"{asked['kept, bytes']:,}",
        }
    stored = found["index"]["recommended"]
    figures |= {
        "auto_texts": f"{stored['texts']:,}",
        "auto_payload": f"{stored['ratio']['payload_bytes']:.2f}",
        "auto_build": f"{stored['ratio']['build_seconds']:.2f}",
        "auto_stored_plain": f"{stored['plain']['question_seconds']:.3f}",
        "auto_stored_first": f"{stored['recommended']['first_question_seconds']:.2f}",
        "auto_stored_further": f"{stored['recommended']['question_seconds']:.3f}",
    }
    labels = found["index"]["suspects"]
    figures |= {
        "suspects_texts": f"{labels['texts']:,}",
        "suspects_build": f"{labels['build_seconds'] / 60:.0f}",
        "suspects_judged": f"{labels['judged_seconds']:.0f}",
        "suspects_reasons": f"{labels['with_reasons_seconds']:.0f}",
    }
    for width in lists:
        figures |= {
            f"rows_{width}": f"{rows[width]['milliseconds']['row_dot']:.1f}",
            f"lists_{width}": f"{lists[width]['milliseconds']['row_dot']:.1f}",
            f"lists_bfloat16_{width}": f"{lists[width]['milliseconds']['bfloat16']:.1f}",
            f"many_{width}": f"{cases['64 tests', width, 1]['milliseconds']['row_dot']:.0f}",
        }
    results = Path(results)
    probe = json.loads((results / "probe.json").read_text())
    parts = sorted(model["probe / pass without it"] for model in probe["models"].values())
    figures |= {
        "probe_models": str(len(parts)),
        "probe_texts": f"{probe['settings']['texts']:,}",
        "probe_least": f"{parts[0]:.1%}",
        "probe_median": f"{parts[len(parts) // 2]:.1%}",
        "probe_most": f"{parts[-1]:.1%}",
    }
    return (
        (figures | _of_the_index(found["index"], found["collect"]) | _of_language_models(results) | _of_labels(results))
        | _of_evidence(results)
        | _of_scale(results, found["index"], found["collect"])
    )


def _of_the_index(index, collect):
    """What gradients of 20,000 texts take, which was measured, and what follows for more."""
    build, search = index["build"], index["search"]
    texts, payload, files = build["texts"], build["payload_bytes"], build["file_bytes"]
    seconds = collect["threads"] / collect["rows"]["row gradients"]["texts/s"]  # of one core, for a text
    read, verified = search["proponents"]["read_median"], search["proponents"]["verified_median"]
    found = {
        "kept_payload": f"{payload / texts / 1e3:.1f} KB",
        "kept_disk": f"{files / texts / 1e3:.1f} KB",
        "kept_read": f"{read:.1%}",
        "kept_bounds": f"{read - verified:.1%}",
        "kept_verified": f"{verified:.1%}",
        "kept_open": f"{build['open_seconds'] * 1e3:.0f} ms",
        "kept_pass": f"{seconds:.3f} s",
    }
    for name, many in (("20k", texts), ("100k", 1e5), ("1m", 1e6), ("1g", 1e9)):
        times = many / texts
        found |= {
            f"build_{name}": _digits(seconds * many / 3600),
            f"payload_{name}": _bytes(payload * times),
            f"disk_{name}": _bytes(files * times),
            f"half_{name}": _bytes((files - payload / 2) * times),
            f"read_{name}": _bytes(payload * read * times),
            f"bounds_{name}": _bytes(payload * (read - verified) * times),
        }
    return found


def _of_language_models(results):
    methods = json.loads((results / "instructions.json").read_text())["methods"]
    names = {
        "auto": "output rows, idf², by words",
        "words": "words alone, idf², by words",
        "bm25": "BM25, answer",
        "last": "last-layer TracIn",
        "plain": "TracIn-WE",
    }
    found = {f"lm_{short}": f"{methods[name]['recall@50']['mean']:.0%}" for short, name in names.items()}
    auto = methods[names["auto"]]["recall@50"]
    return found | {"lm_auto_least": f"{auto['least']:.0%}", "lm_auto_most": f"{auto['most']:.0%}"}


def _of_labels(results):
    cells = json.loads((results / "evidence" / "labels-cnn-s1.json").read_text())["cells"]
    ahead = [cell["AP"]["suspects"] - cell["AP"]["loss"] for cell in cells.values()]
    names = {
        "suspects": "suspects",
        "cleanlab": "words, 5 folds, cleanlab, adjusted",
        "neighbours": "nearest neighbours",
        "loss": "loss",
        "margin": "cleanlab, mean of checkpoints, adjusted",
        "folds": "model, 5 folds, loss",
        "self": "self-influence",
    }
    found = {
        f"labels_{short}": f"{sum(cell['AP'][name] for cell in cells.values()) / len(cells):.2f}"
        for short, name in names.items()
    }
    told = [cell for name, cell in cells.items() if "uniform" in name and cell["tells"]]  # by chance, and words tell
    promised, right = zip(*(cell["expected and found"]["suspects"]["100"] for cell in told), strict=True)
    suggested = [cell["suggested right"] for cell in told]
    human = cells["ag_news, human"]["expected and found"]["suspects"]["200"]
    found |= {
        "labels_won": str(sum(one > 0 for one in ahead)),
        "labels_cells": str(len(cells)),
        "labels_lost": f"{-min(ahead):.3f}",
        "labels_found_least": f"{min(right)}",
        "labels_found_most": f"{max(right)}",
        "labels_promised_least": f"{min(promised):.0f}",
        "labels_promised_most": f"{max(promised):.0f}",
        "labels_right_least": f"{min(suggested):.0%}",
        "labels_right_most": f"{max(suggested):.0%}",
        "labels_human_promised": f"{human[0]:.0f}",
        "labels_human_found": f"{human[1]}",
    }
    suggested = json.loads((results / "evidence" / "suggestions-cnn-s1.json").read_text())["cells"].values()
    told = [cell for cell in suggested if cell["classes"] > 2 and cell["tells"]]
    sure, right_of_sure, met, right = (
        sum(cell[of] for cell in told) for of in ("sure", "right of the sure", "found", "right")
    )
    found |= {
        "sure_cells": str(len(told)),
        "sure_share": f"{sure / met:.0%}",
        "sure_right": f"{right_of_sure / sure:.0%}",
        "sure_all": f"{right / met:.0%}",
        "sure_best": f"{sum(cell['right by one that was taught right labels'] for cell in told) / met:.0%}",
    }
    tuned = json.loads((results / "evidence" / "labels-minilm-s1.json").read_text())["cells"]
    for name, cell in tuned.items():
        of = name.replace(", ", "_")  # the set and the kind of errors
        found |= {f"minilm_{method}_{of}": f"{cell['AP'][method]:.2f}" for method in ("suspects", "loss")}
    return found


def _of_evidence(results):
    """Of two models that learned one answer from other texts; of several runs; of self-influence by tables."""
    ways = json.loads((results / "evidence" / "causes-ag_news-cnn-cpu.json").read_text())["ways"].values()
    told = {
        name: [way["methods"][name]["told"][0] for way in ways] for name in ("WE, recommended", "regression on words")
    }
    several = json.loads((results / "evidence" / "ensemble-ag_news-cnn-cpu.json").read_text())
    one = json.loads((results / "evidence" / "deletion-ag_news-cnn-cpu.json").read_text())
    figures = {
        "told_least": f"{min(told['WE, recommended']):.2f}",
        "told_most": f"{max(told['WE, recommended']):.2f}",
        "told_regression": f"{max(told['regression on words']):.2f}",
    }
    for short, name in (("auto", "WE, recommended"), ("plain", "WE")):
        figures |= {f"several_{short}": _separation(several, name), f"single_{short}": _separation(one, name)}
    for short, name in (("named", "recommended_words"), ("plain", "words")):
        content = json.loads((results / "evidence" / f"{name}-ag_news-cnn-cpu.json").read_text())
        sides = (torch.tensor(content[side], dtype=torch.float64) for side in ("named", "control"))
        named, other = WordDeletion(*sides).intervals()
        figures |= {f"hidden_{short}": f"{named}"} | ({"hidden_other": f"{other}"} if short == "named" else {})
    return figures


def _separation(content, name):
    """Half of what the answer's probability rises without opponents, less what it rises without proponents: the mean over k."""
    sides = []
    for side in ("opponents", "proponents"):
        rows = content["methods"][name][side]  # (k, seeds, tests), or so: the mean over all but k = 0, which is 0
        sides.append(_mean(rows))
    return f"{sides[0] - sides[1]:.2f}"


def _mean(rows):
    return sum(map(_mean, rows)) / len(rows) if isinstance(rows, list) else rows


def _digits(number):
    """Two digits that count."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def _bytes(number):
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{_digits(number / size)} {unit}"
    return f"{number:,.0f} bytes"


POWERS = ("disk", "verified", "bytes read", "seconds")
SHORT = {"disk": "disk", "verified": "verified", "bytes read": "read", "seconds": "seconds"}


def _of_scale(results, index, collect):
    """Sizes that follow from the form, what each form loses, and what was measured at 10⁵ and 10⁶ texts."""
    measured = json.loads((results / "scale.json").read_text())
    forms, grown = measured["forms"], measured["grow"]
    seconds = collect["threads"] / collect["rows"]["row gradients"]["texts/s"]
    payload = index["build"]["payload_bytes"] / index["build"]["texts"]
    texts = Texts(rows=payload / (4 * 384 + 4), shared=_shared(index))
    found = {
        "scale_pass": f"{seconds:.3f}",
        "scale_texts": f"{forms['texts']:,}",
        "scale_tests": str(forms["tests"]),
        "scale_forms": _forms(forms["forms"]),
        "grow_real": f"{grown['real texts']:,}",
        "grow_dtype": grown["dtype"],
        "grow_rank": str(grown["rank"]),
        "grow_tests": str(grown["tests"]),
    }
    for power in range(5, 10):
        many = 10**power
        for name, rank in (("float32", 31), ("int4", 7), ("int2", 7)):
            form = Form(name, rank, None, 1, 384)
            found[f"scale_{name}_{power}"] = _bytes(texts.disk(form, many, 8192))
        found[f"scale_hours_{power}"] = _digits(seconds * many / 3600)
        for rank in (31, 7):
            found[f"scale_read{rank}_{power}"] = _bytes(texts.read(Form("int4", rank, None, 1, 384), many))
    for place, row in enumerate(grown["sizes"]):
        found |= {
            f"grow_disk_{place}": _bytes(row["disk"]),
            f"grow_verified_{place}": f"{row['verified']:,.0f}",
            f"grow_share_{place}": f"{row['verified share, median']:.3%} ({row['verified share, 90 %']:.3%})",
            f"grow_read_{place}": _bytes(row["bytes read"]),
            f"grow_seconds_{place}": f"{row['seconds']:.2f}",
            f"grow_cold_{place}": f"{row['seconds, first question from disk']:.1f}",
        }
    for name, power in grown["grows with the power"].items():
        if name in SHORT:
            found[f"grow_{SHORT[name]}_power"] = f"{power:.2f}"
    last = grown["sizes"][-1]
    at = {name: last[name] * (10**9 / last["examples"]) ** grown["grows with the power"][name] for name in POWERS[:3]}
    verified = float(f"{at['verified']:.1g}")
    return found | {
        "grow_disk_9": _bytes(at["disk"]),
        "grow_verified_9": f"{verified:,.0f}",
        "grow_read_9": _bytes(at["bytes read"]),
        "grow_time_9": f"{at['bytes read'] / 100 / 100e9:.2f}",
    }


def _shared(index):
    """Words that a question shares with a text: from the bytes that bounds took at rank 31."""
    build, search = index["build"], index["search"]
    read = search["proponents"]["read_median"] - search["proponents"]["verified_median"]
    bytes_of_bounds = build["payload_bytes"] * read / build["texts"]
    rows = build["payload_bytes"] / build["texts"] / (4 * 384 + 4)
    return (bytes_of_bounds - rows * 8 - 30) / (8 + 4 * 32)


def _forms(rows):
    """A table of Markdown: size and what is found, plain and recommended."""
    whole = rows[0]["bytes"]
    lines = [
        "| form | of float32's bytes | plain: first ten found | last ten | recommended: first ten | last ten | "
        "half interval / score |",
        "|---|---|---|---|---|---|---|",
    ]
    best = {_name(row): row for row in rows if row["score"] == "recommended"}
    for row in rows:
        if row["score"] != "plain":
            continue
        sides = [row["recall"], best.get(_name(row), {}).get("recall")]
        cells = [f"1/{whole / row['bytes']:.1f}"]
        cells += [f"{one[side]:.3f}" if one else "" for one in sides for side in ("first", "last")]
        wide = row.get("half interval / score")
        lines.append(f"| {_name(row)} | {' | '.join(cells)} | {'' if wide is None else f'{wide:.2f}'} |")
    return "\n".join(lines)


def _name(row):
    columns = f"{row['project']} columns, " if row.get("project") else ""
    return f"{columns}{row.get('dtype', 'float32')}, rank {row['rank']}"
