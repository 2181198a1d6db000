"""Files of numpy arrays: safetensors, read without torch, which is slow to import."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from eval.files import damage_of
from eval.formatting import show_path

Arrays = dict[str, npt.NDArray[Any]]


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file. Raises ValueError, of one line that names it, if it is damaged.

    Dtypes, shapes and values may be any that numpy has.
    """
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no other iterator
        return arrays, dict(file.metadata() or {})


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, and read nothing else. Raises ValueError like `read_arrays`."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    where = f"{show_path(path)}: truncated or not a safetensors file"
    damage = damage_of(path)
    if damage:
        raise ValueError(f"{where}: {damage}")
    try:
        with safe_open(str(path), "np") as file:
            yield file
    except (SafetensorError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # an unknown dtype is any of them
        raise ValueError(f"{where}: {show_path(str(error)[:160])}") from error  # it may quote all of the header
