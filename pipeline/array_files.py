"""Files of numpy arrays: safetensors, read without torch, which is slow to import."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from augment.errors import InputError
from eval.files import require_file
from eval.formatting import show_path

Arrays = dict[str, npt.NDArray[Any]]


class Damaged(InputError):
    """A file is not what was written: cut short, altered, or missing."""


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file. Raises InputError, of one line that names it, if it is damaged.

    Dtypes, shapes and values may be any that numpy has.
    """
    with opened(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no other iterator
        return arrays, dict(file.metadata() or {})


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, and read nothing else. Raises InputError like `read_arrays`."""
    with opened(path, "np") as file:
        return dict(file.metadata() or {})


@contextmanager
def opened(path: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """Open a safetensors file, for arrays of numpy or torch.

    Raises Damaged, an InputError of one line that names the file, for anything that is wrong with its content.
    """
    where = f"{show_path(path)}: damaged or not a safetensors file"
    try:
        require_file(path)
    except ValueError as error:
        raise Damaged(str(error)) from error.__cause__
    with path.open("rb"):  # where the system denies it, the reader below only says that there is no such file
        pass
    try:
        with safe_open(str(path), framework) as file:
            yield file
    except (SafetensorError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # an unknown dtype is any of them
        raise Damaged(f"{where} ({show_path(str(error)[:160])})") from None  # it may quote all of the header
