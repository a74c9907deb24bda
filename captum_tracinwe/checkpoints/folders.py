"""Checkpoint folders of sharded training, FSDP's and DeepSpeed's: where the weights are in them, or how to convert them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from captum_tracinwe.checkpoints.reading import Unread, opened, read_torch
from captum_tracinwe.checkpoints.sharded import METADATA
from captum_tracinwe.checkpoints.states import groups_of, scheduled

__all__ = [
    "DEEPSPEED",
    "WEIGHTS",
    "gathered_file",
    "is_in_parts",
    "is_of_training",
    "is_unread",
    "refuse_unread",
    "shards_folder",
]

#: DeepSpeed's weights of a stage of ZeRO that leaves them whole.
DEEPSPEED = "mp_rank_00_model_states.pt"
# What accelerate and Trainer call FSDP's weights, in parts and as one.
FSDP, GATHERED = "pytorch_model_fsdp_0", "pytorch_model_fsdp.bin"
# What FSDP writes for each process by itself, and DeepSpeed where the weights are cut: of ZeRO-3, of tensors, of pipelines.
BY_RANK = ("pytorch_model_fsdp*rank*.bin",)
CUT = ("zero_pp_rank_*_model_states.pt", "mp_rank_01_model_states.pt", "layer_*model_states.pt")
# What Trainer, accelerate and tokenizers write beside weights.
BESIDE = (
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "random_states*",
    "sampler*",
    "training_args.bin",
    "dl_state*",
)
# What a script calls these, in a folder of its own.
OF_TRAINING = re.compile(
    r"(^|[-_. ])(optim|optimi[sz]ers?|opt|sched|schedulers?|scaler|rng|rng_states?|random_states?|sampler)([-_. \d]|$)",
    re.IGNORECASE,
)
# Megatron's weights, under its own names; and those of torch.distributed without the file that describes them.
MEGATRON, PARTS = "model_optim_rng.pt", "*.distcp"
#: What weights are in, whoever saved them.
WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".distcp", ".h5", ".msgpack", ".npz", ".gguf")


def shards_folder(place: Path) -> Path | None:
    """The folder with the weights as torch.distributed saves them: this one, or that which accelerate makes in it."""
    return next((one for one in (place, place / FSDP) if (one / METADATA).is_file()), None)


def gathered_file(place: Path) -> Path | None:
    """FSDP's or DeepSpeed's whole weights: in this folder, or in the only one in it where `latest` names the last."""
    if (place / GATHERED).is_file():
        return place / GATHERED
    found = [place / DEEPSPEED] if (place / DEEPSPEED).is_file() else []
    if not found and (place / "latest").is_file():
        found = list(place.glob(f"*/{DEEPSPEED}"))
    return found[0] if len(found) == 1 and not any(next(found[0].parent.glob(one), None) for one in CUT) else None


def _first(place: Path, pattern: str) -> Path | None:
    """A file of that name in a folder, or in one within it."""
    return next(iter((*place.glob(pattern), *place.glob(f"*/{pattern}"))), None)


def is_unread(place: Path) -> bool:
    """Whether a folder has weights in parts that cannot be put together here."""
    return any(_first(place, pattern) for pattern in (*CUT, *BY_RANK, MEGATRON)) or _undescribed(place) is not None


def is_in_parts(place: Path) -> bool:
    """Whether the files of a folder are parts of one checkpoint, and none is one by itself."""
    return any(next(place.glob(pattern), None) for pattern in (*CUT, *BY_RANK, MEGATRON, PARTS))


def is_of_training(entry: Path) -> bool:
    """Whether a file has the state of an optimiser or of what else trains, and no weights, by its name and its content."""
    if not OF_TRAINING.search(entry.stem):
        return False
    try:
        with opened([entry]) as (file,):
            content = read_torch(file, entry, values=False)
    except ValueError:  # other names may be a model's, as OPT's: what cannot be read is then said where it is loaded
        return any(entry.match(pattern) for pattern in BESIDE)
    if not isinstance(content, Mapping):
        return True
    inner = [content, *(one for one in content.values() if isinstance(one, Mapping))]
    if groups_of(content) is not None or scheduled(content) is not None:
        inner = []
    return not any(isinstance(value, Tensor) and value.dim() > 1 for one in inner for value in one.values())


def _undescribed(place: Path) -> Path | None:
    """A part of a checkpoint of torch.distributed that has no description."""
    found = (*place.glob(PARTS), *place.glob(f"*/{PARTS}"))
    return next(
        (one for one in found if not (one.parent / METADATA).is_file() and one.parent.name[:5] != "optim"), None
    )


def refuse_unread(place: Path) -> None:
    """See that a folder without weights that can be read has no others.

    Raises:
        Unread: it has some; how to convert them, if that can be told.
    """
    for pattern in CUT:
        cut = _first(place, pattern)
        if cut is not None:
            tagged = cut.parent != place
            script = (place if tagged else place.parent) / "zero_to_fp32.py"
            raise Unread(
                f"The checkpoint {str(place)!r} is DeepSpeed's, its weights cut into parts ({cut.name}): expected whole ones. "
                f"Convert it with `python {script} {script.parent} CONVERTED{'' if tagged else f' -t {place.name}'}`, the script "
                f"that DeepSpeed has put there, and pass the folder CONVERTED."
            )
    for pattern in BY_RANK:
        part = _first(place, pattern)
        if part is not None:
            raise Unread(
                f"The checkpoint {str(place)!r} has what each process of FSDP held by itself ({part.name}): expected whole "
                f"weights. Load it in the run that wrote it, with as many processes, and save it anew with the state_dict_type "
                f"SHARDED_STATE_DICT or FULL_STATE_DICT."
            )
    megatron, part = _first(place, MEGATRON), _undescribed(place)
    if megatron is not None:
        raise Unread(
            f"The checkpoint {str(place)!r} is Megatron's: expected weights under the model's own names, and whole. Convert it "
            f"with Megatron's tools/checkpoint/convert.py, or export it to Hugging Face's format, and pass the folder that this "
            f"writes. If the model has Megatron's names and there is one rank only, pass the file {str(megatron)!r} itself."
        )
    if part is not None:
        raise Unread(
            f"The checkpoint {str(place)!r} of torch.distributed has parts ({part.name}) without {METADATA}, which says what is "
            f"in them: expected both. It is written last, by an asynchronous save when all parts are there, and copies "
            f"that leave out hidden files leave it out. Copy it, too, or take a checkpoint whose save had ended."
        )
    several = sorted(one.parent.name for name in (METADATA, DEEPSPEED) for one in place.glob(f"*/{name}"))
    several = [name for name in several if not name.startswith("optim")]
    if several:
        raise Unread(
            f"The directory {str(place)!r} holds several checkpoints ({', '.join(several[:8])}): expected one. Pass the paths of "
            f"those that are meant, or as checkpoints=... the directory, to take all of them."
        )
    odd = sorted(
        entry.name
        for entry in place.iterdir()
        if not any(entry.match(pattern) for pattern in BESIDE)
        and (entry.is_dir() or entry.suffix in WEIGHTS)
        and not entry.name.startswith(".")
    )
    if odd:
        raise Unread(
            f"The directory {str(place)!r} is not a checkpoint that is read here: it has {', '.join(odd[:4])}, expected weights "
            f"as save_pretrained, accelerate, FSDP or DeepSpeed save them. Save the model's state_dict() with torch.save, or "
            f"pass a checkpoints_load_func that loads it and returns the learning rate."
        )
