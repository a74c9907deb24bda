"""Tensors from files of torch and safetensors by plain reads: nothing run, nothing out of proportion, nothing half old."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import msgspec
import torch
from torch import Tensor

__all__ = [
    "MAPPED_FROM",
    "MOST_DESCRIPTION",
    "Unread",
    "check_file",
    "first_line",
    "in_words",
    "opened",
    "read_safetensors",
    "read_torch",
    "tensor_places",
]

#: Weights of more bytes are mapped instead of read: below it a copy costs half a second a gigabyte, above it perhaps the
#: memory that there is. What is mapped has to stay as it is while it is in use.
MAPPED_FROM = 4 << 30
#: What describes the tensors may have so many bytes, and so many more for each. A byte of a pickle becomes up to 72 of
#: memory; the pickle of a BERT has 30 KB, 150 a tensor.
MOST_DESCRIPTION, MOST_FOR_EACH = 8 << 20, 1 << 10
#: Compressed weights may become so many times as large. Trained ones shrink by a tenth, an optimiser's zeros by a thousand.
MOST_EXPANDED = 100
#: File systems date a change to some milliseconds: a file that is younger could change again without another date.
TICK = 0.02
# What training scripts save of their arguments, as Lightning's save_hyperparameters does: it holds values and does nothing.
HARMLESS: list[Any] = [argparse.Namespace]
# What lies where weights are looked for → how it begins, in small letters, and the way out.
FOREIGN: dict[str, tuple[bytes | tuple[bytes, ...], str]] = {
    "a pointer of git-lfs, and no weights": (b"version https://git-lfs", "Run `git lfs pull` in {folder!r}"),
    "a page of HTML": ((b"<!doctype html", b"<html"), "Download the file itself"),
    "of GGUF, for inference": (
        b"gguf",
        "Convert it with `transformers.AutoModelForCausalLM.from_pretrained({folder!r}, gguf_file={name!r})"
        ".save_pretrained('CONVERTED')`, and pass the folder CONVERTED",
    ),
    "of HDF5, as Keras saves": (
        b"\x89hdf",
        "Save the weights of the PyTorch model with its save_pretrained or torch.save",
    ),
}
# torch has one list of such classes for all threads.
_marking = threading.Lock()


class Unread(ValueError):
    """Weights that may well be whole, in a form that has to be converted first: nothing to be thrown away."""


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Files to be read as one; an error in the block is told as that of a file, or as its rewriting if there was one.

    Raises:
        ValueError: one of them is no regular file, or was rewritten meanwhile.
    """
    with ExitStack() as stack:
        files: list[BinaryIO] = []
        for path in paths:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise ValueError(f"The checkpoint {str(path)!r} is no regular file: expected one with weights.")
            with in_words(path):
                files.append(stack.enter_context(open(path, "rb")))
        before = [_mark(os.fstat(file.fileno())) for file in files]
        if any(abs(time.time() - mark[2] / 1e9) < TICK for mark in before):
            time.sleep(TICK)
        failure = None
        try:
            yield files
        except Exception as error:
            failure = error
        for path, file, then in zip(paths, files, before, strict=True):
            # Shards are whole together: one that was replaced by another file is of another time as well.
            now = _mark(os.fstat(file.fileno())) if len(files) == 1 or not path.exists() else _mark(path.stat())
            if now != then:
                raise ValueError(
                    f"The checkpoint {str(path)!r} was rewritten while it was read: it had {then[1]:,} bytes before and "
                    f"{now[1]:,} after. Expected a file that stays as it is. Load it when it is written, and write under "
                    f"another name and rename, as captum_tracinwe.save_checkpoint does."
                ) from failure
        if failure is not None:
            raise failure


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """What goes wrong while ``path`` is read, as a ValueError that names it."""
    try:
        yield
    except Unread:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]{1,100}) was not", str(error))
        raise ValueError(
            f"The checkpoint {str(path)!r} is refused: it holds more than tensors and plain values"
            f"{f' ({named[1]})' if named else ''}, and reading it could run code. Expected a state dict, as "
            f"captum_tracinwe.save_checkpoint saves. If you trust the file convert it: `found = torch.load({str(path)!r}, "
            f"weights_only=False)`, then for a model `captum_tracinwe.save_checkpoint('CONVERTED.pt', found, "
            f"learning_rate=...)`, or by the keys that it has `torch.save({{'model_state_dict': found['model'], 'learning_rate': "
            f"float(found['lr'])}}, 'CONVERTED.pt')`."
        ) from error
    except Exception as error:  # damaged pickles raise whatever their bytes happen to ask for
        raise ValueError(
            f"The checkpoint {str(path)!r} cannot be read: it is truncated, or not a checkpoint ({first_line(error)}). "
            f"Expected a whole file of torch.save or safetensors: save it anew, or leave it out."
        ) from error


def _refuse_foreign(file: BinaryIO, path: Path) -> None:
    """See that a file is none of those that lie in the place of weights, told by how it begins.

    Raises:
        Unread: what it is, and what to do.
    """
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    kind, way = next(
        ((kind, way) for kind, (begins, way) in FOREIGN.items() if head.lower().startswith(begins)), ("", "")
    )
    if path.suffix != ".safetensors" and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < MOST_DESCRIPTION:
        kind, way = "of safetensors, by what is in it", "Name it *.safetensors"
    elif path.suffix == ".safetensors" and head.startswith(b"PK\x03\x04"):
        kind, way = "of torch.save, by what is in it", "Name it *.pt"
    if kind:
        way = way.format(folder=str(path.parent), name=path.name)
        raise Unread(f"The checkpoint {str(path)!r} is {kind}: expected weights of torch.save or safetensors. {way}.")


def first_line(error: Exception) -> str:
    """What an error says, in one line that is not too long."""
    text = type(error).__name__ if isinstance(error, KeyError) else str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:300]


def check_file(file: BinaryIO, path: Path) -> int:
    """See that a file of weights is whole, without reading them; about how many tensors are in it.

    Raises:
        ValueError: it is cut, or not made of what it says it is.
    """
    with in_words(path):
        _refuse_foreign(file, path)
        if path.suffix == ".safetensors":
            return len(_header(file)[0])
        return len(_records(file)) if _is_zip(file) else 0


def tensor_places(file: BinaryIO, path: Path) -> tuple[list[tuple[int, int]], dict[str, str]]:
    """Where the numbers of each tensor of a file begin and how many bytes they are, and its notes; of other files all of it.

    Raises:
        ValueError: it is not what its name or beginning says.
    """
    with in_words(path):
        if path.suffix == ".safetensors":
            entries, notes, start = _header(file)
            spans = [entry.data_offsets for entry in entries.values()]
            return [(start + begin, end - begin) for begin, end in spans], notes
        if path.suffix == ".distcp" or not _is_zip(file):  # of many archives, one behind the other
            return [(0, os.fstat(file.fileno()).st_size)], {}
        places = []
        for record in _records(file):
            if "/data/" in record.filename:
                file.seek(record.header_offset + 26)
                names = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
                places.append((record.header_offset + 30 + names, record.compress_size))
        return places, {}


# ------------------------------------------------------------------------------------------------------------- torch


def read_torch(file: BinaryIO, path: Path, mapped: bool = False, values: bool = True) -> Any:
    """What ``torch.save`` put into a file.

    Args:
        file (file): open, of ``path``.
        path (Path): for messages, and for mapping.
        mapped (bool): map the tensors where they are stored plainly, which the old format's are not.
        values (bool): False leaves tensors on the device "meta": their shapes without their numbers.

    Raises:
        ValueError: it is cut, holds more than tensors and plain values, or is out of proportion.
    """
    with in_words(path):
        _refuse_foreign(file, path)
        device = "cpu" if values else "meta"
        if not _is_zip(file):
            _refuse_shifted(file)
            return torch.load(cast(BinaryIO, _Old(file)), map_location="cpu", weights_only=True, mmap=False)
        records = _records(file)
        plain = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        file.seek(0)
        mmap = mapped and plain and values
        try:
            return torch.load(path if mmap else file, map_location=device, weights_only=True, mmap=mmap)
        except pickle.UnpicklingError:
            file.seek(0)
            with _marking, torch.serialization.safe_globals(HARMLESS):
                return torch.load(path if mmap else file, map_location=device, weights_only=True, mmap=mmap)


def _is_zip(file: BinaryIO) -> bool:
    """As torch sees it: by how the file begins."""
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def _refuse_shifted(file: BinaryIO) -> None:
    """An archive behind other bytes is none to torch, which would call it a pickle that could run code."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22))
    if file.read(4) == b"PK\x05\x06":
        raise ValueError("it ends as an archive of torch.save does, and other bytes stand before its first entry")


def _records(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The directory of an archive of ``torch.save``, seen to be in order before anything is read by it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22))
    if file.read(4) != b"PK\x05\x06":  # readers differ on what to make of an archive with something behind it
        raise ValueError("its end is missing, or has something behind it")
    with zipfile.ZipFile(file) as archive:
        records, end = archive.infolist(), archive.start_dir
    names = [entry.filename.lower() for entry in records]  # torch finds them in either case
    folder = names[0].split("/", 1)[0] + "/" if names else ""
    if not names or len(set(names)) < len(names) or not all(name.startswith(folder) for name in names):
        raise ValueError("its directory has no name, one twice, or several folders")
    place, expanded = 0, 0
    for record in sorted(records, key=lambda record: record.header_offset):
        plain = record.compress_type == zipfile.ZIP_STORED
        if record.flag_bits & 0x2041 or not (plain or record.compress_type == zipfile.ZIP_DEFLATED):
            raise ValueError(f"{record.filename} is encrypted, or compressed in a way that torch does not read")
        file.seek(record.header_offset)
        local = file.read(30)
        if record.header_offset < place or len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise ValueError(f"{record.filename} does not begin where the directory says, or lies over another one")
        method = int.from_bytes(local[8:10], "little")
        names_end = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        begin = record.header_offset + 30 + names_end
        place = begin + record.compress_size
        if place > end or method != record.compress_type or (plain and record.compress_size != record.file_size):
            raise ValueError(f"{record.filename} has another size or form than the directory says")
        expanded += 0 if plain else record.file_size
        if not record.filename.lower().startswith(folder + "data/"):  # not a tensor's numbers
            _in_proportion(f"its {record.filename[len(folder) :]}", record.file_size, len(records))
            file.seek(begin)
            content = file.read(record.compress_size)
            if not plain:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, record.file_size + 1)
            # torch writes 0 where it is told to leave checksums out.
            if len(content) != record.file_size or record.CRC not in (0, zlib.crc32(content)):
                raise ValueError(f"{record.filename} is not what was saved, by its size or checksum")
    if min(entry.header_offset for entry in records):
        raise ValueError("something stands before its first entry")
    if expanded > MOST_EXPANDED * size:
        raise ValueError(
            f"its compressed entries would become {expanded:,} bytes, of {size:,}: expected at most {MOST_EXPANDED} times as many"
        )
    return records


def _in_proportion(what: str, size: int, count: int) -> None:
    most = MOST_DESCRIPTION + MOST_FOR_EACH * count
    if size > most:
        raise ValueError(f"{what} has {size:,} bytes: expected at most {most:,} beside tensors")


class _Old:
    """A file of ``torch.save`` from before torch 1.6, whose pickles may not be out of proportion.

    They are read by small reads and lines, the numbers of tensors by ``readinto``.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file, self._left = file, MOST_DESCRIPTION
        self.seek, self.tell, self.readinto = file.seek, file.tell, cast(io.BufferedReader, file).readinto

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            _in_proportion("its pickle", MOST_DESCRIPTION - self._left, 0)
        return content

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))


# ------------------------------------------------------------------------------------------------------- safetensors

# The library itself can only map a file, or take all of it as bytes and copy them. Its format is this table and a few lines.
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "C64": torch.complex64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu},
    **{"F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz},
}
Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct):
    """What a header says of a tensor."""

    dtype: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=64)]
    data_offsets: tuple[Size, Size]


def read_safetensors(file: BinaryIO, path: Path, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its notes; arguments and errors as for :func:`read_torch`."""
    with in_words(path):
        _refuse_foreign(file, path)
        entries, notes, start = _header(file)
        size = os.fstat(file.fileno()).st_size
        whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8) if mapped else None
        state = {}
        for name, entry in entries.items():
            begin, end = entry.data_offsets
            dtype = DTYPES[entry.dtype]
            if whole is None:
                content = torch.empty(end - begin, dtype=torch.uint8)
                file.seek(start + begin)
                if cast(io.BufferedReader, file).readinto(memoryview(cast(Any, content.numpy()))) != end - begin:
                    raise EOFError("its end is missing")
            else:
                content = whole[start + begin : start + end]
                content = content.clone() if (start + begin) % dtype.itemsize else content
            state[name] = content.view(dtype).reshape(entry.shape)
        return state, notes


def _header(file: BinaryIO) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """The tensors of a safetensors file, its notes, and where the numbers begin."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise EOFError("its header is cut")
    # A header of many tensors is long; 70 bytes is the least for one.
    _in_proportion("its header", length, min(length // 70, 100_000))
    parts = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
    notes = msgspec.json.decode(parts.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
    entries = {name: msgspec.json.decode(part, type=_Entry) for name, part in parts.items()}
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in DTYPES:
            raise ValueError(f"{name[:100]!r} is of the type {entry.dtype[:20]!r}: expected one of {', '.join(DTYPES)}")
        begin, end = entry.data_offsets
        width = DTYPES[entry.dtype].itemsize
        for extent in entry.shape:
            width *= extent
        if begin != place or end - begin != width:
            raise ValueError(f"{name[:100]!r} does not lie where the tensor before it ends, or has another size")
        place = end
    if 8 + length + place != size:
        raise EOFError(f"its tensors end at byte {8 + length + place:,} of {size:,}")
    return entries, notes, 8 + length
