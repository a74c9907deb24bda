"""Where files go: found out before the work, not after it, that one has nowhere to go or would replace another."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from captum_tracinwe.app.files import InputError, on_disk
from captum_tracinwe.gradients.interrupts import unbroken

__all__ = ["check_folder", "check_outputs", "temporary_directory"]

#: Names of what a folder of `save_pretrained`, of `--save` or of a Trainer holds.
OF_A_MODEL = frozenset(
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "trainer_state.json",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "captum-tracinwe.json",
    ]
)


@unbroken
def temporary_directory() -> Iterator[str]:
    """Removed at the end, however often Ctrl-C is pressed meanwhile."""
    with tempfile.TemporaryDirectory(prefix="captum-tracinwe-") as temporary:
        yield temporary


def check_outputs(outputs: Mapping[str, str | Path], inputs: Iterable[str | Path] = ()) -> None:
    """See that each file can be written and replaces no other.

    Args:
        outputs (mapping): path by the option that names it.
        inputs (iterable of path): files that are read, and directories of such.

    Raises:
        InputError: a directory, no file (a pipe, a device), no directory to write in, a name too long, a file that is read or
            lies in a directory that is, a place in an index, a file of a model, or the same path twice.
    """
    inputs = [on_disk(one) for one in inputs]  # of "folder:train" the folder
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        out = Path(path)
        if os.path.isdir(out):
            raise InputError(f"{option} {out}: a directory; name a file in it, such as {out / 'report.html'}.")
        if not os.path.isdir(out.parent):
            raise InputError(f"{option} {out}: the directory {out.parent} does not exist; make it, or choose another.")
        if os.path.exists(out) and not os.path.isfile(out):
            raise InputError(
                f"{option} {out}: a pipe or a device, which a file would replace; expected the name of a file, new or old."
            )
        if any(os.path.exists(one) and os.path.exists(out) and out.samefile(one) for one in inputs):
            raise InputError(
                f"{option} {out}: that is an input file, which the report would replace; choose another name."
            )
        # The file that is replaced is the name itself, wherever a link of that name leads.
        place = out.parent.resolve() / out.name
        within = next((one for one in inputs if os.path.isdir(one) and place.is_relative_to(Path(one).resolve())), None)
        if within is not None:
            raise InputError(
                f"{option} {out}: lies in {within}, which is read; expected a place outside it, so that nothing there changes."
            )
        # A model's folder may hold links to files elsewhere, as that of a hub's cache does.
        linked = next((one for one in inputs if os.path.exists(out) and _holds(Path(one), out)), None)
        if linked is not None:
            raise InputError(
                f"{option} {out}: {linked}, which is read, has this file under another name, and the report would replace it; "
                f"choose another name."
            )
        if (out.parent / "manifest.json").is_file() and any(out.parent.glob("segment-*")):
            raise InputError(
                f"{option} {out}: {out.parent} is an index, which holds nothing but its own files; choose another place."
            )
        if os.path.exists(out) and out.name in OF_A_MODEL and (out.parent / "config.json").is_file():
            raise InputError(
                f"{option} {out}: a file of the model in {out.parent}, which would be replaced; choose another name."
            )
        if place in seen:
            raise InputError(f"{option} {out}: {seen[place]} names the same file; choose another name for one of them.")
        seen[place] = option
        try:
            # As it is written (captum_tracinwe.whole_files): first under a name that is longer.
            with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"):
                pass
        except OSError as error:
            raise InputError(f"{option} {out}: cannot be written ({error.strerror or error}).") from error


def check_folder(option: str, folder: Path, inputs: Iterable[str | Path]) -> None:
    """See that a folder to be written in lies in none that is read.

    Raises:
        InputError: it does.
    """
    read = [Path(on_disk(one)) for one in inputs]
    within = next((one for one in read if one.is_dir() and folder.resolve().is_relative_to(one.resolve())), None)
    if within is not None:
        raise InputError(
            f"{option} {folder}: {within}, which is read, would hold it; expected a place outside it, so that nothing there "
            f"changes."
        )


def _holds(folder: Path, file: Path) -> bool:
    """Whether the file lies in the folder or below it, whatever its name there."""
    return folder.is_dir() and any(path.is_file() and path.samefile(file) for path in folder.rglob("*"))
