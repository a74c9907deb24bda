"""A new index: the form of its segments, fixed by a sample of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.index.files.disk import (
    IndexDamaged,
    Room,
    checked_content,
    full_disk,
    locked,
    make_folder,
    sweep,
    write_whole,
)
from captum_tracinwe.index.files.first import exists_already
from captum_tracinwe.index.files.layout import DTYPES
from captum_tracinwe.index.files.manifest import NAME, Manifest, Part, Source
from captum_tracinwe.index.files.names import others_in
from captum_tracinwe.index.files.sketch import fit_projection
from captum_tracinwe.index.files.writer import Written, file_of, rename

__all__ = ["check_form", "create", "random_projection", "read_projections", "refuse_others"]


def check_form(dtype: Any, rank: Any, segment_examples: Any, project: Any, width: int) -> None:
    """Raise ValueError for a form that an index cannot have."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` should be one of {', '.join(DTYPES)}, got {dtype!r}.")
    for name, value, most in (("rank", rank, 4096), ("segment_examples", segment_examples, 1 << 24)):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"`{name}` should be a whole number from 1 to {most}, got {value!r}.")
    if project is not None and (type(project) is not int or not 1 <= project <= width):
        raise ValueError(f"`project` should be a number of columns from 1 to {width}, or None, got {project!r}.")


def refuse_others(folder: Path) -> None:
    """Raise FileExistsError where a directory without an index holds what no index has written."""
    if (folder / NAME).exists():
        return
    found = others_in(folder)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise FileExistsError(
            f"{str(folder)!r} is no index and not empty: it holds {', '.join(map(repr, found[:5]))}{more}. Name a new directory "
            f"or an empty one, or move away what is named here; nothing was changed."
        )


def _refuse_an_index(folder: Path) -> None:
    if (folder / NAME).exists():
        raise exists_already(folder)


def random_projection(width: int, to: int) -> Tensor:
    """``(to, width)``, normal entries of variance 1 / to: products keep their expectation, with an error of about 1 / √to."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((to, width), generator=generator, dtype=torch.float32) / math.sqrt(to)


def create(
    folder: Path,
    source: Source,
    sample: Iterable[Tensor],
    *,
    dtype: str,
    rank: int,
    segment_examples: int,
    project: int | None,
    part: Part,
    fill: Callable[[Manifest, list[Tensor], Room], Sequence[Written]] = lambda *_: (),
) -> Manifest:
    """The first manifest of an index: without segments, or with those that ``fill`` writes, in one step.

    Args:
        folder (Path): new, or without an index.
        source (Source): what the rows are gradients of.
        sample (iterable of Tensor): rows ``(R, C * D)``, to choose the sketch's projection and a scale for float16.
        dtype, rank, segment_examples, project: as in :meth:`TracInWE.build_index`.
        part (Part): what is going to be indexed.
        fill (callable, optional): from the manifest, the projections and a room for unfinished files to finished segments.

    Raises:
        FileExistsError: there is an index already, or something else.
    """
    check_form(dtype, rank, segment_examples, project, source.width)
    checkpoints, width = len(source.checkpoints), project or source.width
    random = random_projection(source.width, project) if project else None
    largest = 0.0

    def seen() -> Iterable[Tensor]:
        nonlocal largest
        for values in sample:
            rows = values.cpu().float()
            if random is not None:
                rows = (rows.view(len(rows), checkpoints, source.width) @ random.T).flatten(1)
            largest = max(largest, float(rows.abs().nan_to_num(0, 0).max()) if rows.numel() else 0.0)
            yield rows

    tensors = {"sketch": fit_projection(seen(), checkpoints, rank)}
    if random is not None:
        tensors["random"] = random
    # float16 ends at 65504 and thins out below 6e-5: the sample's largest value goes to 64 to 128, a factor of 500 below the
    # end. A power of 2 costs no digit.
    scale = 2.0 ** (7 - math.ceil(math.log2(largest))) if dtype == "float16" and largest > 0 else 1.0
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    rank = int(tensors["sketch"].shape[1])
    entry = file_of("projections", content)
    manifest = Manifest(source, dtype, scale, width, rank, segment_examples, entry, (part,), project=project)  # type: ignore[arg-type]
    refuse_others(folder)
    _refuse_an_index(folder)
    with full_disk(folder):
        make_folder(folder)
        with Room(folder) as room:
            written = fill(manifest, list(tensors.values()), room)
            with locked(folder):
                _refuse_an_index(folder)
                write_whole(folder / entry.name, content)
                rename(folder, written)
                manifest = manifest.with_segments(one.entry for one in written)
                manifest.write(folder)
                sweep(folder, {file.name for file in manifest.files})
    return manifest


def read_projections(folder: Path, manifest: Manifest) -> list[Tensor]:
    """The sketch's projection ``(C, r, D)``, and the random one ``(p, D)`` if there is one.

    Raises:
        IndexDamaged: the file is missing or not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, content = folder / manifest.projections.name, checked_content(folder, manifest.projections)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise IndexDamaged(f"{str(path)!r} is damaged: not the safetensors that were written ({error}).") from None
    width, source = manifest.stored_width, manifest.source
    expected = {"sketch": (len(source.checkpoints), manifest.rank, width)}
    if manifest.project is not None:
        expected["random"] = (manifest.project, source.width)  # type: ignore[assignment]
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise IndexDamaged(
            f"{str(path)!r} does not go with the manifest: it holds {found}, expected {expected} in float32."
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise IndexDamaged(f"{str(path)!r} is damaged: its numbers are not all finite.")
    return [tensors["sketch"], *([tensors["random"]] if "random" in tensors else [])]
