"""Results of `suspects` made by hand, for the tests of what is shown of them."""

from __future__ import annotations

from cases_of_texts import pair_of, text_of

from captum_tracinwe.labels import Double, MixedUp, Reasons, Suspect, Suspects


def one_suspect(index, label, suggested, suspicion, *words, witness=None):
    """A suspect with one text against it, which shares its first two words, and one for it, which shares the last."""
    text = text_of(*words, label=label)
    against = pair_of(text, witness or text_of(words[0], words[1], "witness", label=suggested), [-2.0, -1.0], index, 90)
    speaks_for = pair_of(text, text_of("friend", words[-1], label=label), [1.0], index, 91)
    return Suspect(index, label, suggested, suspicion, Reasons((speaks_for,), (against,)), text)


def found_of(*first, tells=True, size=120, **changes):
    """Of ``size`` texts, of which the first have cards; as many labels as these have, in turn."""
    rest = [index for index in range(size) if index not in {one.index for one in first}][: size - len(first)]
    last = min((one.suspicion for one in first), default=0.5)
    labels = [one.label for one in first] + [first[n % len(first)].label if first else "a" for n in range(len(rest))]
    suggested = [one.suggested for one in first] + [
        first[n % len(first)].suggested if first else "b" for n in range(len(rest))
    ]
    order = tuple(one.index for one in first) + tuple(rest)
    suspicions = tuple(one.suspicion for one in first) + (last / 2,) * len(rest)
    given = {"mixed_up": (), "doubles": (), "weight": 0.5, "accuracy": 0.81, **changes}
    return Suspects(tuple(first), order, suspicions, tuple(labels), tuple(suggested), tells=tells, **given)


def three_suspects(**changes):
    """Three cards over two labels and a third one, with both findings."""
    return found_of(
        one_suspect(7, "Sports", "World", 0.97, "troops", "minister", "kick"),
        one_suspect(3, "World", "Sports", 0.6, "goal", "match", "vote"),
        one_suspect(11, "Money", "World", 0.004, "peace", "talks", "bank"),
        mixed_up=(MixedUp("Sports", "World", 12.4, 40),),
        doubles=(Double((3, 7), ("World", "Sports"), 0.95),),
        **changes,
    )
