"""A dataset on disk: a folder with `store.safetensors` (its arrays) and `manifest.json` (its kind and where it came from).

Under `store` and `puzzlestore`, which say what arrays there are and what they must hold. Each file is replaced at once and the
manifest last, so that a dataset that was cut short does not load.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from eval.files import damage_of, read_object, replace_file
from eval.formatting import show_path, show_value

ARRAYS_FILE = "store.safetensors"

MANIFEST_FILE = "manifest.json"

_DTYPE_NAMES = {"U8": "uint8", "I32": "int32", "U32": "uint32", "I64": "int64", "F32": "float32", "F64": "float64"}
"""Of those that are or might be met, by the name that safetensors has for them."""

Arrays = dict[str, npt.NDArray[Any]]

ArrayTypes = Mapping[str, tuple[np.dtype[Any], int]]
"""The dtype and the number of dimensions of each array of a dataset, by name."""


def write_folder(folder: Path, arrays: Arrays, manifest: Mapping[str, Any]) -> None:
    """Write a dataset into `folder`, which is made if need be. The same dataset gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    replace_file(folder / ARRAYS_FILE, safetensors.numpy.save(contiguous))
    replace_file(folder / MANIFEST_FILE, orjson.dumps(manifest, option=options))


def require_files(folder: Path) -> None:
    """Raise FileNotFoundError, of one line, unless `folder` has both files of a dataset."""
    for name in (MANIFEST_FILE, ARRAYS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{show_path(folder / name)}: no such file; a dataset has {MANIFEST_FILE} and {ARRAYS_FILE}"
            )


def read_manifest(folder: Path, formats: Collection[str]) -> dict[str, Any]:
    """Return the manifest of a dataset, which has one of `formats`.

    Raises ValueError, of one line that names the file, where it is not the manifest of such a dataset.
    """
    path = folder / MANIFEST_FILE
    manifest = read_object(path)
    found = manifest.get("format")
    if found not in formats:
        what = f"expected format {' or '.join(map(repr, formats))}, got {show_value(found)}"
        raise ValueError(f"{show_path(path)}: not the manifest of a dataset of this version: {what}")
    return manifest


def read_arrays(folder: Path, types: ArrayTypes) -> Arrays:
    """Return the arrays by name, with the dtypes and numbers of dimensions of `types`.

    Raises ValueError, of one line that names the file, where they are others.
    """
    where = show_path(folder / ARRAYS_FILE)
    damage = damage_of(folder / ARRAYS_FILE)
    if damage:
        raise ValueError(f"{where}: truncated or not a safetensors file: {damage}")
    try:
        with safe_open(str(folder / ARRAYS_FILE), "np") as file:
            kinds = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it has no other iterator
            _require_types({name: (each.get_dtype(), len(each.get_shape())) for name, each in kinds.items()}, types, where)
            return {name: file.get_tensor(name) for name in kinds}
    except SafetensorError as error:
        said = show_path(str(error)[:160])  # it may quote all of the header
        raise ValueError(f"{where}: truncated or not a safetensors file: {said}") from error


def _require_types(found: Mapping[str, tuple[str, int]], types: ArrayTypes, where: str) -> None:
    """Raise ValueError unless `found`, dtypes as safetensors names them and numbers of dimensions, are those of `types`."""
    if set(found) != set(types):
        missing, foreign = sorted(set(types) - set(found)), sorted(set(found) - set(types))
        raise ValueError(f"{where}: not the arrays of a dataset: missing {show_value(missing)}, unknown {show_value(foreign)}")
    for name, (dtype, dimensions) in types.items():
        kind, count = _DTYPE_NAMES.get(found[name][0], found[name][0]), found[name][1]
        if (kind, count) != (dtype.name, dimensions):
            raise ValueError(f"{where}: {name} must be {dimensions}-dimensional {dtype}, got {count}-dimensional {kind}")


def check_arrays(folder: Path, faults: Iterable[str], data_hash: Callable[[], str], expected_hash: object) -> None:
    """Raise ValueError, of one line that names the file, at the first fault, or if the hash of the arrays is another.

    The hash is asked for when there is no fault.
    """
    where = show_path(folder / ARRAYS_FILE)
    for fault in faults:
        raise ValueError(f"{where}: {fault}")
    found_hash = data_hash()
    if found_hash != expected_hash:
        raise ValueError(f"{where}: does not belong to the {MANIFEST_FILE} beside it (data hash {found_hash[:12]}...)")


def hash_arrays(head: bytes, arrays: Arrays) -> str:
    """Return the SHA-256, in hex, of `head` and of the names, dtypes, shapes and contents of `arrays`."""
    digest = hashlib.sha256(head)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
