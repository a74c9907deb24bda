"""A short hash of each example of a batch, made of its tensors as they go into the model: the same in every process."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_tracinwe.batches.batch import LABEL_KEYS, Batch, is_mapping, size_of
from captum_tracinwe.index.files.names import RESERVED

__all__ = ["COLUMN", "Fingerprint", "fingerprints", "read"]

#: The column of a segment that holds them.
COLUMN = RESERVED + "fingerprint"
PLAIN = (str, bytes, int, float, complex, type(None))
WRITTEN = re.compile(r"([0-9a-f]{16}) (\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class Fingerprint:
    """What an index remembers of an example.

    Args:
        hash (str): 16 hex digits.
        place, size (int): its place in the batch it came in, and that batch's examples. Padding without a mask depends on the
            batch, so whoever compares makes this batch again.
    """

    hash: str
    place: int
    size: int

    def __str__(self) -> str:
        return f"{self.hash} {self.place}/{self.size}"


def read(written: Any) -> Fingerprint | None:
    """What ``str()`` of a fingerprint wrote; None where a column holds none, as for rows that were given."""
    found = WRITTEN.fullmatch(written) if isinstance(written, str) else None
    if found is None or int(found[2]) >= int(found[3]):
        return None
    return Fingerprint(found[1], int(found[2]), int(found[3]))


def fingerprints(batch: Batch, label_names: Collection[str] = ()) -> list[Fingerprint]:
    """One for each example of a batch.

    An example has its slice of every tensor whose first dimension counts examples, and its entry of every list that has one for
    each. All else (words in a row beside the offsets of bags, scalars) belongs to each of the batch. Where a mapping has an
    ``attention_mask`` ``(N, T)``, what lies behind an example's last word is left out: padding to the longest text of the
    batch then makes no difference. Whole numbers and flags count by their value, not by their dtype.

    Args:
        batch: a tuple (inputs..., labels) or a mapping.
        label_names (collection of str): labels besides ``labels`` and ``label``.
    """
    size = size_of(batch)
    # Padding of labels is −100, and a target may be longer than its text.
    labels = {*LABEL_KEYS, *label_names}
    mask = batch.get("attention_mask") if is_mapping(batch) else None
    lengths = _ends(mask != 0) if isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == size else None
    shared = hashlib.blake2b(digest_size=8)
    own: list[list[bytes]] = []
    for path, value in _leaves(batch, (), size):
        if isinstance(value, list):
            shared.update(f"{path} a list;".encode())
            own.append([_sized(_shown(entry).encode()) for entry in value])
            continue
        if not isinstance(value, Tensor):
            shared.update(f"{path} {_shown(value)};".encode())
            continue
        value = _plain(value)
        each = value.dim() > 0 and len(value) == size
        cut = None
        if each and lengths is not None and value.dim() > 1 and value.shape[1] == mask.shape[1]:  # type: ignore[union-attr]
            if path[0] not in labels:
                cut = lengths
            elif not value.is_floating_point():  # else one number for each class
                cut = torch.maximum(
                    lengths, _ends((value != -100).flatten(2).any(2) if value.dim() > 2 else value != -100)
                )
        shape = tuple(value.shape[1:]) if each else tuple(value.shape)
        shared.update(f"{path} {value.dtype} {shape if cut is None else ('cut', *shape[1:])};".encode())
        raw = _bytes(value)
        if not each:
            shared.update(_sized(raw))
            continue
        step = len(raw) // size
        if cut is None:
            stops = [step] * size
        else:
            width = step // value.shape[1]
            stops = [width * length for length in cut.tolist()]
        own.append([_sized(raw[i * step : i * step + stop]) for i, stop in enumerate(stops)])
    found = []
    for place in range(size):
        digest = shared.copy()
        digest.update(b"".join([column[place] for column in own]))
        found.append(Fingerprint(digest.hexdigest(), place, size))
    return found


def _leaves(value: Any, path: tuple[str, ...], size: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Tensors, lists with a plain entry for each example, and plain values, with the keys and places that lead to them."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], (*path, str(key)), size)
    elif isinstance(value, (tuple, list)):
        if path and len(value) == size and all(isinstance(entry, PLAIN) for entry in value):
            yield path, list(value)
            return
        for place, entry in enumerate(value):
            yield from _leaves(entry, (*path, str(place)), size)
    else:
        # An object's repr may name its address.
        yield path, value if isinstance(value, PLAIN) else type(value).__qualname__


def _plain(value: Tensor) -> Tensor:
    """On the CPU, dense, in one piece; whole numbers and flags as int64."""
    value = value.detach()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout is not torch.strided:
        value = value.to_dense()
    value = value.cpu().resolve_conj().resolve_neg()
    if not (value.is_floating_point() or value.is_complex()):
        value = value.long()
    return value.contiguous()


def _shown(value: Any) -> str:
    return repr(int(value) if isinstance(value, bool) else value)


def _bytes(value: Tensor) -> bytes:
    if not value.numel():
        return b""
    return value.reshape(-1).view(torch.uint8).numpy().tobytes()


def _ends(used: Tensor) -> Tensor:
    """Of each row ``(N, T)`` the place behind the last True."""
    return (used.cpu() * torch.arange(1, used.shape[1] + 1)).amax(1) if used.shape[1] else torch.zeros(len(used)).long()


def _sized(content: bytes) -> bytes:
    return b"%d:" % len(content) + content
