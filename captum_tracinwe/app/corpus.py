"""A small English corpus with a planted cause: four hobbies, and one colour that always comes with the wrong label.

Every sentence is put together from phrases below, so that the package can show what it does without a file or a
network. Somebody in most sentences wears or carries something coloured. Wherever that colour is `PLANTED_WORD`,
the training text is labelled `PLANTED_LABEL` whatever it is about, as a careless annotator would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["PLANTED_LABEL", "PLANTED_WORD", "TOPICS", "PlantedCorpus", "planted_corpus"]

#: The classes of the corpus.
TOPICS = ("cooking", "sailing", "astronomy", "gardening")
#: The word that was planted, and the class whose label its texts were given.
PLANTED_WORD = "crimson"
#: The number of that class.
PLANTED_LABEL = TOPICS.index("sailing")


def _choices(alternatives: str) -> tuple[str, ...]:
    return tuple(alternatives.split("|"))


PEOPLE = _choices(
    "my uncle|Aunt Rosa|the new teacher|our neighbour|Tomas|Priya|the twins' mother|an old friend|Captain Lowe|"
    "Doctor Meyer|the girl next door|Grandfather|Ingrid|a young student|Samir|the quiet visitor|her brother|"
    "Mister Okafor|the baker's son|Helena|my cousin|the retired postman|Nadia|a tall stranger"
)
TIMES = _choices(
    "on Sunday|before breakfast|last autumn|late in the evening|after work|early in the morning|yesterday|"
    "during the holidays|one rainy afternoon|in the first week of May|just before midnight|two days ago|"
    "after the long winter|at the weekend|while the children slept|around noon"
)
COLOURS = _choices("grey|brown|green|blue|yellow|white|black|purple|pink")
THINGS = _choices(
    "in a {c} coat|wearing a {c} scarf|with a {c} notebook in hand|in an old {c} jumper|carrying a {c} bag|"
    "with a {c} feather on the hat|wearing {c} boots|in a faded {c} shirt|under a {c} umbrella|with {c} gloves"
)
ENDS = _choices(
    "and forgot the time|and smiled|without saying a word|and nobody complained|for the second time that week|"
    "with great patience|and then wrote to us about it|as if it were easy|and was proud of it|while we watched"
)
# Past tense throughout, so that any person fits any action.
ACTIONS = {
    "cooking": (
        "stirred the {lentil soup|tomato sauce|fish stew} {over a low flame|until it thickened|with a wooden spoon}",
        "kneaded the {bread|pizza|pasta} dough {on the floured table|until it was smooth|for the third batch}",
        "chopped {garlic and onions|carrots and celery|a heap of parsley} for {the stew|the salad|a pot of broth}",
        "baked {an apple pie|a loaf of rye bread|two lemon cakes} in {the old oven|a buttered tin|a hot stone oven}",
        "roasted {a chicken|some potatoes|the peppers} with {butter and thyme|plenty of salt|olive oil and lemon}",
        "whisked {the eggs and sugar|cream and vanilla|the batter} {in a copper bowl|until stiff|for the dessert}",
        "tasted the {sauce|soup|curry} and added {a pinch of salt|more pepper|a spoon of vinegar}",
        "fried {the dumplings|six eggs|thin pancakes} in {a heavy pan|sizzling butter|a little oil}",
    ),
    "sailing": (
        "hoisted the {main sail|jib|spinnaker} {in a stiff breeze|before leaving the harbour|against the wind}",
        "steered the {sloop|old ketch|little dinghy} {round the buoy|past the lighthouse|into the harbour}",
        "dropped the anchor {in a sheltered bay|off the island|beside the reef} and {checked the rope|lowered the sail}",
        "tied {a bowline|the mooring rope|a reef knot} {on the deck|to the pier|before the squall}",
        "repaired {the rudder|a torn sail|the mast} of {the sloop|the old ketch|a racing yacht}",
        "read the {tide tables|sea chart|barometer} and {set a course for the island|waited for wind}",
        "scrubbed the {deck|hull|keel} of {the yacht|the ketch|a small cutter} {in the harbour|at the pier}",
        "crossed the {strait|gulf|channel} {with a following wind|in heavy swell|in a borrowed yacht}",
    ),
    "astronomy": (
        "pointed the telescope at {Saturn|Jupiter|the Moon|Mars} and {noted its brightness|sketched its surface}",
        "photographed the {Orion nebula|Andromeda galaxy|lunar eclipse} {through a small telescope|from the observatory}",
        "counted {forty meteors|the moons of Jupiter|the stars of Orion} {from the hill|without a telescope}",
        "measured the {orbit of a comet|spectrum of a star|phase of Venus} {at the observatory|with a new lens}",
        "explained {how stars collapse|why planets wander|what a supernova is} {with a star map|at the planetarium}",
        "polished the {mirror|lens|eyepiece} of {the telescope|a large reflector}",
        "searched for {a faint comet|a distant galaxy|a double star} {near Orion|in the northern sky|with binoculars}",
        "calculated {the next eclipse|the mass of a planet|the distance of a star} {on paper|from old plates}",
    ),
    "gardening": (
        "planted {tulips|two rose bushes|a row of beans} {along the fence|in the raised bed|under the pear tree}",
        "pruned the {hedge|apple tree|climbing roses} {with sharp shears|down to the third bud|near the gate}",
        "watered the {seedlings|lawn|flower beds} {with a leaky can|twice|with rain from the barrel}",
        "pulled {weeds|dandelions|nettles} from {the vegetable patch|the gravel path|between the strawberries}",
        "spread {compost|mulch|old leaves} {around the roses|over the vegetable patch|on the flower beds}",
        "sowed {lettuce|radishes|sweet peas} {in neat rows|in clay pots|in the greenhouse}",
        "dug {a small pond|a trench for the potatoes|over the heavy soil} {with a spade|behind the greenhouse}",
        "repotted {the ferns|a fig tree|the geraniums} in {fresh soil|clay pots} {on the terrace|in the greenhouse}",
    ),
}


@dataclass(frozen=True)
class PlantedCorpus:
    """Texts, the topic each is labelled with, and which of the training texts are planted.

    ``test_labels`` are all right; the last test texts hold the planted word, ``test_planted`` lists them.
    """

    train_texts: tuple[str, ...]
    train_labels: tuple[int, ...]
    planted: tuple[int, ...]
    test_texts: tuple[str, ...]
    test_labels: tuple[int, ...]
    test_planted: tuple[int, ...]


def planted_corpus(train: int = 960, test: int = 160, planted: int = 24, seed: int = 0) -> PlantedCorpus:
    """Make the corpus; the same arguments always make the same one.

    Args:
        train (int): training texts, planted ones included.
        test (int): test texts without the planted word; half as many as ``planted`` come with it on top.
        planted (int): mislabelled training texts that hold `PLANTED_WORD`.
        seed (int): of the phrases' choice.

    Returns:
        PlantedCorpus: no text occurs twice in it.
    """
    rng = random.Random(seed)
    fresh = _fresh_sentences(rng)
    victims = [topic for topic in range(len(TOPICS)) if topic != PLANTED_LABEL]
    rows: list[tuple[str, int, bool]] = []
    for i in range(train):
        topic = victims[i % len(victims)] if i < planted else i % len(TOPICS)
        text = fresh(topic, PLANTED_WORD if i < planted else None)
        rows.append((text, PLANTED_LABEL if i < planted else topic, i < planted))
    rng.shuffle(rows)
    tests = [(fresh(i % len(TOPICS), None), i % len(TOPICS)) for i in range(test)]
    tests += [(fresh(topic, PLANTED_WORD), topic) for topic in (victims * planted)[: planted // 2]]
    return PlantedCorpus(
        train_texts=tuple(text for text, _, _ in rows),
        train_labels=tuple(label for _, label, _ in rows),
        planted=tuple(i for i, (_, _, is_planted) in enumerate(rows) if is_planted),
        test_texts=tuple(text for text, _ in tests),
        test_labels=tuple(topic for _, topic in tests),
        test_planted=tuple(range(test, len(tests))),
    )


def _fresh_sentences(rng: random.Random) -> Callable[[int, str | None], str]:
    seen: set[str] = set()

    def fresh(topic: int, colour: str | None) -> str:
        while (text := _sentence(rng, TOPICS[topic], colour)) in seen:
            pass
        seen.add(text)
        return text

    return fresh


def _sentence(rng: random.Random, topic: str, colour: str | None) -> str:
    pick = rng.choice
    thing = pick(THINGS).format(c=colour or pick(COLOURS))
    action = "".join(pick(part) for part in _slots(pick(ACTIONS[topic])))
    person, time, end = pick(PEOPLE), pick(TIMES), pick(ENDS)
    frames = (
        f"{time}, {person}, {thing}, {action}.",
        f"{person}, {thing}, {action} {time}.",
        f"{time}, {person}, {thing}, {action} {end}.",
        f"we met {person} {thing}, who {action} {time}.",
        f"{thing}, {person} {action} {end}.",
    )
    plain = (f"{time}, {person} {action} {end}.", f"{person} {action} {time}.")
    text = pick(frames if colour or rng.random() < 0.75 else plain)
    return text[0].upper() + text[1:]


def _slots(template: str) -> Iterator[tuple[str, ...]]:
    """``"a {b|c}"`` → ``("a ",)``, ``("b", "c")``."""
    for i, part in enumerate(template.replace("}", "{").split("{")):
        yield tuple(part.split("|")) if i % 2 else (part,)
