"""In words: what differs between the sources of two sets of gradients, which must then not meet in one score."""

from __future__ import annotations

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


# What the kinds of settings are, in the user's words.
KINDS = {
    "attributes": "attributes or kinds of layers (names that begin with _ do not count)",
    "buffers": "buffers that no checkpoint holds",
    "hooks": "hooks",
}


def _other_settings(here: str, there: str) -> list[str]:
    """Which kinds of settings differ; an older index knows none."""
    mine, other = (dict(part.split("=", 1) for part in one.split() if "=" in part) for one in (here, there))
    wrong = [kind for kind in mine if mine[kind] != other.get(kind, mine[kind])]
    return [f"the model: its {KINDS.get(kind, kind)} here are not those there" for kind in wrong]
