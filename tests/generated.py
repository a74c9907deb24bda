"""Recipes of a model and its data, drawn at random and held against a loop over single examples: right, or told.

``python tests/generated.py 3600`` draws for an hour and counts; ``test_generated.py`` stops at the first that is neither.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from generated_data import COLLATORS, LOADERS, Padded, alone, texts
from generated_models import FAMILIES, LOSSES, fresh, with_loss
from generated_savings import SAVINGS, Run
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from single_examples import Moment, relative_error, scores_alone, takes_labels

import captum_tracinwe
from captum_tracinwe import TracInWE
from captum_tracinwe.app.training import quiet_transformers

# Of the largest score, in float32.
TOLERANCE = 1e-3
AROUND = {"nothing": "", "no_grad": "", "inference_mode": "", "train mode": "", "autocast": "U"}

# What a message must speak of, to name the matter of a kind; kinds that are not here can only be right.
MATTERS = {
    "A": "loss",
    "B": "weight|hook|merge",
    "C": "collat|one row|each example|examples? of|packed|flatten",
    "D": "shuffl|order",
    "E": "padd|equal length|position|alone|pad token",
    "F": "token_type_ids|look",
    "I": "does not fit|architecture|prefix",
    "K": "collat",
    "J": "distributed|DCP|FSDP|DeepSpeed|shards",
    "N": "first dimension|alone",
    "O": "order|sort",
    "P": "each time|reading|random|another",
    "Q": "padd|left",
    "S": "hook|load_state_dict|prepare",
    "T": "order|sampler",
    "U": "autocast|pad token|padding token",
}
# Kinds whose recipes are counted and do not fail, while they are being mended: none.
KNOWN: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Recipe:
    """One draw; its ``repr`` is what makes it again."""

    family: str
    saving: str
    loss: str
    collator: str
    loader: str
    side: str
    batch_size: int
    asked: str
    around: str
    source: str
    seed: int

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of trouble in it, by their letters."""
        family, loss = FAMILIES[self.family], LOSSES[FAMILIES[self.family].kind][self.loss]
        found = family.kinds + loss.kinds + SAVINGS[self.saving].kinds
        found += COLLATORS[self.collator][0] + LOADERS[self.loader][0] + AROUND[self.around]
        # What a classifier's run was collated with is not on disk.
        found += "K" * (self.source == "finished run" and self.collator == "ours" and family.kind == "class")
        pads = self.collator != "ours" or self.asked == "batch" or LOADERS[self.loader][2]
        found += family.right + (family.left if pads and self.side == "left" else "")
        return frozenset(found)


@st.composite
def recipes(draw: Callable[..., Any]) -> Recipe:
    """Choices without trouble come first, and more often: of two kinds in one recipe the one hides the other."""

    def one(choices: Mapping[str, str], often: int = 4) -> str:
        """One of ``choices``, name → kinds; those without are ``often`` times as likely, all together, as all others."""
        plain = [name for name, kinds in choices.items() if not kinds]
        times = -(-often * len(choices) // len(plain))
        return draw(st.sampled_from([*plain * times, *choices]))

    recipe: dict[str, Any] = {
        "family": one({name: family.kinds + family.right for name, family in FAMILIES.items()}, 1)
    }
    family = FAMILIES[recipe["family"]]
    savings = {name: way.kinds for name, way in SAVINGS.items() if not (family.own and way.of)}
    losses = {name: way.kinds for name, way in LOSSES[family.kind].items() if not (family.own and way.given is None)}
    recipe["saving"], recipe["loss"] = one(savings, 2), one(losses)
    recipe["collator"] = one({name: kinds for name, (kinds, _) in COLLATORS.items() if _fits(name, family)})
    # A loader of the user's own, whose collator pops labels, has no second epoch: there is nothing to hold it against.
    pops = recipe["collator"] == "pops labels"
    recipe["loader"] = one({name: kinds for name, (kinds, _, whole) in LOADERS.items() if not (whole and pops)})
    recipe["side"] = one({"right": "", "left": family.left}, 2)
    recipe["batch_size"] = draw(st.sampled_from([2, 1, 3, 4]))
    recipe["asked"], recipe["around"] = one({"examples": "", "batch": ""}), one(AROUND)
    sources = ["live", "live", "small memory", "index"] if recipe["loader"] == "data set" else ["live"]
    sources += ["by length"] * (len(sources) > 1 and family.masked and not family.own)
    sources += ["finished run"] * (len(sources) > 1 and recipe["saving"] == "Trainer")
    recipe["source"] = draw(st.sampled_from(sources))
    return Recipe(**recipe, seed=draw(st.integers(0, 9)))


def _fits(collator: str, family: Any) -> bool:
    if collator == "flattens":
        return family.kind == "next" and family.takes_places
    return collator != "pads and numbers words" or family.takes_places


# ------------------------------------------------------------------------------------------------------ one recipe, run


class Verdict(NamedTuple):
    """``word``: right, told, or what went wrong; ``said``: the message or the error."""

    word: str
    said: str = ""


class Kitchen:
    """A recipe put together: the model as training left it, checkpoints on disk, examples, and what training had."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        family = FAMILIES[recipe.family]
        self.loss, self.saving = LOSSES[family.kind][recipe.loss], SAVINGS[recipe.saving]
        types = "two kinds" in recipe.family
        self.train = texts(family, 5, 10 * recipe.seed, types)
        self.test = texts(family, 3, 10 * recipe.seed + 1, types)
        self.pad = Padded(recipe.side)
        self.collate = COLLATORS[recipe.collator][1](self.pad)
        self.model = with_loss(fresh(recipe.family), self.loss)
        self.moments = []
        self.model.train()
        generator = torch.Generator().manual_seed(recipe.seed)
        for step, rate in ((1, 0.5), (2, 0.125)):
            with torch.no_grad():
                for parameter in self.model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            run = Run(self.model, rate, step)
            self.saving.save(run, folder)
            self.moments.append(Moment(run.state(), rate if self.saving.rated else 1.0))
        self.model.load_state_dict(self.moments[-1].weights)
        self.model.train(recipe.around == "train mode")

    def expected(self) -> torch.Tensor:
        """The loop over single examples."""
        return scores_alone(
            self.model,
            self.moments,
            *(self._alone(self.test, self.recipe.asked == "batch"), self._alone(self.train)),
            self.loss.alone,
            lambda model: (
                model.embedding.weight if hasattr(model, "embedding") else model.get_input_embeddings().weight
            ),
        )

    def _alone(self, examples: list[dict[str, Any]], in_batch: bool = False) -> list[dict[str, torch.Tensor]]:
        """Each as it goes into the model by itself: what fills it up is its own, if it is given or collated so.

        On the left it is not where a mask tells that it is there.
        """
        recipe, filled = self.recipe, copy.deepcopy(examples)
        if recipe.side == "left" and "attention_mask" in examples[0]:
            return alone(examples)
        if in_batch:
            batch = self.pad(filled)
            return [{name: value[place : place + 1] for name, value in batch.items()} for place in range(len(examples))]
        if recipe.collator == "pads to one length" and recipe.source != "by length":
            return [self.collate([one]) for one in filled]
        return alone(examples)

    def found(self) -> torch.Tensor:
        """What the package says."""
        recipe = self.recipe
        _, make, whole = LOADERS[recipe.loader]
        data = make(self.train, recipe.batch_size, self.collate or self.pad)
        asked: Any = self.test
        if recipe.asked == "batch":
            batch = self.pad(copy.deepcopy(self.test))
            asked = batch if takes_labels(self.model) else (batch["input_ids"], batch["labels"])
        options: dict[str, Any] = {"loss_fn": self.loss.given, "batch_size": recipe.batch_size}
        if self.collate is not None and not whole:
            options["collate_fn"] = self.collate
        with _around(recipe.around):
            return self._tracin(data, options).influence(asked)

    def _tracin(self, data: Any, options: dict[str, Any]) -> TracInWE:
        source = self.recipe.source
        if source == "finished run":
            options["data_collator"] = options.pop("collate_fn", None)
            return TracInWE.from_pretrained_run(self.folder, data, model=self.model, **options)
        if source == "small memory":
            options["memory_limit"] = 100
        if source == "by length":
            options["order_by_length"] = True
        tracin = TracInWE(self.model, data, self.folder, **options)
        if source == "index":
            with tempfile.TemporaryDirectory() as place:
                index = tracin.build_index(Path(place) / "index")
                return TracInWE(self.model, None, self.folder, index=index, **options)
        return tracin


@contextlib.contextmanager
def _around(name: str) -> Any:
    around = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }
    with around.get(name, contextlib.nullcontext)():
        yield


def verdict(recipe: Recipe) -> Verdict:
    """Whether `influence` is right of the recipe, or tells what is the matter."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kitchen = Kitchen(recipe, Path(place))
        expected = kitchen.expected()
        data, weights = copy.deepcopy((kitchen.train, kitchen.test)), copy.deepcopy(kitchen.model.state_dict())
        said.clear()
        torch.manual_seed(recipe.seed)
        try:
            found, error = kitchen.found(), None
        except Exception as raised:
            found, error = None, raised
    return _judged(
        recipe, kitchen, expected, found, error, [str(one.message) for one in said if _ours(one)], data, weights
    )


def _judged(recipe, kitchen, expected, found, error, said, data, weights) -> Verdict:
    if data != (kitchen.train, kitchen.test):
        return Verdict("data changed")
    after = kitchen.model.state_dict()
    if not all(torch.equal(after[name], tensor) for name, tensor in weights.items()):
        return Verdict("model changed", next(name for name in weights if not torch.equal(after[name], weights[name])))
    if error is not None:
        line = f"{type(error).__name__}: {error!s:.600}"
        if not _raised_by_us(error):
            return Verdict("raw error", line)
        return Verdict("told" if _names(recipe, str(error)) else "refused", line)
    told = next((one for one in said if _names(recipe, one)), "")
    if found.shape != expected.shape:
        return Verdict("told", told) if told else Verdict("wrong shape", f"{tuple(found.shape)}")
    wrong = relative_error(found, expected)
    if wrong < TOLERANCE:
        return Verdict("right")
    return Verdict("told", told) if told else Verdict("wrong number", f"{wrong:.3g} of the largest score; said: {said}")


def _names(recipe: Recipe, message: str) -> bool:
    return any(re.search(MATTERS[kind], message, re.IGNORECASE) for kind in recipe.kinds if kind in MATTERS)


def _raised_by_us(error: BaseException) -> bool:
    """In words of the package's own: not by torch in one of its lines."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(str(Path(captum_tracinwe.__file__).parent)) and str(last.line).startswith("raise")


def _ours(warning: warnings.WarningMessage) -> bool:
    """A library's own warning stands in a line of that library; ours in the package's, or in the caller's."""
    return not re.search(r"site-packages.(torch|transformers|peft|accelerate|datasets)\b", warning.filename)


# ---------------------------------------------------------------------------------------------------------- many of them


def draw(check: Callable[[Recipe], None], seconds: float, each: int = 100) -> int:
    """Hand recipes to ``check`` until the time is over, in rounds of hypothesis, whose seeds are 0, 1, …; how many they were."""
    end, count = time.monotonic() + seconds, 0

    def run(recipe: Recipe) -> None:
        nonlocal count
        if time.monotonic() < end:
            count += 1
            check(recipe)

    rounds = settings(
        max_examples=each,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    number = 0
    with quiet_transformers():
        while time.monotonic() < end:
            seed(number)(rounds(given(recipes())(run)))()
            number += 1
    return count


def main(seconds: float) -> None:
    """Count verdicts, and print one recipe of each that is neither right nor told, with its kinds; also when it is met first."""
    words: Counter[str] = Counter()
    bad: dict[tuple[frozenset[str], str], tuple[int, Recipe, Verdict]] = {}

    def check(recipe: Recipe) -> None:
        found = verdict(recipe)
        words[found.word] += 1
        if found.word in ("right", "told"):
            return
        if (recipe.kinds, found.word) not in bad:
            print(f"{sum(words.values())}: {found.word}\n  {recipe}\n  {found.said}", flush=True)
        times, first, said = bad.get((recipe.kinds, found.word), (0, recipe, found))
        bad[recipe.kinds, found.word] = times + 1, first, said

    count = draw(check, seconds)
    print(count, "recipes:", dict(words))
    shown: list[frozenset[str]] = []
    for (kinds, word), (times, recipe, found) in sorted(
        bad.items(), key=lambda item: (len(item[0][0]), sorted(item[0][0]))
    ):
        if not any(fewer < kinds for fewer in shown):  # else one of its kinds was shown alone
            print(f"{''.join(sorted(kinds)) or 'plain'}: {word}, {times} times\n  {recipe}\n  {found.said}")
            shown += [kinds] * bool(kinds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(float(sys.argv[1]))
