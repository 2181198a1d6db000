"""Readers of published files: YAML as plain values, and a PyTorch state dict as nothing but tensors.

The files are untrusted. Nothing in them is executed, and the size of a file bounds the time and the memory that reading takes.
"""

import pickletools
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

from augment.errors import InputError
from eval.files import read_file
from eval.formatting import show_name, show_path
from pipeline.data.task_files import ZIP_FAULTS
from pipeline.tensor_files import read_tensors

_PREFIXES = re.compile(r"(?:(?:_orig_mod|module|model)\.)*(?=inner\.)")
_MOST_CHARACTERS = 500
_MOST_CONFIG_BYTES = 1 << 16
_MOST_PICKLE_BYTES = 1 << 20
"""Largest pickle of a state dict: it has the names and shapes; the values are other members of the archive."""
_MOST_OPERATIONS = 20_000
"""Longest pickle of a state dict. A tensor takes about forty."""
_STORAGES = {f"torch {kind}Storage" for kind in ("Float", "BFloat16", "Half", "Long", "Int", "Bool")}
_NESTED = ("ema_state_dict", "model_state_dict", "state_dict", "model")
"""Under which a training keeps the tensors of its network, beside those of its optimizer; the first that is there counts."""
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", *_STORAGES}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Prefix the message of a ValueError with the path of the file that caused it, on one line of bounded length."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        message = str(error)
        shown = message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]}..."
        raise InputError(f"{show_path(path)}: {show_path(shown)}") from error


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases: merging aliases of aliases turns one kilobyte into gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


# YAML 1.1 requires a decimal point, so PyYAML would take 1e-5 for text.
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile("[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises InputError, naming the file, if it has none."""
    data = read_file(path, _MOST_CONFIG_BYTES)
    with naming(path):
        try:
            document = yaml.load(data, _PlainLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"not YAML: {summarize(error)}") from error
        if not isinstance(document, dict):
            raise InputError("expected a mapping, the config of a training or its arch")
        return document


def read_state(path: Path) -> dict[str, Tensor]:
    """Return dense floating-point tensors by name, without prefixes as `_orig_mod.`. Raises InputError for anything else.

    The file is one of torch.save, of a state dict or of a training that holds one, or safetensors.
    """
    state: object = read_tensors(path)[0] if path.suffix == ".safetensors" else _read_pickled(path)
    if isinstance(state, dict):
        state = next((state[name] for name in _NESTED if isinstance(state.get(name), dict)), state)
    if not isinstance(state, dict):
        raise InputError(f"expected a state dict, got {type(state).__name__}")
    keys: dict[str, str] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise InputError(f"expected tensors by name, but a key is of type {type(key).__name__}")
        shown = show_name(key)
        if not isinstance(value, Tensor):
            raise InputError(f"expected a flat dict of tensors, but {shown} has {type(value).__name__}")
        if not value.is_floating_point():
            raise InputError(
                f"{shown} holds {str(value.dtype).removeprefix('torch.')}, which no parameter of these networks does"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{shown} repeats its values, {tuple(value.shape)} from {value.untyped_storage().nbytes()} bytes")
        prefix = _PREFIXES.match(key)
        name = key[prefix.end() :] if prefix else key
        if name in keys:
            raise InputError(f"{show_name(keys[name])} and {shown} are both {show_name(name)}")
        keys[name] = key
    return {name: state[key] for name, key in keys.items()}


def _read_pickled(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path.stat().st_size)
        with warnings.catch_warnings(action="ignore"):
            state: object = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except ZIP_FAULTS as error:
        raise InputError(f"damaged, or not a state dict saved by PyTorch: {summarize(error)}") from error
    except Exception as error:  # PyTorch does not document what a damaged pickle raises
        raise InputError("damaged, or not a state dict saved by PyTorch") from error
    return state


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raise InputError unless nothing in an archive of `size` bytes is compressed and every pickle in it is harmless."""
    entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise InputError("its members are compressed")
    for entry in entries:
        if entry.filename.endswith("data.pkl"):
            if entry.file_size > _MOST_PICKLE_BYTES:
                raise InputError(f"a pickle of more than {_MOST_PICKLE_BYTES:,} bytes, which no state dict needs")
            _check_pickle(archive.read(entry))


def _check_pickle(data: bytes) -> None:
    """Raise InputError unless a pickle is short, calls only what rebuilds dense tensors, and refers to no tuple twice.

    `weights_only` refuses harmful calls, but it allows a bytearray of any size, and dict keys that are tuples of the same
    tuples, 60 levels deep, whose hash takes forever.
    """
    tuples, previous = set(), ""
    for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
        name = operation.name
        if number == _MOST_OPERATIONS:
            raise InputError(f"a pickle of more than {_MOST_OPERATIONS:,} operations, which no state dict needs")
        if name == "GLOBAL" and argument not in _GLOBALS:
            raise InputError(f"{show_name(str(argument))} is no part of a state dict of tensors")
        if name.endswith("GET") and argument in tuples:
            raise InputError("a pickle that refers to a tuple twice, which no state dict does")
        if not name.endswith("PUT"):
            previous = name
        elif previous.startswith("TUPLE"):
            tuples.add(argument)


def summarize(error: BaseException) -> str:
    """Return the beginning of an error message on one line, or the type of the error if it has no message."""
    return show_path(" ".join(str(error).split())[:160] or type(error).__name__)
