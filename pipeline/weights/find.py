"""Finds weights by path, or by the name of those that come with the program, and reads the settings they bring. No torch."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from augment.errors import InputError
from eval.files import parse_json
from eval.formatting import show_path, show_value
from pipeline.array_files import Damaged, read_metadata
from pipeline.config import Config

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints of a run."""
SHIPPED = Path(__file__).parent
"""Weights that come with the program, a folder each; its name will do wherever weights are asked for."""
FORMAT = "arc-trm-weights 1"
EXPORTED = "arc-trm-weights 2"
"""Matrices in int8 with a scale for each row, and views only where the memory has rows of views."""
_FOLDER = re.compile(r"step-(\d{8,})")


def shipped_names() -> list[str]:
    """Return the names of the weights that come with the program."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS}"))


def find_weights(path: Path) -> Path:
    """Return `path`, or the weights file in it, where it is a file or a folder with weights or checkpoints; else the file here.

    A folder that only has the name of weights that come with the program, as that of a run about to begin, does not hide them.
    Raises FileNotFoundError, with the names.
    """
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    shipped = SHIPPED / path / WEIGHTS
    if path == Path(path.name) and shipped.is_file():
        trained = path.is_file() or (path / CHECKPOINTS).exists() or any(path.glob("step-*"))
        return path if trained else shipped
    if path.exists():
        return path
    names = ", ".join(shipped_names())
    raise FileNotFoundError(f"{path}: no such weights file or folder, nor the name of weights that come with it ({names})")


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, by their steps."""
    found = [entry for entry in folder.iterdir() if _FOLDER.fullmatch(entry.name)] if folder.is_dir() else []
    return sorted(found, key=lambda entry: int(entry.name[5:]))


def newest_checkpoint(run: Path) -> Path | None:
    """Return the complete checkpoint with most steps of the run in the folder `run`, or None."""
    return next(reversed(checkpoints(run / CHECKPOINTS)), None)


def has_trained(run: Path) -> bool:
    """Return whether the run in the folder `run` has a checkpoint of a later step than it began with."""
    newest = newest_checkpoint(run)
    return newest is not None and newest.name != checkpoint_name(0)


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint of `step`."""
    return f"step-{step:08d}"


def read_found(path: Path, read: Callable[[Path], Found]) -> Found:
    """Return what `read` finds in the weights file at `path`, in a folder of checkpoints or a run in that of the newest one.

    Damaged checkpoints are skipped. Raises what `read` raises of a file; FileNotFoundError where there is none, Damaged where
    every checkpoint is damaged.
    """
    path = find_weights(path)
    if not path.is_dir():
        return read(path)
    folder = path if checkpoints(path) else path / CHECKPOINTS
    skipped: set[Path] = set()
    while left := [checkpoint for checkpoint in checkpoints(folder) if checkpoint not in skipped]:  # training may go on there
        try:
            return read(left[-1] / WEIGHTS)
        except (Damaged, FileNotFoundError) as error:
            skipped.add(left[-1])
            logger.warning("%s; this checkpoint is skipped", error)
    if skipped:
        raise Damaged(f"{folder}: every checkpoint in it is damaged")
    raise FileNotFoundError(f"{path}: no {WEIGHTS} and no checkpoint in this folder")


def settings_of(path: Path) -> Config:
    """Return the config of the weights at `path`, as `read_found` finds them; no tensor is read. Raises as it does."""
    return read_found(path, lambda file: config_in(file, read_metadata(file)))


def config_in(path: Path, metadata: Mapping[str, str]) -> Config:
    """Return the config that the weights file at `path` has in its `metadata`.

    Raises InputError where it is of another program, or has settings of another version; Damaged where its config is damaged.
    """
    found = metadata.get("format")
    if found not in (FORMAT, EXPORTED):
        formats = f"{FORMAT!r} or {EXPORTED!r}"
        raise InputError(f"{show_path(path)}: not a weights file of this program (format {show_value(found)}, not {formats})")
    try:
        values = parse_json(metadata["config"].encode(), "config")
    except KeyError as error:
        raise Damaged(f"{show_path(path)}: damaged weights file: it has no {error}") from None
    except ValueError as error:
        raise Damaged(f"{show_path(path)}: damaged weights file: {error}") from None
    try:
        return Config.from_json(values)
    except ValueError as error:
        raise InputError(f"{show_path(path)}: its settings are not those of this version: {error}") from None
