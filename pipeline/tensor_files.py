"""Files of tensors: safetensors, replaced in one step, with a checksum that detects damage when they are read.

Checkpoints, weights and candidates are written with it. A file without a checksum, as other programs write them, is read
unchecked.
"""

import errno
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from eval.files import replacing
from eval.formatting import show_name, show_path
from pipeline.array_files import Damaged, opened, read_metadata

CHECKSUM = "checksum"
"""Key of the checksum: in the metadata of a file of tensors, or in a JSON object."""
_CHUNK_BYTES = 1 << 24
_DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
)
_MOST_DIMENSIONS = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file and replace `path` with it when it is complete and on disk. Raises OSError."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = dict(metadata or {})
    metadata |= {CHECKSUM: _checksum(plain, metadata)}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # that of every new file here; safetensors would make it readable by its owner only
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:  # which has the number of the system's error in its text only
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else errno.EIO, str(error)) from None
        temporary.chmod(mode)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file. Raises Damaged, an InputError that names the file."""
    with opened(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no other iterator
        metadata: dict[str, str] = dict(file.metadata() or {})
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or tensor.ndim > _MOST_DIMENSIONS:
            raise Damaged(
                f"{show_path(path)}: {show_name(name)} is {tensor.ndim}-dimensional {tensor.dtype}, as none of ours is"
            )
    stored = metadata.pop(CHECKSUM, None)
    if stored is not None and stored != _checksum(tensors, metadata):
        raise Damaged(f"{show_path(path)}: damaged, its content does not have the checksum that was written with it")
    return tensors, metadata


def read_checksum(path: Path) -> str | None:
    """Return the checksum in the metadata of a safetensors file, None where it has none. Raises Damaged."""
    return read_metadata(path).get(CHECKSUM)


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a CRC-32 of metadata and of names, dtypes, shapes and bytes of all tensors, by name and by chunks."""
    names = sorted(tensors)
    kinds = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    checksum = zlib.crc32(orjson.dumps([sorted(metadata.items()), kinds]))
    for name in names:
        values = tensors[name].as_strided((tensors[name].numel(),), (1,))  # a tensor of no or one value may have any stride
        content = memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = zlib.crc32(content[start : start + _CHUNK_BYTES])
            checksum = zlib.crc32(chunk.to_bytes(4, "big"), checksum)
    return f"{checksum:08x}"


def json_checksum(value: Mapping[str, Any]) -> str:
    """Return a CRC-32 of a JSON object. Raises orjson.JSONEncodeError for one that is nested too deeply."""
    return f"{zlib.crc32(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)):08x}"
