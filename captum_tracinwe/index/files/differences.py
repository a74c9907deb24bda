"""In words: what differs between the sources of two sets of gradients, which must then not meet in one score."""

from __future__ import annotations

from urllib.parse import unquote

from captum_tracinwe.index.files.schema import Source

__all__ = ["differences"]


def differences(here: Source, there: Source) -> list[str]:
    """What differs between two sources of gradients, each in words: what ``here`` has, and what ``there`` has."""
    found = []
    for name in (
        *(
            "model",
            "config",
            "embedding",
            "padding_idx",
            "loss",
            "vocabulary",
            "width",
            "exclude_tokens",
            "top_k_words",
        ),
        *("side", "table"),
    ):
        mine, other = getattr(here, name), getattr(there, name)
        # Of rows that were given as they are, nothing is known.
        if mine != other and not (name == "vocabulary" and here.model == there.model == "given rows"):
            found.append(f"{name}: {mine!r} here, {other!r} there")
    found += _other_settings(here.settings, there.settings)
    if len(here.checkpoints) != len(there.checkpoints):
        found.append(f"checkpoints: {len(here.checkpoints)} here, {len(there.checkpoints)} there")
        return found
    for number, (one, two) in enumerate(zip(here.checkpoints, there.checkpoints, strict=True)):
        if one.sha256 != two.sha256:
            found.append(f"checkpoint {number}: the weights of {one.name!r} here are not those of {two.name!r} there")
        if one.learning_rate != two.learning_rate:
            found.append(
                f"checkpoint {number}: learning rate {one.learning_rate!r} ({one.name!r}) here, {two.learning_rate!r} "
                f"({two.name!r}) there"
            )
    return found


MOST_SHOWN = 3
# What the kinds of settings are, in the user's words.
KINDS = {
    "attributes": "attributes or kinds of layers",
    "buffers": "buffers that no checkpoint holds",
    "hooks": "hooks",
}


def _other_settings(here: str, there: str) -> list[str]:
    """Which kinds of settings differ, and of what; an older index knows none."""
    mine, other = (dict(part.split("=", 1) for part in one.split() if "=" in part) for one in (here, there))
    found = []
    for kind, words in KINDS.items():
        if kind in mine and mine[kind] != other.get(kind, mine[kind]):
            named = _named(kind, mine, other)
            found.append(f"the model: its {words} here are not those there{': ' * bool(named)}{named}")
    return found


def _named(kind: str, mine: dict[str, str], other: dict[str, str]) -> str:
    """The first settings that differ, by name; empty where one of both has none, or another kind of names."""
    a, b = ({key: value for key, value in one.items() if key.startswith(f"{kind}:")} for one in (mine, other))
    if len({key.count(":") for key in (*mine, *other) if ":" in key}) != 1:
        return ""
    wrong = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    said = [
        f"{_shown(key)} {'is another' if key in a and key in b else 'is only here' if key in a else 'is only there'}"
        for key in wrong[:MOST_SHOWN]
    ]
    return ", ".join(said) + (f", and {len(wrong) - MOST_SHOWN} more" if len(wrong) > MOST_SHOWN else "")


def _shown(key: str) -> str:
    """A setting as it stands in Python: ``model.norm.eps``; of a foreign index it is only text."""
    _, module, *what = (unquote(part) for part in key.split(":"))
    path = ".".join(["model", *filter(None, [module])])
    name = f"the kind of {path}" if what == ["kind"] else ".".join([path, *what])
    return repr(name[:100]) if not name.isprintable() or len(name) > 100 else name
