"""`captum-tracinwe explain`: train or take a classifier, say why it answers a test file as it does, write the page."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from captum_tracinwe.app.asked_model import Asked, ModelSettings, asked_model, check_save
from captum_tracinwe.app.cache_command import from_cache
from captum_tracinwe.app.commands import refusals
from captum_tracinwe.app.data import InputError, classes_of
from captum_tracinwe.app.files import read_texts
from captum_tracinwe.app.outputs import check_folder, check_outputs
from captum_tracinwe.app.results import Results, of_explanation
from captum_tracinwe.app.training import batches
from captum_tracinwe.explanation import Explanation, explain
from captum_tracinwe.index.cache import cache_folder
from captum_tracinwe.index.estimate import IndexEstimate, amount, duration
from captum_tracinwe.visualization import explanation_html
from captum_tracinwe.visualization.explanation_words import explanation_text
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.legible import visible

__all__ = ["Settings", "run"]

QUESTIONS = 32  # test texts to a pass


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """What the options say; None: not given."""

    test: Path
    out: Path
    k: int = 3
    explained: int = 20
    cache: Path | None = None
    keep: bool = True
    results: Results = field(default_factory=Results)

    @property
    def outputs(self) -> dict[str, Path]:
        """Path by option, of those to be written."""
        return {"--out": self.out, **{option: Path(path) for option, path in self.results.outputs.items()}}


def run(settings: Settings, say: Callable[[str], None] = print) -> Explanation:
    """Explain a classifier's answers to a test file; write the page, then say in short what is in it.

    Raises:
        InputError: a file, the model, its checkpoints or the index cannot be used, or a file cannot be written.
    """
    settings.results.check_dashes()
    read = [*settings.read, settings.test]
    check_outputs(settings.outputs, read)
    if settings.keep:
        with refusals():
            check_folder("--cache" if settings.cache else "The cache folder", cache_folder(settings.cache), read)
    check_save(settings.save)
    if settings.limit_train is not None and settings.index is not None:
        raise InputError("--limit is given with --index, which is of all training texts; leave out one of the two.")
    rows = read_texts(settings.train, settings.reading)
    classes_of(rows, settings.train, mixed_is_said=False)  # refuses a file of one label
    tests = read_texts(settings.test, settings.reading)
    with refusals(), asked_model(settings, rows, say, (settings.test, tests)) as asked:
        texts = asked.tests
        assert texts is not None
        encoded, tokenized = asked.tokens_of(texts)

        def announce(estimate: IndexEstimate) -> None:
            say(_cost(settings, asked, estimate))

        tracin = asked.tracin
        if settings.keep:
            tracin = tracin.cached(
                settings.cache,
                announce=announce,
                about=_about(settings),
                found=lambda kept: say(from_cache(kept)),
            )
        found = explain(
            tracin,
            batches(encoded, QUESTIONS),
            test_texts=tokenized,
            train_texts=asked.tokenized,
            train_labels=asked.texts.labels,
            names=asked.texts.names,
            k=settings.k,
            explained=settings.explained,
            test_places=texts.places,
            train_places=asked.texts.places,
            cache=False,
            title=f"Why does the model answer like this? {settings.train.name} on {settings.test.name}",
            seed=settings.seed,
            announce=announce,
        )
    try:
        write_all({settings.out: explanation_html(found).encode()})
    except OSError as error:
        raise InputError(f"{error.filename or settings.out}: cannot be written ({error.strerror or error}).") from error
    if settings.results.asked:
        of_explanation(settings.results, found)
    say("\n" + explanation_text(found, top=settings.k) + "\n")
    say(f"Page, with {len(found.answers)} answers explained: {visible(str(settings.out))}")
    if settings.limit_train is None:  # of a sample the other command knows nothing
        model = settings.again if settings.save or settings.model else settings.reading.options
        given = visible(shlex.join(["--train", str(settings.train), *model]))
        say(f"Are labels wrong? captum-tracinwe suspects {given}")
    return found


def _about(settings: Settings) -> dict[str, str]:
    """What a person knows the gradients by."""
    data = str(settings.train.absolute()) if settings.train.exists() else str(settings.train)
    if settings.limit_train is not None:
        data += f" ({settings.limit_train:,} texts of it)"
    model = settings.save or settings.model
    return {"data": data, "model": "a small BERT that was not saved" if model is None else str(model.absolute())}


def _cost(settings: Settings, asked: Asked, estimate: IndexEstimate) -> str:
    """What the gradients will take, before they are computed."""
    many = len(asked.tracin.checkpoints)
    kept = f"{amount(estimate.disk_bytes)} in the cache, {visible(str(cache_folder(settings.cache)))}"
    if not settings.keep:
        kept = f"{amount(estimate.disk_bytes)} on disk until the end"
    return (
        f"Computing the gradients of {len(asked.texts):,} training texts at {many} checkpoint{'s' * (many > 1)}: about "
        f"{duration(estimate.seconds)}, {kept}."
    )
