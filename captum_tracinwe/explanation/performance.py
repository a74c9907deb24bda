"""How good a model is beside one that always names the same class: before its answers are explained, that is to be known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from captum_tracinwe.explanation.found import ClassCount, Performance

__all__ = ["performance_of", "sign_test"]


def performance_of(
    train: Sequence[int], test: Sequence[int], predicted: Sequence[int], names: Sequence[str]
) -> Performance:
    """Of a model on a test set.

    Args:
        train, test (sequence of int): class numbers of the training texts and of the test texts.
        predicted (sequence of int): those that the model names for the test texts.
        names (sequence of str): of the classes, by number.
    """
    taught, asked, named = Counter(train), Counter(test), Counter(predicted)
    majority = min(asked, key=lambda number: (-asked[number], -taught[number], number))
    right = Counter(label for label, answer in zip(test, predicted, strict=True) if label == answer)
    ahead = sum(right.values()) - right[majority]
    behind = asked[majority] - right[majority]
    return Performance(
        tests=len(test),
        right=sum(right.values()),
        majority=names[majority],
        majority_right=asked[majority],
        p_value=sign_test(ahead, behind),
        classes=tuple(
            ClassCount(name, taught[number], asked[number], right[number], named[number])
            for number, name in enumerate(names)
        ),
    )


def sign_test(ahead: int, behind: int) -> float:
    """How probable ``ahead`` heads or more are in ``ahead + behind`` throws of a coin; 1 where none is thrown."""
    throws = ahead + behind
    logs = [
        math.lgamma(throws + 1) - math.lgamma(heads + 1) - math.lgamma(throws - heads + 1) - throws * math.log(2)
        for heads in range(ahead, throws + 1)
    ]
    return min(1.0, math.fsum(math.exp(log) for log in logs))
