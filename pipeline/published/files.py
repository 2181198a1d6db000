"""The files of a published training, read with care: YAML as plain values, a state dict as tensors alone.

Under `pipeline.published.checkpoint`. Nothing that is read here can run anything, or become far larger than its file.
"""

import io
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from eval.files import read_file
from eval.formatting import show_name, show_path
from pipeline.data.task_files import ZIP_FAULTS
from pipeline.published.pickle_check import LEGACY_PICKLES, check_tuples

_PREFIXES = re.compile(r"(?:(?:_orig_mod|module|model)\.)*(?=inner\.)")

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_MOST_CONFIG_BYTES = 1 << 16

_MOST_CHARACTERS = 500


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of the file that is at fault before what a ValueError says."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        said = str(error)
        shown = said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS]}..."  # it may quote a value of any length
        raise ValueError(f"{show_path(path)}: {show_path(shown)}") from error


class _PlainLoader(yaml.SafeLoader):
    """Makes plain values alone, and of every text once: a few aliases of aliases are a document of any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises ValueError, naming the file, where there is none."""
    data = read_file(path, _MOST_CONFIG_BYTES)
    with naming(path):
        try:
            document = yaml.load(data, _PlainLoader)
        except yaml.MarkedYAMLError as error:
            line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ValueError(f"not YAML: {error.problem}{line}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"not YAML: {first_line(error)}") from error
        if not isinstance(document, dict):
            raise ValueError("expected a mapping, the config of a training or its arch")
        return document


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by their published names, without prefixes; those of an archive stay on disk."""
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"  # older files cannot be mapped
    try:
        _check_archive(path) if archive else _check_legacy(path)
    except ZIP_FAULTS as error:
        raise ValueError(f"damaged, or not a PyTorch file: {first_line(error)}") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # what is wrong is told once, below
            state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise ValueError("damaged, or not a state dict of tensors alone") from error
    except Exception as error:  # what a damaged file leads to is not documented
        raise ValueError(f"damaged, or not a PyTorch file: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise ValueError(f"expected a state dict, got {type(state).__name__}")
    keys: dict[str, str] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise ValueError(f"expected tensors by name, but a key is of type {type(key).__name__}")
        shown = show_name(key)
        if not isinstance(value, Tensor):
            raise ValueError(f"expected a flat dict of tensors, but {shown} has {type(value).__name__}")
        if value.dtype not in _DTYPES or value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError(
                f"{shown} is {value.dtype} ({value.layout}, {value.device}), expected dense float32, bfloat16 or float16"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{shown} repeats its values, {tuple(value.shape)} from {value.untyped_storage().nbytes()} bytes")
        prefix = _PREFIXES.match(key)
        name = key[prefix.end() :] if prefix else key
        if name in keys:
            raise ValueError(f"{show_name(keys[name])} and {shown} are both {show_name(name)}")
        keys[name] = key
    return {name: state[key] for name, key in keys.items()}


def _check_archive(path: Path) -> None:
    """Raise what damaged archives raise unless all in it is stored as it is, as PyTorch does it, and its pickle is harmless."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("what is in it is compressed")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                check_tuples(io.BytesIO(archive.read(entry)))


def _check_legacy(path: Path) -> None:
    """Raise ValueError unless the pickles at the beginning of a file of before version 1.6 are harmless."""
    if path.stat().st_size:  # else there is nothing to map
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_tuples(content, LEGACY_PICKLES)


def first_line(error: BaseException) -> str:
    return show_path((str(error).strip() or type(error).__name__).splitlines()[0][:160])
