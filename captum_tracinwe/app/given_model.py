"""What a given model says of its own: the classes that labels stand for, and how many tokens of a text it takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captum_tracinwe.app.data import InputError, LabelledTexts, Row, classes_of, listed, numbered
from captum_tracinwe.checkpoints.metadata import model_config
from captum_tracinwe.gradients.diagnosis import positions_of
from captum_tracinwe.words.legible import shortened

__all__ = ["Classes", "Head", "head_of", "kept_tokens", "labelled", "numbered_by", "of_file"]


@dataclass(frozen=True)
class Head:
    """The classes of a model's directory, as its config has them.

    Args:
        model (path): the directory.
        names (tuple of str): a name for each class, by number; empty: the model has no head of its own.
        numbers (mapping): class number by name; of a head that was never named, that of LABEL_0, LABEL_1, ….
        named (bool): whether somebody gave the classes names.
        problem (str, optional): another task than to name one class of a text, as transformers calls it.
    """

    model: Path
    names: tuple[str, ...]
    numbers: Mapping[str, int]
    named: bool
    problem: str | None = None


@dataclass(frozen=True)
class Classes:
    """What labels stand for.

    Args:
        names (tuple of str): for display, by class number.
        numbers (mapping): class number by label as a file writes it.
        known (str): where these labels are known, and which they are, as in "the label 'x' is not {known}".
        said (str): how labels were numbered where the model does not say; empty where it does.
        called (mapping): class number by the name that the model gives it.
    """

    names: tuple[str, ...]
    numbers: Mapping[str, int]
    known: str
    said: str = ""
    called: Mapping[str, int] = field(default_factory=dict)


def head_of(model: str | Path) -> Head:
    """Read the classes of a model in a local directory from its config alone.

    Raises:
        InputError: no directory of a model, or a config that names its classes in two ways.
    """
    model = Path(model)
    if not model.is_dir():
        raise InputError(f"--model {model}: no such directory; expected one written by save_pretrained.")
    if not (model / "config.json").is_file():
        raise InputError(f"--model {model}: no config.json in it; expected a directory written by save_pretrained.")
    try:
        config = model_config(model)
    except ValueError as error:
        raise InputError(
            f"--model {model}: its config.json cannot be used ({error}). Expected one written by save_pretrained: restore it."
        ) from error
    by_number = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    names = tuple(by_number.get(i, f"LABEL_{i}") for i in range(len(by_number)))
    default = {f"LABEL_{i}": i for i in range(len(names))}
    given = {str(name): int(number) for name, number in (config.label2id or {}).items()}
    if given.keys() <= default.keys() and names != tuple(default):  # only id2label was set
        given = {}
    if names == tuple(default) and not given.keys() <= default.keys():  # only label2id was set
        of_given = {number: name for name, number in given.items()}
        names = tuple(of_given.get(i, name) for i, name in enumerate(names))
    numbers = dict(given)
    for number, name in enumerate(names):
        if numbers.setdefault(name, number) != number:
            raise InputError(
                f"--model {model}: its config.json has {name!r} as class {number} in id2label and as class {numbers[name]} "
                f"elsewhere; expected one class for each name. Mend id2label and label2id there."
            )
    beyond = next((name for name, number in numbers.items() if not 0 <= number < len(names)), None)
    if beyond is not None:
        raise InputError(
            f"--model {model}: its config.json has {beyond!r} as class {numbers[beyond]} in label2id, and {len(names)} classes; "
            f"expected class numbers from 0 to {len(names) - 1}. Mend label2id there."
        )
    named = set(numbers) != set(default)
    # A plain encoder has the config's default of two classes, and no head: load_model makes one.
    if not named and not any("ForSequenceClassification" in str(name) for name in config.architectures or ()):
        return Head(model, (), {}, False)
    by_itself = "regression" if len(names) == 1 else None  # what transformers takes a head of one number for
    problem = getattr(config, "problem_type", None) or by_itself
    problem = None if problem == "single_label_classification" else problem
    return Head(
        model, names, {name: numbers[name] for name in sorted(numbers, key=numbers.__getitem__)}, named, problem
    )


def numbered_by(head: Head, rows: Sequence[Row], path: str | Path, indexed: Mapping[str, int] | None = None) -> Classes:
    """What the labels of texts stand for under a given model.

    A model that names its classes decides alone. Of one that does not, integers are class numbers and LABEL_0, LABEL_1, … are
    themselves; other labels are numbered in their order, integers before strings, if they are as many as the classes.

    Args:
        head (Head): of the model.
        rows (list of Row): of the training file.
        path (path): that file, for what is said of it.
        indexed (mapping, optional): class number by label, of an index that holds training texts already; it then takes the
            place of ``rows``.

    Raises:
        InputError: which label is which class cannot be told, or the index has it otherwise.
    """
    if head.problem is not None:
        what = "several labels of a text" if head.problem == "multi_label_classification" else "a number for each text"
        raise InputError(
            f"--model {head.model}: trained on {what} (problem_type={head.problem!r} and num_labels={len(head.names)} in its "
            f"config.json); expected a classifier of one class for each text. `suspects` and `demo` make one of it, where "
            f"they are given no checkpoints; this one itself can be asked from Python, TracInWE(...).influence(...)."
        )
    count = len(head.names)
    integers = {str(i): i for i in range(count)}
    if head.named:
        # Stars called "1" to "5" are classes 0 to 4: where a name is an integer, integers are names.
        whole = any(_whole([name]) for name in head.numbers)
        numbers = {**head.numbers} if whole else {**head.numbers, **integers}
        known = (
            f"a class of --model {head.model} ({listed(head.numbers)}" + ("" if whole else f"; 0 to {count - 1}") + ")"
        )
        _check_indexed(numbers, indexed, head)
        return Classes(head.names, numbers, known, called=head.numbers)
    if indexed is None:
        labels = dict.fromkeys(row.label for row in rows)
        by_name, by_number = labels.keys() <= head.numbers.keys(), _whole(labels)
    else:
        by_name, by_number = indexed.items() <= head.numbers.items(), indexed.items() <= integers.items()
    if count and (by_name or by_number):
        labels_of, what = (head.numbers, "LABEL_0, LABEL_1, …") if by_name else (integers, "integer labels")
        said = f"The model names none of its {count} classes: {what} are class numbers as they are."
        known = f"a class of --model {head.model} ({listed(labels_of)})"
        return Classes(tuple(labels_of), labels_of, known, said)
    if indexed is not None:
        of_number = {number: label for label, number in indexed.items()}
        names = tuple(of_number.get(i, f"class {i}") for i in range(max(count, max(of_number) + 1)))
        return Classes(names, dict(indexed), f"in the index ({listed(indexed)})")
    classes = classes_of(rows, path)
    if count and len(classes) != count:
        raise InputError(
            f"{path}: {len(classes)} different labels ({listed(classes)}), and --model {head.model} has {count} classes "
            f"without names: which is which cannot be told. Write class numbers from 0 to {count - 1} as labels, or set "
            f"id2label and label2id in the model's config.json."
        )
    said = f"The model names none of its classes: labels were numbered from 0 in this order: {listed(classes)}."
    return dataclasses.replace(of_file(classes), said=said)


def of_file(classes: Mapping[str, str]) -> Classes:
    """The classes of a training file (:func:`captum_tracinwe.data.classes_of`), numbered in their order."""
    numbers = {label: i for i, label in enumerate(classes)}
    return Classes(tuple(classes.values()), numbers, f"in the training file ({listed(classes)})")


def labelled(rows: Sequence[Row], classes: Classes, path: str | Path) -> LabelledTexts:
    """Number the labels of texts by ``classes``.

    Raises:
        InputError: a label is not among them, or the name that the file gives it is that of another class.
    """
    texts = numbered(rows, classes.numbers, classes.names, path, classes.known)
    for row, label in zip(rows, texts.labels, strict=True):
        meant = label if row.name is None else classes.called.get(row.name, label)
        if meant != label:
            raise InputError(
                f"{path}, {row.place}: the label {shortened(row.label)} is called {shortened(row.name)}, and "
                f"{shortened(row.name)} is class {meant} of the model, not {label}. Name the column of these names with "
                f"--label-column."
            )
    return texts


def kept_tokens(asked: int, tokenizer: Any, config: Any, say: Callable[[str], None], pairs: bool = False) -> int:
    """How many tokens of a text are kept: what ``--max-length`` asks for, or the model's positions, said if these are fewer.

    Args:
        pairs (bool): each text is a pair, which has more special tokens.

    Raises:
        InputError: no token of a text would be left beside the special ones.
    """
    special = int(tokenizer.num_special_tokens_to_add(pair=pairs))
    if asked <= special:
        raise InputError(
            f"--max-length {asked}: the tokenizer puts {special} special tokens around a text, which leaves none of its own; "
            f"expected at least {special + 1}."
        )
    positions = positions_of(config)
    if positions is None:
        return asked
    if asked > positions:
        say(f"--max-length {asked}: the model has {positions} positions; texts are cut there.")
    return min(asked, positions)


def _check_indexed(numbers: Mapping[str, int], indexed: Mapping[str, int] | None, head: Head) -> None:
    wrong = [label for label, number in (indexed or {}).items() if numbers.get(label) != number]
    if wrong and indexed is not None:
        there = numbers.get(wrong[0], "none")
        raise InputError(
            f"The index has the label {shortened(wrong[0])} as class {indexed[wrong[0]]}, --model {head.model} as class "
            f"{there}: its gradients are those of other answers. Build it anew."
        )


def _whole(labels: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-?\d+", label) for label in labels)
