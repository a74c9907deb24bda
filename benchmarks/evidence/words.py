"""Word deletion: the word that TracIn-WE names is hidden in the proponents it names, against two controls.

The controls hide another word of the same texts, of as many positions as can be had: any, or one that the test text holds too.

python benchmarks/evidence/words.py                  results/evidence/words-ag_news-cnn-cpu.json
python benchmarks/evidence/words.py --recommended    results/evidence/recommended_words-ag_news-cnn-cpu.json
"""

from __future__ import annotations

import tempfile

import torch
from captum_tracinwe.evaluation import WordDeletion, another_word, word_deletion
from captum_tracinwe.evaluation.words import Position
from captum_tracinwe.methods import Explained
from common import Task, arguments, begin, facts, store

from captum_tracinwe import TracInWE

PROPONENTS = {"smoke": 10, "cpu": 100, "gpu": 100}


def specials(task: Task) -> list[int]:
    return sorted(task.tokenizer.all_special_ids)


def named_words(
    task: Task, explained: Explained, k: int, proponents: bool = True, preconditioner: str | None = None
) -> list[list[Position]]:
    """For each test example and each of its k proponents (opponents): all positions of the word with the largest share."""
    tracin = TracInWE(
        explained.model, task.train.dataset(), list(explained.checkpoints), loss_fn=explained.loss_fn, batch_size=64,
        layers=None if explained.embedding is None else [explained.embedding], preconditioner=preconditioner,
    )  # fmt: skip
    best = tracin.influence(task.test.batch, k=k, proponents=proponents)
    skip = torch.tensor(specials(task))
    texts = task.train.batch[0].tolist()
    sign = 1 if proponents else -1
    found = []
    for pairs in tracin.word_influence(task.test.batch, best):
        positions: list[Position] = []
        for pair in pairs:
            shares = (sign * pair.token_shares.cpu()).masked_fill(torch.isin(pair.token_ids.cpu(), skip), float("-inf"))
            if len(shares) and float(shares.max()) > 0:
                token = int(pair.token_ids[shares.argmax()])
                positions += [(pair.train_index, p) for p, t in enumerate(texts[pair.train_index]) if t == token]
        found.append(positions)
    return found


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--recommended", action="store_true", help="texts and words of the recommended score, not the plain one"
    )
    args, task = begin(parser, argv)
    with tempfile.TemporaryDirectory() as folder:
        explained = task.explained(folder)
        score = "auto" if args.recommended else None
        named = named_words(task, explained, PROPONENTS[args.preset], preconditioner=score)
    texts = task.train.batch[0].tolist()
    skip, tests = specials(task), task.test.batch[0].tolist()
    control = [another_word(positions, texts, skip=skip, seed=i) for i, positions in enumerate(named)]
    shared = [
        another_word(positions, texts, skip=skip, among=set(tests[i]), seed=i) for i, positions in enumerate(named)
    ]
    retrain = task.retrain(args.workers, args.cache)
    results = []
    for place, seed in enumerate(task.seeds(), 1):
        pairs = [word_deletion(named, other, retrain, len(task.train), seeds=(seed,)) for other in (control, shared)]
        results.append((pairs[0].named, pairs[0].control, pairs[1].control))
        changes = [torch.cat(parts) for parts in zip(*results, strict=True)]
        content = {
            "proponents": PROPONENTS[args.preset],
            "words hidden": [len({m for m, _ in positions}) for positions in named],
            "positions": {
                "named": [len(p) for p in named],
                "control": [len(p) for p in control],
                "shared": [len(p) for p in shared],
            },
            "seeds": task.seeds()[:place],
            "named": changes[0],
            "control": changes[1],
            "shared": changes[2],
        }
        kind = "recommended_words" if args.recommended else "words"
        path = store(args.out, f"{kind}-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content)
        found = [WordDeletion(changes[0], other) for other in changes[1:]]
        print(f"seed {seed}: {found[0].intervals()}, {[pair.difference() for pair in found]}  {path}", flush=True)


if __name__ == "__main__":
    main()
