"""A question, read from the body of a request: JSON, or the form of the page. Nothing of it names a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from captum_tracinwe.app.data import listed
from captum_tracinwe.app.files.rows import Text, json_type
from captum_tracinwe.app.given_model import Classes
from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.refused import Refused
from captum_tracinwe.words.legible import shortened

__all__ = ["Question", "Reader"]

FIELDS = ("text", "label", "texts", "labels", "k")
FORM = ("text", "second", "label", "k")
DEFAULT_K = 5
# Of a whole number; Python takes quadratic time for one of many digits.
DIGITS = 18


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        texts (tuple): N texts, or pairs of texts.
        labels (tuple): N class numbers; None: the model's own answer.
        k (int): proponents of each text, and as many opponents.
        several (bool): the texts came as a list, and so does their answer.
    """

    texts: tuple[Text, ...]
    labels: tuple[int | None, ...]
    k: int = DEFAULT_K
    several: bool = False


@dataclass(frozen=True)
class Reader:
    """Reads questions of one server.

    Args:
        classes (Classes): what labels stand for.
        pairs (bool): each text is a pair.
        limits (Limits): of a question.
    """

    classes: Classes
    pairs: bool
    limits: Limits

    def of_json(self, body: bytes) -> Question:
        """The question in a JSON object.

        Raises:
            Refused: it is no JSON (400), or none of a question (422).
        """
        given = _object_of(body)
        unknown = next((name for name in given if name not in FIELDS), None)
        if unknown is not None:
            raise Refused(
                422, f"There is no field {shortened(unknown)}; expected {listed(FIELDS, quoted=False)}. Leave it out."
            )
        k = self._k(given.get("k", DEFAULT_K))
        if ("text" in given) == ("texts" in given):
            raise Refused(422, "Expected `text`, or `texts` with a list of them: one of the two.")
        if "text" in given:
            if "labels" in given:
                raise Refused(422, "`labels` goes with `texts`; expected `label` beside `text`.")
            return Question((self._text("`text`", given["text"]),), (self._label("`label`", given.get("label")),), k)
        if "label" in given:
            raise Refused(422, "`label` goes with `text`; expected `labels` beside `texts`, a list with one for each.")
        texts = _list("`texts`", given["texts"])
        if not 1 <= len(texts) <= self.limits.texts:
            way = " Ask in several requests, or start the server with a larger --max-texts." if texts else ""
            raise Refused(422, f"`texts` has {len(texts)} of them; expected 1 to {self.limits.texts}.{way}")
        labels = _list("`labels`", given.get("labels", [None] * len(texts)))
        if len(labels) != len(texts):
            raise Refused(
                422, f"`labels` has {len(labels)} of them; expected one for each of {len(texts)} texts, or null."
            )
        return Question(
            tuple(self._text(f"`texts[{at}]`", one) for at, one in enumerate(texts)),
            tuple(self._label(f"`labels[{at}]`", one) for at, one in enumerate(labels)),
            k,
            several=True,
        )

    def of_form(self, body: bytes) -> Question:
        """The question in the form of the page.

        Raises:
            Refused: it is not such a form (400), or none of a question (422).
        """
        given = form_of(body)
        texts: list[str] = [given.get(name, "") for name in (("text", "second") if self.pairs else ("text",))]
        label, k = given.get("label", ""), given.get("k", str(DEFAULT_K))
        if label and not (_is_number(label) and int(label) < len(self.classes.names)):
            raise Refused(
                422, f"`label` is {shortened(label)}; expected a class number from 0 to {len(self.classes.names) - 1}."
            )
        return Question(
            (self._text("The text", texts if self.pairs else texts[0]),),
            (int(label) if label else None,),
            self._k(int(k) if _is_number(k) else k),
        )

    def _text(self, name: str, value: Any) -> Text:
        if not self.pairs:
            return self._one(name, value)
        if not isinstance(value, list) or len(value) != 2:
            of = f" of {len(value)}" if isinstance(value, list) else ""
            raise Refused(422, f"{name} is a {json_type(value)}{of}; expected a list of two strings, a pair of texts.")
        return self._one(name, value[0]), self._one(name, value[1])

    def _one(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise Refused(422, f"{name} is a {json_type(value)}; expected a string.")
        if len(value) > self.limits.characters:
            raise Refused(
                422,
                f"{name} has {len(value):,} characters; expected at most {self.limits.characters:,}. Shorten it, or start the "
                f"server with a larger --max-characters.",
            )
        if not value.strip():
            raise Refused(422, f"{name} is empty; expected a text.")
        half = next((one for one in value if "\ud800" <= one <= "\udfff"), None)
        if half is not None:
            raise Refused(422, f"{name} holds half a character (U+{ord(half):04X}); expected whole ones.")
        return value

    def _label(self, name: str, value: Any) -> int | None:
        if value is None:
            return None
        numbers, count = self.classes.numbers, len(self.classes.names)
        if isinstance(value, str) and value in numbers:
            return numbers[value]
        if type(value) is int:
            if str(value) in numbers:  # where a label is an integer, integers are labels
                return numbers[str(value)]
            if 0 <= value < count and not any(_is_number(label) for label in numbers):
                return value
        shown = shortened(value) if isinstance(value, str) else value if type(value) is int else f"a {json_type(value)}"
        raise Refused(
            422,
            f"{name} is {shown}; expected the name of a class ({listed(numbers)}), its number, or null for the model's own "
            f"answer.",
        )

    def _k(self, value: Any) -> int:
        if type(value) is not int or not 1 <= value <= self.limits.k:
            shown = value if type(value) is int else f"a {json_type(value)}"
            way = (
                " Ask for fewer, or start the server with a larger --max-k." if type(value) is int and value > 0 else ""
            )
            raise Refused(422, f"`k` is {shown}; expected a whole number from 1 to {self.limits.k}.{way}")
        return value


def form_of(body: bytes) -> Mapping[str, str]:
    """The fields of a form, each once; line ends are line feeds.

    Raises:
        Refused: it is no such form.
    """
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict", max_num_fields=8
        )
    except ValueError:
        raise Refused(400, "The body is no form in UTF-8; expected one as the page sends it.") from None
    given = dict(fields)
    unknown = next((name for name in given if name not in FORM), None)
    if unknown is not None:
        raise Refused(422, f"There is no field {shortened(unknown)} in the form; expected those that the page sends.")
    if len(given) != len(fields):
        raise Refused(422, "A field of the form stands there twice; expected each once.")
    return {name: value.replace("\r\n", "\n") for name, value in given.items()}


def _object_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"Byte {error.start} of the body is not UTF-8; expected JSON in UTF-8.") from None
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_constant, parse_int=_whole)
    except RecursionError:
        raise Refused(400, "The body is nested too deeply; expected one JSON object of plain fields.") from None
    except ValueError as error:
        raise Refused(400, f"The body is not JSON ({error}); expected one JSON object, in UTF-8.") from None
    if not isinstance(found, dict):
        raise Refused(422, f"The body is a {json_type(found)}; expected a JSON object with `text`.")
    return found


def _once(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose names stands there twice: of two values nobody knows which was meant."""
    found: dict[str, Any] = {}
    for name, value in fields:
        if name in found:
            raise Refused(400, f"The field {shortened(name)} stands there twice; expected it once.")
        found[name] = value
    return found


def _constant(name: str) -> Any:
    raise Refused(400, f"The body has {name}, which JSON does not have; expected a number that is finite.")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Refused(422, f"A whole number in the body has {len(digits):,} digits; expected at most {DIGITS} of them.")
    return int(digits)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(422, f"{name} is a {json_type(value)}; expected a list.")
    return value


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS
