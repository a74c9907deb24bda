"""The figures that the pages quote, read from benchmarks/results: a page cannot differ from what was measured."""

import json
from pathlib import Path


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
    for width in lists:
        figures |= {
            f"rows_{width}": f"{rows[width]['milliseconds']['row_dot']:.1f}",
            f"lists_{width}": f"{lists[width]['milliseconds']['row_dot']:.1f}",
            f"lists_bfloat16_{width}": f"{lists[width]['milliseconds']['bfloat16']:.1f}",
            f"many_{width}": f"{cases['64 tests', width, 1]['milliseconds']['row_dot']:.0f}",
        }
    return figures
