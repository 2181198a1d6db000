"""Files of tensors and of JSON values: replaced in one step, and damage to them is noticed when they are read.

What checkpoints, weights and candidates are written with. A file of tensors is a safetensors file whose metadata hold a
checksum of everything else in it; one without, as others write them, is read unchecked.
"""

import errno
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval.files import damage_of, parse_json, read_file, replacing, write_json
from eval.formatting import show_name, show_path

logger = logging.getLogger(__name__)

_CHECKSUM = "checksum"

_CHUNK_BYTES = 1 << 24

_DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
)

_MOST_DIMENSIONS = 8

_SAID_CHARACTERS = 160
"""Of what a library says of a file, which may quote all of its header."""

_THREADS = 4
"""Of the checksum; a library of 2022 or older has no more than 1 GB/s in each."""


class Damaged(ValueError):
    """A file is not what was written: cut short, altered, or missing where others say that it is there."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write CPU tensors as a safetensors file and replace `path` with it when it is complete and on disk. Raises OSError."""
    metadata = dict(metadata or {})
    metadata |= {_CHECKSUM: _checksum(tensors, metadata)}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as of every new file here; that of safetensors can be read by its owner alone
        try:
            save_file(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:
            raise _disk_error(error) from None
        temporary.chmod(mode)


def _disk_error(error: SafetensorError) -> OSError:
    """Return what kept safetensors from writing, which it has in words alone, as other writers say it."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]) if found else errno.EIO, str(error))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file. Raises Damaged, a ValueError that names the file."""
    damage = damage_of(path)
    if damage:
        raise Damaged(f"{show_path(path)}: damaged or not a safetensors file ({damage})")
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no other iterator
            metadata = dict(file.metadata() or {})
    except (SafetensorError, TypeError, ValueError, RuntimeError) as error:  # a shape beyond all bounds is any of them
        raise _damaged(path, error) from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or tensor.ndim > _MOST_DIMENSIONS:
            raise Damaged(
                f"{show_path(path)}: {show_name(name)} is {tensor.ndim}-dimensional {tensor.dtype}, as none of ours is"
            )
    stored = metadata.pop(_CHECKSUM, None)
    if stored is not None and stored != _checksum(tensors, metadata):
        raise Damaged(f"{show_path(path)}: damaged, its content does not have the checksum that was written with it")
    return tensors, metadata


def read_checksum(path: Path) -> str | None:
    """Return the checksum that a safetensors file says it has, None where it says none. Raises Damaged."""
    damage = damage_of(path)
    if damage:
        raise Damaged(f"{show_path(path)}: damaged or not a safetensors file ({damage})")
    try:
        with safe_open(str(path), "pt") as file:
            checksum: str | None = (file.metadata() or {}).get(_CHECKSUM)
            return checksum
    except SafetensorError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> Damaged:
    said = show_path(str(error)[:_SAID_CHARACTERS])
    return Damaged(f"{show_path(path)}: damaged or not a safetensors file ({said})")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a CRC-32 of the metadata and of the names, kinds, shapes and bytes of all tensors, in the order of their names."""
    names = sorted(tensors)
    kinds = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    chunks = [chunk for name in names for chunk in _chunks(tensors[name])]
    checksum = zlib.crc32(orjson.dumps([sorted(metadata.items()), kinds]))
    for part in _checksums(chunks):
        checksum = zlib.crc32(part.to_bytes(4, "big"), checksum)
    return f"{checksum:08x}"


def _checksums(chunks: Sequence[memoryview]) -> list[int]:
    """Return a CRC-32 of each of `chunks`, computed in several threads where they are large."""
    if sum(map(len, chunks)) > _CHUNK_BYTES:
        try:
            with ThreadPoolExecutor(_THREADS) as pool:  # zlib leaves Python to others while it computes
                return list(pool.map(zlib.crc32, chunks))
        except RuntimeError as error:  # a thread needs memory too, which a checkpoint must not fail for
            logger.warning("checksums are computed in one thread: %s", error)
    return list(map(zlib.crc32, chunks))


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a contiguous tensor, part by part."""
    values = tensor.as_strided((tensor.numel(),), (1,))  # a tensor of no or one value may have any stride
    flat = memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]
    for start in range(0, len(flat), _CHUNK_BYTES):
        yield flat[start : start + _CHUNK_BYTES]


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as `write_json` does, with a checksum of the rest in it."""
    write_json(path, dict(value) | {_CHECKSUM: _json_checksum(value)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return the object that `write_checked_json` wrote, or one without a checksum. Raises Damaged."""
    data = read_file(path)
    try:
        value = parse_json(data, f"{show_path(path)}: damaged")
    except ValueError as error:
        raise Damaged(str(error)) from None
    if not isinstance(value, dict):
        raise Damaged(f"{show_path(path)}: damaged, expected an object")
    stored = value.pop(_CHECKSUM, None)
    try:
        matches = stored is None or stored == _json_checksum(value)
    except orjson.JSONEncodeError as error:  # it writes no values as deep as it reads
        raise Damaged(f"{show_path(path)}: damaged: {error}") from None
    if not matches:
        raise Damaged(f"{show_path(path)}: damaged, its content does not have the checksum that was written with it")
    return value


def _json_checksum(value: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)):08x}"
