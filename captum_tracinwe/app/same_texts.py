"""Whether a training file is the one that an index was built from: all its texts, as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence

from captum_tracinwe.app.files import InputError
from captum_tracinwe.app.training import EncodedTexts
from captum_tracinwe.index import GradientIndex
from captum_tracinwe.index.identity.fingerprints import fingerprints
from captum_tracinwe.index.identity.same_examples import Remembered

__all__ = ["OTHER", "refuse_other_texts"]

#: What is said of a text that an index does not know at this place.
OTHER = (
    "not the text that the index was built from, or cut at another length. Expected that file, with its texts in their order, "
    "and the --max-length of the index."
)


def refuse_other_texts(index: GradientIndex, encoded: EncodedTexts, places: Sequence[str], train: object) -> None:
    """Refuse a file with a text that is not the one whose gradient the index has, by its fingerprint: shown or not.

    Of an older index, which has no fingerprints, nothing is compared. What stands behind the tokens that are kept of a text, the
    model has never seen, and an index knows nothing of it.

    Args:
        index (GradientIndex): M texts.
        encoded (EncodedTexts): M texts of the file, with their labels.
        places (sequence of str): where each of them stands.
        train (path): the file.

    Raises:
        InputError: the first such text, and how many there are.
    """
    others: list[int] = []
    for segment in index.segments:
        known = Remembered(segment)
        for start, size in known.batches(0, len(encoded), range(len(segment))):
            found = fingerprints(encoded.collate([encoded[number] for number in range(start, start + size)]))
            held = known.between(start, start + size)
            others += [number for number, one in held.items() if found[number - start].hash != one.hash]
    if others:
        more = f" {len(others) - 1:,} more of {len(encoded):,} texts are other ones, too." if len(others) > 1 else ""
        raise InputError(f"--train {train}, {places[others[0]]}: {OTHER}{more}")
