"""A small classifier with its index, and a server of it in a process of its own, as the tests of the server need them."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import queue
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from captum_tracinwe.texts import tokenize
from torch import nn

from captum_tracinwe import TracInWE, save_checkpoint
from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.commands import Source
from captum_tracinwe.app.files.reading import Reading
from captum_tracinwe.app.serve_command import Settings

WORDS = {"pets": "cat dog hamster paw tail fur leash", "boats": "ship sail harbour deck mast anchor keel"}
TEXTS = [
    (" ".join(["the", *(WORDS[label].split()[(i + step) % 7] for step in (0, 2, 3)), *["and"] * (i % 2)]), label)
    for i in range(12)
    for label in ("pets", "boats")
]
NAMES = ("boats", "pets")
LENGTH = 12
JSON = {"Content-Type": "application/json"}


def made(folder: Path, pairs: bool = False) -> Path:
    """A folder with train.csv, a model, its checkpoints (steps) and an index."""
    columns = ["premise", "hypothesis"] if pairs else ["text"]
    rows = [[*(text.rsplit(" ", 1) if pairs else [text]), label] for text, label in TEXTS]
    with open(folder / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([[*columns, "label"], *rows])
    texts = [tuple(row[:-1]) if pairs else row[0] for row in rows]
    tokenizer = training.words_tokenizer(texts)
    with training.seeded(0), training.quiet_transformers():
        model = training.small_bert(len(tokenizer), NAMES, width=32, positions=16)
        encoded = training.EncodedTexts(texts, [NAMES.index(row[-1]) for row in rows], tokenizer, LENGTH)
        training.train(model, encoded, folder / "none", epochs=3, batch_size=8, learning_rate=0.01, checkpoints=0)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    save_checkpoint(folder / "steps" / "step-1.pt", model, 0.1)
    given = ["--text-columns", *columns] if pairs else []
    asked = ["--model", str(folder / "model"), "--checkpoints", str(folder / "steps"), "--max-length", str(LENGTH)]
    paths = ["--train", str(folder / "train.csv"), "--out", str(folder / "index")]
    assert main(["index", *paths, *asked, *given]) == 0
    return folder


def settings_of(folder: Path, pairs: bool = False, **more) -> Settings:
    source = Source(folder / "model", folder / "steps", max_length=LENGTH)
    if pairs:
        source = replace(source, reading=Reading(("premise", "hypothesis")))
    return Settings(source, folder / "index", **{"train": folder / "train.csv", **more})


class Direct:
    """The same questions put to TracInWE itself, without anything of the server."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = training.load_model(folder / "model", NAMES)
        loss = nn.CrossEntropyLoss(reduction="none")
        self.tracin = TracInWE(
            self.model, None, folder / "steps", loss_fn=loss, index=folder / "index", preconditioner="auto"
        )
        with open(folder / "train.csv", newline="") as file:
            self.train = [tuple(row[:-1]) if len(row) > 2 else row[0] for row in list(csv.reader(file))[1:]]

    def answers(self, texts) -> list[int]:
        return training.logits_of(self.model, self._encoded(texts, [0] * len(texts))).argmax(1).tolist()

    def pairs(self, text, label: int, k: int):
        """Those for and those against, each strongest first, with their texts: as :meth:`TracInWE.influence` names them."""
        inputs = training.batches(self._encoded([text], [label]), 1)
        best = [self.tracin.influence(inputs, k, proponents).indices for proponents in (True, False)]
        return self._told([text], inputs, [[*best[0][0].tolist(), *best[1][0].tolist()]], k)[0]

    def all_pairs(self, texts, labels, k: int):
        """The same of many texts, from the whole matrix of scores."""
        inputs = training.batches(self._encoded(texts, labels), 1)
        order = self.tracin.influence(inputs).argsort(dim=1, descending=True, stable=True).tolist()
        return self._told(texts, inputs, [[*row[:k], *row[::-1][:k]] for row in order], k)

    def _told(self, texts, inputs, indices, k: int):
        tests = tokenize(texts, self.tokenizer, max_length=LENGTH)
        train = tokenize(self.train, self.tokenizer, max_length=LENGTH)
        found = []
        for text, pairs in zip(tests, self.tracin.word_influence(inputs, indices), strict=True):
            told = [pair.with_texts(text, train[pair.train_index]) for pair in pairs]
            for_it, against = told[:k], told[k:]
            found.append(([pair for pair in for_it if pair.score > 0], [pair for pair in against if pair.score < 0]))
        return found

    def _encoded(self, texts, labels):
        return training.EncodedTexts(texts, labels, self.tokenizer, LENGTH)


class Process:
    """`captum-tracinwe serve` in a process of its own, on a port that is free."""

    def __init__(self, folder: Path, *more: str, **options) -> None:
        asked = ["--model", str(folder / "model"), "--checkpoints", str(folder / "steps"), "--max-length", str(LENGTH)]
        command = [sys.executable, "-m", "captum_tracinwe", "serve", str(folder / "index"), "--port", "0", *asked]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [*command, "--train", str(folder / "train.csv"), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )
        self.said: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        for stream, keep in ((self.process.stdout, self.said.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=lambda lines=stream, keep=keep: [keep(line) for line in lines], daemon=True).start()
        self.port = 0
        while not self.port:
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.said.get(timeout=120))
            self.port = int(found[1]) if found else 0

    def ask(self, method: str, path: str, body=None, headers=None):
        """Status, headers and body of an answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def explain(self, **question):
        """The answer to a question, which must be one."""
        status, _, body = self.ask("POST", "/explain", json.dumps(question), JSON)
        assert status == 200, body
        return json.loads(body)

    def close(self) -> int:
        self.process.terminate()
        return self.process.wait(120)
