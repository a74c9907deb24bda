"""Explanations made by hand, for the tests of what is shown of them: a small one, one of foreign strings, one of full size."""

from __future__ import annotations

import random
from itertools import accumulate

from cases_of_texts import pair_of, text_of

from captum_tracinwe import ReportedWord, WordReport
from captum_tracinwe.explanation import Answer, ClassCount, Explanation, Near, Performance, TrainingText
from captum_tracinwe.words.texts import from_ids


def word_of(
    word, label="World", share=0.9, examples=(), count=12, total=1.0, p=0.001, base=0.25, special=False, texts=0
):
    """A word of a report; it goes with its label unless p is large or the share small."""
    return ReportedWord(
        word, total, max(total, 0.0), min(total, 0.0), count, label, share, base, p, p, examples, special, texts
    )


def performance_of(right=17, tests=20, p=0.001, majority_right=8, names=("Sports", "World")):
    """On two classes of ten test texts each, unless told otherwise."""
    each = tests // len(names)
    classes = tuple(ClassCount(name, 40 + 10 * n, each, each - n, each) for n, name in enumerate(names))
    return Performance(tests, right, names[-1], majority_right, p, classes)


def answer_of(index, label, prediction, sure, text, *pairs):
    """An answer with ``(training text, shares)``; texts share all words that they have in common."""
    made = tuple(pair_of(text, one.text, shares, index, one.index) for one, shares in pairs)
    return Answer(index, f"line {index + 2}", text, label, prediction, sure, made)


def training_of(index, label, *words):
    """A training text."""
    return TrainingText(index, f"line {index + 2}", label, text_of(*words, label=label))


def small(**changes):
    """Two mistakes and a right answer; three training texts are nearly the same, one of them with another label."""
    texts = [
        training_of(0, "World", "troops", "cross", "the", "border"),
        training_of(1, "World", "troops", "cross", "the", "border", "again"),
        training_of(2, "Sports", "troops", "cross", "a", "border"),
        training_of(3, "Sports", "the", "cross", "wins", "the", "game"),
        training_of(4, "World", "a", "vote", "today"),
    ]
    answers = (
        answer_of(
            5, "Sports", "World", 0.999, text_of("troops", "cross", "field"), (texts[0], [2.0, 0.5]), (texts[3], [-0.4])
        ),
        answer_of(9, "Sports", "World", 0.62, text_of("a", "vote", "of", "fans"), (texts[4], [0.02, 0.01])),
        answer_of(1, "World", "World", 0.9, text_of("the", "vote"), (texts[4], [1.0])),
    )
    given = {
        "performance": performance_of(),
        "answers": answers,
        "habits": WordReport((word_of("troops", examples=((0, 1.0), (1, 0.5))), word_of("the", p=0.9)), 2.0, 20, 90),
        "causes": WordReport(
            (word_of("vote", examples=((4, 1.0),), p=0.8, total=-2.0), word_of("[CLS]", special=True)), 1.0, 2, 90
        ),
        "near": (Near((0, 1, 2), ("World", "World", "Sports")),),
        "training": {one.index: one for one in texts},
        "trains": 90,
        "title": "My run",
    }
    return Explanation(**{**given, **changes})


def foreign(strings):
    """All strings in every place that shows one: texts, words, labels, places, the title."""
    count = len(strings)
    texts = [
        TrainingText(n, strings[n - 1], strings[n], text_of(*strings[n : n + 5], f"end{n}", label=strings[n]))
        for n in range(count)
    ]
    answers = tuple(
        Answer(
            n,
            strings[n],
            text_of(*strings[n : n + 5], f"test{n}"),
            strings[n],
            strings[(n + 1) % count],
            0.5,
            (pair_of(text_of(*strings[n : n + 5], f"test{n}"), texts[n].text, None, n, n),),
        )
        for n in range(count)
    )
    words = tuple(
        word_of(name, strings[n - 1], examples=((n, 1.0),), total=1.0 - n / 50) for n, name in enumerate(strings)
    )
    report = WordReport(words[:20], 1.0, count, count)
    rest = WordReport(words[20:40], 1.0, count, count)
    near = tuple(Near((n, n + 1), (strings[n], strings[n + 1])) for n in range(0, count - 1, 2))
    performance = performance_of(names=tuple(strings[:2]))
    return Explanation(
        performance, answers, report, rest, near, {one.index: one for one in texts}, count, " ".join(strings)
    )


def large(tests=200, trains=5000, length=42, seed=0):
    """As many answers with three texts on either side, all training texts named; words drawn as often as in a language.

    Texts have 270 characters on average, as comments on the web; a few words of a pair carry most of its score.
    """
    drawn = random.Random(seed)
    vocabulary = ["".join(drawn.choices("aeioubdfglmnprst", k=drawn.randint(2, 9))) for _ in range(8000)]
    likely = list(accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    names = [f"class_{n}" for n in range(20)]

    def text_drawn():
        many = drawn.randint(length // 2, length * 3 // 2)
        return from_ids(drawn.choices(range(len(vocabulary)), cum_weights=likely, k=many), vocabulary)

    made = [text_drawn() for _ in range(trains // 10)]  # each ten times, which a page does not know
    texts = [TrainingText(n, f"line {n + 2}", names[n % 20], made[n % len(made)]) for n in range(trains)]
    answers = []
    for n in range(tests):
        text, pairs = text_drawn(), []
        for side in (1.0, 1.0, 1.0, -1.0, -1.0, -1.0):
            one = texts[drawn.randrange(trains)]
            shared = len(set(text.token_ids) & set(one.text.token_ids))
            pairs.append((one, [side * drawn.random() ** 4 for _ in range(shared)]))
        answers.append(answer_of(n, names[n % 20], names[(n + 1) % 20], 1 - n / 400, text, *pairs))
    near = tuple(Near((n, n + 1), (names[n % 20], names[(n + 1) % 20])) for n in range(0, trains // 10, 2))
    found = tuple(word_of(vocabulary[30 + n], names[n % 20], examples=((n, 1.0),)) for n in range(20))
    report = WordReport(found, 20.0, tests, trains)
    performance = performance_of(tests - 20, 400, names=tuple(names))
    return Explanation(performance, tuple(answers), report, report, near, {one.index: one for one in texts}, trains)
