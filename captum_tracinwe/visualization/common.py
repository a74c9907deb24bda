"""What all pictures share: pairs by test text, words in reading order, one scale, the look of a number."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.words.characters import Span
from captum_tracinwe.words.influence import WordInfluence, position_shares
from captum_tracinwe.words.report import ReportedWord, WordReport
from captum_tracinwe.words.texts import SEPARATOR, TokenizedText

__all__ = [
    "AWAY",
    "MEANING",
    "ORDER",
    "TOWARDS",
    "UNIT",
    "Influences",
    "Mark",
    "TestGroup",
    "Texts",
    "carried",
    "columns_of",
    "first_words",
    "group",
    "largest_others",
    "marks",
    "scale_of",
    "signed",
]

Pair = TypeVar("Pair")
#: What pictures take, a pair, a list of pairs, or a list of lists ``[test][rank]``.
Influences: TypeAlias = WordInfluence | Iterable["WordInfluence | Iterable[WordInfluence]"]
#: Texts by index, the whole list in the order of the data, or a mapping.
Texts: TypeAlias = Sequence[TokenizedText] | Mapping[int, TokenizedText]

# Blue and vermilion of Okabe and Ito: told apart by all common kinds of colour vision.
BLUE, VERMILION = "#0072B2", "#D55E00"
#: The unit of a score, as pictures write it.
UNIT = "learning rate × squared gradient of the loss, times the weights of words where there are any"
#: What the sign of a score says, as pictures write it.
MEANING = (
    "Above 0: pushed the model towards this answer (a proponent: a training step on it lowers the loss on the test text). "
    "Below 0: pushed it away (an opponent: a step on it raises that loss)."
)
#: The headings of those above 0 and of those below, as pictures write them.
TOWARDS, AWAY = "Pushed the model towards this answer", "Pushed it away"
#: How a report orders its words, as pictures write it.
ORDER = (
    "by size of total × steadiness × certainty; the others by total. Steadiness is 1 if all texts pull the same way, and 0 if "
    "they cancel. Certainty is the way from the label's share of all texts to always"
)
# So many words that go with no label are named where all others shown do.
_OTHERS = 3


@dataclass(frozen=True)
class TestGroup:
    """One test text and the pairs shown for it, largest magnitude first."""

    __test__ = False  # not a test case, whatever its name starts with

    test_index: int
    text: TokenizedText | None
    proponents: tuple[WordInfluence, ...]
    opponents: tuple[WordInfluence, ...]
    neutral: tuple[WordInfluence, ...]

    @property
    def pairs(self) -> tuple[WordInfluence, ...]:
        """All of them."""
        return self.proponents + self.opponents + self.neutral


@dataclass(frozen=True)
class Mark:
    """A word of a text with its share in one pair; a special token has an empty span at its place."""

    span: Span
    share: float
    name: str
    special: bool
    tokens: tuple[str, ...]


def check_count(name: str, value: object) -> None:
    """ValueError unless ``value`` is a number of things to show."""
    if not is_whole(value) or value < 0:  # type: ignore[operator]
        raise ValueError(f"expected `{name}` as a whole number of at least 0, got {value!r}.")


def flat(
    influences: Influences, test_texts: Texts | None = None, train_texts: Texts | None = None
) -> list[WordInfluence]:
    """The pairs in one list, with their texts where they are known."""
    pairs = pairs_in(influences, WordInfluence, "TracInWE.word_influence(...)")
    if test_texts is None and train_texts is None:
        return pairs
    return [
        pair.with_texts(
            _text_of(test_texts, pair.test_index, "test") or pair.test_text,
            _text_of(train_texts, pair.train_index, "train") or pair.train_text,
        )
        for pair in pairs
    ]


def pairs_in(influences: Any, kind: type[Pair], source: str) -> list[Pair]:
    """One pair, a list of them, or a list of lists, as one list; TypeError names ``source`` as where they come from."""
    pairs: list[Any] = []
    if isinstance(influences, kind):
        influences = [influences]
    for entry in influences if _is_list(influences) else [influences]:
        pairs += entry if _is_list(entry) else [entry]
    wrong = next((pair for pair in pairs if not isinstance(pair, kind)), None)
    if wrong is not None or influences is None:
        raise TypeError(
            f"expected {kind.__name__}, or a list of them per test text, as {source} returns them; got "
            f"{type(wrong).__name__}."
        )
    return pairs


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _text_of(texts: Texts | None, index: int, side: str) -> TokenizedText | None:
    if texts is None:
        return None
    if isinstance(texts, Mapping):
        text = texts.get(index)
    elif not 0 <= index < len(texts):
        raise ValueError(
            f"{side}_texts: expected a text for {side} index {index}, got {len(texts)} texts. "
            "Pass the whole list in the order of the data, or a mapping from index to text."
        )
    else:
        text = texts[index]
    if text is not None and not isinstance(text, TokenizedText):
        raise TypeError(
            f"{side}_texts: expected TokenizedText, got {type(text).__name__} for {side} index {index}: make them with "
            f"captum_tracinwe.texts.tokenize(texts, tokenizer), or from_ids."
        )
    return text


def group(influences: Influences, test_texts: Texts | None = None, train_texts: Texts | None = None) -> list[TestGroup]:
    """Pairs by test text, in order of appearance."""
    by_test: dict[int, list[WordInfluence]] = {}
    for pair in flat(influences, test_texts, train_texts):
        by_test.setdefault(pair.test_index, []).append(pair)
    groups = []
    for test_index, pairs in by_test.items():
        pairs.sort(key=lambda pair: (-abs(pair.score), pair.train_index))
        groups.append(
            TestGroup(
                test_index,
                next((pair.test_text for pair in pairs if pair.test_text is not None), None),
                tuple(pair for pair in pairs if pair.score > 0),
                tuple(pair for pair in pairs if pair.score < 0),
                tuple(pair for pair in pairs if pair.score == 0),
            )
        )
    return groups


def marks(influence: WordInfluence, text: TokenizedText) -> list[Mark]:
    """Words of one side of a pair that hold a shared token, in reading order; shares add up to the score."""
    shares = position_shares(influence, text)
    spans = text.word_spans()
    found: dict[int, list[int]] = {}
    result: list[Mark] = []
    cursor = 0
    for position, word in enumerate(text.words):
        span = text.spans[position]
        cursor = max(cursor, span[1] if span else 0)
        if position in shares and word is not None:
            found.setdefault(word, []).append(position)
        elif position in shares:
            name, place = text.token_names[position], cursor
            if position and text.words[position - 1] is None and text.text.startswith(SEPARATOR, cursor):
                place += len(SEPARATOR)  # behind the end of a text is the beginning of the next
            result.append(Mark((place, place), shares[position], name, True, (name,)))
    if len(text.words) in shares and text.padding is not None:
        name = text.padding[1]
        result.append(Mark((cursor, cursor), shares[len(text.words)], name, True, (name,)))
    for word, positions in found.items():
        start, end = spans[word]
        names = tuple(text.token_names[position] for position in positions)
        share = math.fsum(shares[position] for position in positions)
        result.append(Mark((start, end), share, text.text[start:end] or names[0], False, names))
    return sorted(result, key=lambda mark: mark.span)


def read_or_not(text: TokenizedText, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The characters start:end in pieces that the model read, or did not: ``(start, end, read)``."""
    for begin, stop in text.unread:
        begin, stop = max(start, begin), min(end, stop)
        if begin < stop:
            if start < begin:
                yield start, begin, True
            yield begin, stop, False
            start = stop
    if start < end:
        yield start, end, True


def first_words(report: WordReport, top: int) -> tuple[ReportedWord, ...]:
    """The words of a report that a picture shows."""
    if not isinstance(report, WordReport):
        raise TypeError(f"expected a WordReport, as word_report(...) returns it, got {type(report).__name__}.")
    check_count("top", top)
    return report.words[:top]


def largest_others(report: WordReport, shown: Sequence[ReportedWord]) -> tuple[ReportedWord, ...]:
    """Where all words shown go with a label: the largest of those that go with none, which would go unseen.

    Of 0.2 % of a total one could take words for its cause, while "[CLS]" and "the" carry nearly all of it.
    """
    if not shown or not shown[-1].sticks:
        return ()
    return tuple(word for word in report.words[len(shown) :] if not word.sticks)[:_OTHERS]


def carried(words: Iterable[ReportedWord], report: WordReport) -> str:
    """The part that some words have in the totals of all, ignoring the sign: '12%', '0.2%'."""
    whole = math.fsum(abs(word.total) for word in report.words)
    part = math.fsum(abs(word.total) for word in words) / (whole or 1.0)
    if 0 < part < 0.01:
        return f"{part:.1%}" if part >= 0.001 else "under 0.1%"
    return f"{part:.0%}" if part >= 1 or round(part, 2) < 1 else "over 99%"


def with_label(label: str, share: str) -> tuple[str, str]:
    """What stands before and after a label beside its share: 'sailing 56%', but 'label 2: 56%'."""
    number = label.replace(".", "", 1).removeprefix("-").isdigit()
    return ("label ", f": {share}") if number else ("", f" {share}")


def scale_of(values: Iterable[float]) -> float:
    """The largest magnitude, 1 where there is none: the value that gets the full colour."""
    return max((abs(value) for value in values), default=0.0) or 1.0


def counted(number: int, name: str) -> str:
    """'1 text', '2,000 texts'."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def signed(value: float) -> str:
    """A number with its sign and three digits: '+0.0120', '−1.20e-05', '0'."""
    if value == 0:
        return "0"
    shown = f"{abs(value):#.3g}".removesuffix(".")
    return f"{'−' if value < 0 else '+'}{shown}"


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes: ideographs two, marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Cf") for character in text)
