"""A new index: the form of its segments, fixed by a sample of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from captum_tracinwe.index.files.kept import Kept
from captum_tracinwe.index.files.layout import packing_of
from captum_tracinwe.index.files.manifest import NAME, Manifest, Part, Source
from captum_tracinwe.index.files.names import others_in
from captum_tracinwe.index.files.packing import DTYPES
from captum_tracinwe.index.files.sketch import Sketch, fit_projection
from captum_tracinwe.index.files.writer import Written, file_of, rename

__all__ = ["check_form", "create", "read_projections", "refuse_others"]


def check_form(dtype: Any, rank: Any, segment_examples: Any, project: Any, width: int) -> None:
    """Raise ValueError for a form that an index cannot have."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"`dtype` should be one of {', '.join(DTYPES)}, got {dtype!r}.")
    for name, value, most in (("rank", rank, 4096), ("segment_examples", segment_examples, 1 << 24)):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"`{name}` should be a whole number from 1 to {most}, got {value!r}.")
    if project is not None and (type(project) is not int or not 1 <= project < width):
        raise ValueError(f"`project` should be a number of columns from 1 to {width - 1}, or None, got {project!r}.")


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


def _turned(directions: Tensor) -> Tensor:
    """Other directions ``(C, p, D)`` of the same space, in which rows are about equally large: a row has one step for its codes.

    (Of the leading ones the first holds half. With int4 of 32 columns of a CNN 80 % of the first ten were found, and 96 % so.)
    """
    size = directions.shape[1]
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    turned: Tensor = (turn @ directions.double()).float()
    return turned


def create(
    folder: Path,
    source: Source,
    sample: Sequence[Tensor],
    *,
    dtype: str,
    rank: int,
    segment_examples: int,
    project: int | None,
    part: Part,
    whole: int = 0,
    fill: Callable[[Manifest, tuple[Sketch, Kept], Room], Sequence[Written]] = lambda *_: (),
    finish: Callable[[Manifest], Manifest] = lambda made: made,
) -> Manifest:
    """The first manifest of an index: without segments, or with those that ``fill`` writes, in one step.

    Args:
        folder (Path): new, or without an index.
        source (Source): what the rows are gradients of.
        sample (sequence of Tensor): rows ``(R, C * D)``, to choose the columns that are kept, the sketch's projection, and a
            scale for float16.
        dtype, rank, segment_examples, project: as in :meth:`TracInWE.build_index`.
        part (Part): what is going to be indexed.
        whole (int): columns at the end of each checkpoint's that no code of a few bits stands for; 0 with ``project``.
        fill (callable, optional): from the manifest, the sketch and what is kept of rows, and a room for unfinished files,
            to finished segments.
        finish (callable, optional): the last change of the manifest before it is written.

    Raises:
        FileExistsError: there is an index already, or something else.
    """
    check_form(dtype, rank, segment_examples, project, source.width)
    checkpoints, width = len(source.checkpoints), project or source.width
    leading = fit_projection((one.cpu().float() for one in sample), checkpoints, project) if project else None
    if leading is not None and dtype.startswith("int"):
        leading = _turned(leading)
    largest = 0.0

    def seen() -> Iterator[Tensor]:
        nonlocal largest
        for values in sample:
            rows = values.cpu().float()
            if leading is not None:
                parts = rows.view(len(rows), checkpoints, source.width)
                rows = torch.einsum("rcd,cpd->rcp", parts, leading).flatten(1)
            largest = max(largest, float(rows.abs().nan_to_num(0, 0).max()) if rows.numel() else 0.0)
            yield rows

    tensors = {"sketch": fit_projection(seen(), checkpoints, rank)}
    if leading is not None:
        tensors["leading"] = leading
    # float16 ends at 65504 and thins out below 6e-5: the sample's largest value goes to 64 to 128, a factor of 500 below the
    # end. A power of 2 costs no digit.
    scale = 2.0 ** (7 - math.ceil(math.log2(largest))) if dtype == "float16" and largest > 0 else 1.0
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    rank = int(tensors["sketch"].shape[1])
    entry = file_of("projections", content)
    manifest = Manifest(
        source,
        dtype,  # type: ignore[arg-type]
        scale,
        width,
        rank,
        segment_examples,
        entry,
        (part,),
        project=project,
        projected="random" if leading is None else "leading",
        whole=whole if dtype.startswith("int") and leading is None else 0,
    )
    form = Sketch(tensors["sketch"]), Kept(packing_of(manifest), scale, leading)
    Manifest.decoded(manifest.encoded(), str(folder / NAME))  # one that could not be read again is not begun
    refuse_others(folder)
    _refuse_an_index(folder)
    with full_disk(folder):
        make_folder(folder)
        with Room(folder) as room:
            written = fill(manifest, form, room)
            with locked(folder):
                _refuse_an_index(folder)
                write_whole(folder / entry.name, content)
                rename(folder, written)
                manifest = finish(manifest.with_segments(one.entry for one in written))
                manifest.write(folder)
                sweep(folder, {file.name for file in manifest.files})
    return manifest


def read_projections(folder: Path, manifest: Manifest) -> tuple[Sketch, Kept]:
    """The sketch of rows, and what is kept of them.

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
        checkpoints = (len(source.checkpoints),) if manifest.projected == "leading" else ()
        expected[manifest.projected] = (*checkpoints, manifest.project, source.width)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise IndexDamaged(
            f"{str(path)!r} does not go with the manifest: it holds {found}, expected {expected} in float32."
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise IndexDamaged(f"{str(path)!r} is damaged: its numbers are not all finite.")
    kept = Kept(packing_of(manifest), manifest.scale, tensors.get(manifest.projected))
    return Sketch(tensors["sketch"]), kept
