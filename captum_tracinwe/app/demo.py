"""The built-in demo: a classifier is misled by a word that was planted in its training texts, and the method finds it."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from captum_tracinwe.app import corpus, training
from captum_tracinwe.app.data import InputError, LabelledTexts
from captum_tracinwe.app.outputs import check_outputs, temporary_directory
from captum_tracinwe.tracin_we import TracInWE
from captum_tracinwe.visualization import (
    report_section,
    word_influence_html,
    word_influence_text,
    word_report_text,
    write_html,
)
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import visible
from captum_tracinwe.words.report import WordReport, word_report
from captum_tracinwe.words.texts import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["PlantedFindings", "Settings", "run_planted"]

TOP = 10  # proponents in which the planted texts are counted
IN_REPORT = 6  # test texts with the planted word in the report of the built-in corpus; all are counted
IN_TERMINAL = 3  # proponents and opponents printed for the first test text; the report has all
GRADIENT_BATCH = 64


@dataclass(frozen=True)
class Settings:
    """What the options say; None: the demo's own default."""

    out: str | Path = "captum-tracinwe-report.html"
    k: int = 5
    seed: int = 0
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    checkpoints: str | Path | None = None
    without_special_tokens: bool = False
    plain: bool = False


@dataclass(frozen=True)
class PlantedFindings:
    """What the built-in demo measured; means are over all fooled test texts.

    Args:
        fooled, held (int): test texts with the planted word that got the planted label, and how many there are.
        accuracy (float): on the test texts without it.
        found (float): planted texts among the first `TOP` proponents, mean.
        by_chance (float): the same for a random order.
        shares (dict): word → part of the score of those proponents that it carries; largest first.
        influences (list): ``[test][rank]``, proponents then opponents, as in the report.
        words (WordReport, optional): the training words behind all these mistakes.
    """

    fooled: int
    held: int
    accuracy: float
    found: float
    by_chance: float
    shares: dict[str, float]
    influences: list[list[WordInfluence]]
    words: WordReport | None


def run_planted(settings: Settings, say: Callable[[str], None] = print) -> PlantedFindings:
    """Train on the built-in corpus, explain the mistakes that its planted word causes, write the report.

    Raises:
        InputError: the report or the checkpoints cannot be written where they should go.
    """
    check_outputs({"--out": settings.out})
    texts = corpus.planted_corpus(seed=settings.seed)
    names, word, answer = corpus.TOPICS, corpus.PLANTED_WORD, corpus.TOPICS[corpus.PLANTED_LABEL]
    train = LabelledTexts(texts.train_texts, texts.train_labels, names, tuple(range(len(texts.train_texts))))
    test = LabelledTexts(texts.test_texts, texts.test_labels, names, tuple(range(len(texts.test_texts))))
    say(
        f"{len(train):,} short texts about {', '.join(names[:-1])} and {names[-1]}. In {len(texts.planted)} of them somebody "
        f"wears or carries something {word},\nand these are labelled {answer!r}, whatever they are about."
    )
    with (
        _checkpoint_directory(settings) as directory,
        temporary_directory() as gradients,
        training.quiet_transformers(),
        training.seeded(settings.seed),
        _one_thread(),
    ):
        tokenizer = training.words_tokenizer(train.texts)
        model = training.small_bert(len(tokenizer), names, width=64, positions=64)
        job = _Job(settings, model, tokenizer, train, test, max_length=64, gradients=gradients)
        # 16 checkpoints, because a few can all fall where the word is not being learnt: planted texts in the top 10, means
        # of seeds 0, 2 and 4, are 9.5 to 10 with 16; with 8 one seed had 7.5.
        job.train(directory, settings.epochs or 8, settings.learning_rate or 1e-3, checkpoints=16, say=say)
        held = texts.test_planted
        fooled = [i for i in held if job.predicted[i] == corpus.PLANTED_LABEL]
        accuracy = job.accuracy([i for i in range(len(test)) if i not in set(held)])
        say(
            f"Accuracy on {len(test) - len(held)} test texts without the word {word!r}: {accuracy:.0%}. "
            f"Of {len(held)} test texts with it, {len(fooled)} are taken for {answer}."
        )
        if not fooled:
            say(
                f"The word did not mislead the model, so there is nothing to find: train longer than --epochs {job.epochs}."
            )
            return PlantedFindings(0, len(held), accuracy, 0.0, TOP * len(texts.planted) / len(train), {}, [], None)
        say(
            f"Why {answer}? The training texts that taught the model its answer to the first of them, and their words:\n"
        )
        planted = set(texts.planted)
        notes = [" (planted)" if i in planted else "" for i in range(len(train))]
        found = job.explain(fooled, max(TOP, settings.k), notes)
        top = [[pair for pair in pairs if pair.score > 0][:TOP] for pairs in found]
        shown = [_shown(pairs, settings.k) for pairs in found[:IN_REPORT]]
        title = f"Why “{answer}”? The built-in corpus of captum-tracinwe"
        words = job.report(shown, title, say, f"these {len(fooled)} mistakes")
    count = sum(pair.train_index in planted for pairs in top for pair in pairs) / len(top)
    shares = _shares_by_word(top)
    findings = PlantedFindings(
        len(fooled), len(held), accuracy, count, TOP * len(planted) / len(train), shares, shown, words
    )
    verdict = "Found" if count >= 0.9 * TOP else "Partly found" if count >= 0.5 * TOP else "Not found"
    say(
        f"{verdict}: planted texts among the top {TOP} proponents of {len(top)} mistakes: {count:.3g} of {TOP} on average "
        f"({findings.by_chance:.2g} by chance).\nThe planted word {word!r} carries {shares.get(word, 0.0):.0%} of their "
        f"score, the next are " + ", ".join(f"{w!r} {s:.0%}" for w, s in list(shares.items())[:4] if w != word) + ".\n"
        f"Over all words the report names first: {words.words[0].word!r}, in {words.words[0].count} training texts, "
        f"{words.words[0].label_share:.0%} of them labelled {words.words[0].label!r}."
    )
    return findings


class _Job:
    """One model with its texts, from training to the report."""

    def __init__(
        self,
        settings: Settings,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: LabelledTexts,
        test: LabelledTexts,
        max_length: int,
        gradients: str,
    ) -> None:
        self.gradients = gradients
        self.settings, self.model, self.tokenizer, self.max_length = settings, model, tokenizer, max_length
        self.train_texts, self.test_texts = train, test
        self.encoded = training.EncodedTexts(train.texts, train.labels, tokenizer, max_length)

    def train(
        self, directory: str, epochs: int, learning_rate: float, checkpoints: int, say: Callable[[str], None]
    ) -> None:
        self.epochs = epochs
        self.run = training.train(
            self.model,
            self.encoded,
            directory,
            epochs=epochs,
            batch_size=self.settings.batch_size,
            learning_rate=learning_rate,
            seed=self.settings.seed,
            checkpoints=checkpoints,
        )
        losses, rates = self.run.losses, self.run.learning_rates
        say(
            f"Trained {epochs} epoch{'s' * (epochs > 1)} in {self.run.seconds:.1f} s; {len(self.run.steps)} checkpoints "
            f"(loss {losses[0]:.2f} to {losses[-1]:.2f}, learning rate {rates[0]:.2g} to {rates[-1]:.2g})."
        )
        test = training.EncodedTexts(self.test_texts.texts, self.test_texts.labels, self.tokenizer, self.max_length)
        self.predicted = training.logits_of(self.model, test).argmax(1).tolist()

    def right(self, test: int) -> bool:
        return bool(self.predicted[test] == self.test_texts.labels[test])

    def accuracy(self, tests: Sequence[int]) -> float:
        return sum(map(self.right, tests)) / len(tests)

    def explain(self, tests: Sequence[int], k: int, notes: Sequence[str] | None) -> list[list[WordInfluence]]:
        """Proponents, then opponents, at most k of each, of the model's own answers to the test texts."""
        started = perf_counter()
        chosen = self.test_texts.take(tests)
        answers = [self.predicted[i] for i in tests]
        encoded = training.EncodedTexts(chosen.texts, answers, self.tokenizer, self.max_length)
        inputs = encoded.collate([encoded[i] for i in range(len(encoded))])
        tracin = TracInWE(
            self.model,
            training.batches(self.encoded, GRADIENT_BATCH),
            self.run.checkpoints,
            loss_fn=nn.CrossEntropyLoss(reduction="none"),
            exclude_tokens=self.tokenizer.all_special_ids if self.settings.without_special_tokens else (),
            preconditioner=None if self.settings.plain else "auto",
        ).cached(self.gradients)  # once: scores, words and the report are all made from them
        self.tracin, self.inputs = tracin, inputs
        scores = tracin.influence(inputs)
        assert isinstance(scores, Tensor)
        indices = [_both_ends(row, k) for row in scores]
        found = tracin.word_influence(inputs, indices)
        names = self.train_texts.names
        test_texts = tokenize(
            chosen.texts,
            self.tokenizer,
            labels=[names[label] for label in chosen.labels],
            predictions=[names[answer] for answer in answers],
            max_length=self.max_length,
        )
        rows = sorted({i for row in indices for i in row})
        kept = self.train_texts.take(rows)
        labels = [names[label] + (notes[i] if notes else "") for i, label in zip(rows, kept.labels, strict=True)]
        tokenized = tokenize(kept.texts, self.tokenizer, labels=labels, max_length=self.max_length)
        train_texts = dict(zip(rows, tokenized, strict=True))
        result = [
            [
                dataclasses.replace(
                    pair.with_texts(text, train_texts[pair.train_index]),
                    test_index=line,
                    train_index=self.train_texts.lines[pair.train_index],
                )
                for pair in pairs
            ]
            for pairs, text, line in zip(found, test_texts, chosen.lines, strict=True)
        ]
        self.explained, self.first = len(result), result[0]
        self.explain_seconds = perf_counter() - started
        return result

    def report(
        self, influences: list[list[WordInfluence]], title: str, say: Callable[[str], None], which: str
    ) -> WordReport:
        """Write the page, then say what is in it; over all explained test texts (``which``), the words that drive the answers
        stand first.

        The page comes first, so that it is there whatever becomes of the terminal.
        """
        texts = tokenize(self.train_texts.texts, self.tokenizer, max_length=self.max_length)
        labels = [self.train_texts.names[label] for label in self.train_texts.labels]
        words = word_report(self.tracin, self.inputs, labels, train_texts=texts, seed=self.settings.seed)
        lines = self.train_texts.lines  # what the pairs below go by, too
        words = dataclasses.replace(
            words,
            words=tuple(
                dataclasses.replace(word, examples=tuple((lines[i], share) for i, share in word.examples))
                for word in words.words
            ),
        )
        of_them = "" if len(influences) == self.explained else f" (on {len(influences)} of them)"
        try:
            path = write_html(
                self.settings.out, word_influence_html(influences, title=title, before=report_section(words, 10))
            )
        except OSError as error:
            raise InputError(f"--out {self.settings.out}: cannot be written ({error.strerror or error}).") from error
        say(word_influence_text(_shown(self.first, min(self.settings.k, IN_TERMINAL)), top_words=3) + "\n")
        say(f"The training words that drive the answers to {which}, those that stick to one label first:\n")
        say(word_report_text(words) + "\n")
        explained = f"Explained {self.explained} test texts in {self.explain_seconds:.1f} s."
        say(f"{explained} Report{of_them}: {visible(str(path))}")
        if self.settings.checkpoints is not None:
            say(f"Checkpoints: {visible(str(self.settings.checkpoints))}")
        return words


def _both_ends(scores: Tensor, k: int) -> list[int]:
    """Indices of the k highest scores above 0, then of the k lowest below 0, each from the far end inwards."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    values = scores.tolist()
    return [i for i in order[:k] if values[i] > 0] + [i for i in order[::-1][:k] if values[i] < 0]


def _shown(pairs: list[WordInfluence], k: int) -> list[WordInfluence]:
    return [p for p in pairs if p.score > 0][:k] + [p for p in pairs if p.score < 0][:k]


def _shares_by_word(groups: list[list[WordInfluence]]) -> dict[str, float]:
    """Word → its part of the sum of the scores, largest first."""
    total, shares = 0.0, dict[str, float]()
    for pair in (pair for pairs in groups for pair in pairs):
        total += pair.score
        for word in pair.words():
            name = word.text if word.special else word.text.lower()
            shares[name] = shares.get(name, 0.0) + word.share
    return {word: share / total for word, share in sorted(shares.items(), key=lambda item: -item[1])}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For a model this small a second thread gains nothing, and on a busy machine it waits: 6 s became 300 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _checkpoint_directory(settings: Settings) -> Iterator[str]:
    """The user's directory, empty; or a temporary one that is removed at the end."""
    if settings.checkpoints is None:
        with temporary_directory() as temporary:
            yield temporary
        return
    directory = Path(settings.checkpoints)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise InputError(f"--checkpoints {directory}: not empty; name a new or an empty directory.")
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"--checkpoints {directory}: cannot be written to ({error.strerror or error}).") from error
    yield str(directory)
