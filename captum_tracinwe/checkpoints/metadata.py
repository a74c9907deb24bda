"""What stands beside weights, JSON and single numbers: checked by type and range before anything is done with it."""

from __future__ import annotations

import json
import math
from numbers import Real
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, TypeVar

import msgspec
from torch import Tensor

from captum_tracinwe.checkpoints.reading import first_line

__all__ = ["Rate", "Step", "checked_rate", "model_config", "read_json", "shown"]

#: A file of JSON may have so many bytes; each becomes up to 20 of memory. 400,000 entries of a Trainer's log have as many.
MOST_JSON = 64 << 20

Kind = TypeVar("Kind")
#: An optimiser step, in files of a run.
Step = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: Bounds refuse NaN and infinity as well.
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e30)]


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """The content of a file as a type says it has to be. NaN and Infinity, which Python writes, are read as numbers.

    Raises:
        ValueError: why it is not, in a few words, without the name of the file.
    """
    try:
        size = path.stat().st_size
        if size > MOST_JSON:
            raise ValueError(f"it has {size:,} bytes, expected at most {MOST_JSON:,}")
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), kind)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(first_line(error)) from error


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    try:
        return _SHORT.repr(value)
    except Exception:  # integers of thousands of digits have no repr
        return f"a {type(value).__name__}"


_SHORT = Repr()
_SHORT.maxother = _SHORT.maxstring = 80
_SHORT.maxlevel = 2


def checked_rate(rate: Any, where: str) -> float:
    """A learning rate as a number, also out of a tensor of one, or of the list that ``get_last_lr()`` gives for one group.

    Raises:
        ValueError: it is no finite number ≥ 0; ``where`` begins the message.
    """
    try:
        rate = rate[0] if isinstance(rate, (list, tuple)) and len(rate) == 1 else rate
        found: Any = rate.item() if isinstance(rate, Tensor) and rate.numel() == 1 and not rate.is_meta else rate
        if not isinstance(found, bool) and isinstance(found, Real) and 0 <= float(found) < math.inf:
            return float(found)
    except (OverflowError, RuntimeError, NotImplementedError):  # an integer beyond any float, a tensor without a number
        pass
    raise ValueError(f"{where}: expected a learning rate that is a finite number ≥ 0, got {shown(rate)}.")


# --------------------------------------------------------------------------------------------------- a model's config

Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,6}$")]
# The deepest models have a thousand layers. Each is made before the first weight shows that there is none for it.
Layers = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)


class _Config(msgspec.Struct):
    """What is read of a model's config.json before transformers is."""

    architectures: list[str] | None = None
    model_type: str | None = None
    id2label: dict[Number, str | int | float] | None = None
    label2id: dict[str, int | Number] | None = None
    num_labels: Annotated[int, msgspec.Meta(ge=0, le=999_999)] | None = None


def model_config(directory: Path) -> Any:
    """The config of a model in a directory, made by transformers; none of the code that it may name is run.

    Raises:
        ValueError: why it cannot be used, in a few words, without the name of the file.
    """
    from transformers import AutoConfig

    content = read_json(directory / "config.json", dict[str, Any])
    try:
        msgspec.convert(content, _Config)
        msgspec.convert({name: content[name] for name in LAYERS if content.get(name) is not None}, dict[str, Layers])
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a config class raises whatever its values happen to lead to
        raise ValueError(first_line(error)) from error
