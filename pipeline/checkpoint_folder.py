"""The folders of checkpoints: complete or not there, and noticed when they are damaged.

A checkpoint is a folder `step-00001234` with `weights.safetensors` (what predictions use, pipeline.checkpoint),
`training.safetensors` and `training.json` (what training needs to go on as if it had not stopped, pipeline.resume), and
`carry-R.safetensors` for each process R that carries unfinished sequences. A folder is renamed into place when it is complete.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.replace import sync
from pipeline.tensorfiles import Damaged, read_checked_json, read_checksum, write_checked_json

WEIGHTS = "weights.safetensors"
_STATE = "training.json"
_FILE = re.compile(r"[a-z0-9-]+\.safetensors")
_FOLDER = re.compile(r"step-(\d{8,})")


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, by their steps."""
    found = [entry for entry in folder.iterdir() if _FOLDER.fullmatch(entry.name)] if folder.is_dir() else []
    return sorted(found, key=lambda entry: int(entry.name[5:]))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint with most steps in `folder`, or None."""
    found = checkpoints(folder)
    return found[-1] if found else None


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint of `step`."""
    return f"step-{step:08d}"


def begin_checkpoint(folder: Path, step: int) -> Path:
    """Return a fresh, hidden folder for the checkpoint of `step`; `finish_checkpoint` makes it visible."""
    temporary = folder / f".{checkpoint_name(step)}"
    for unfinished in folder.glob(".step-*"):  # of saves that were cut short
        shutil.rmtree(unfinished, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def finish_checkpoint(temporary: Path, kept: int) -> Path:
    """Rename a complete checkpoint into place and remove all but the newest `kept`."""
    final = temporary.with_name(temporary.name.removeprefix("."))
    if final.exists():
        _remove(final)
    temporary.rename(final)
    sync(final.parent)
    keep_newest(final.parent, kept)
    return final


def keep_newest(folder: Path, kept: int) -> list[str]:
    """Remove all checkpoints in `folder` but the newest `kept`; return their names."""
    old = checkpoints(folder)[:-kept]
    for checkpoint in old:
        _remove(checkpoint)
    return [checkpoint.name for checkpoint in old]


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, hidden first: one that is half removed shall not be taken for one that is damaged."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `training.json`, the last file of a checkpoint, with the checksums of the others."""
    files = {path.name: read_checksum(path) for path in sorted(folder.glob("*.safetensors"))}
    write_checked_json(folder / _STATE, dict(state) | {"files": files})


def read_state(folder: Path) -> dict[str, Any]:
    """Return what `write_state` was given. Raises Damaged, also where another file of the checkpoint is missing or replaced."""
    try:
        state = read_checked_json(folder / _STATE)
    except FileNotFoundError:
        raise Damaged(f"{folder}: damaged, {_STATE} is missing") from None
    files = state.get("files", {})
    if not isinstance(files, dict) or any(not _FILE.fullmatch(name) for name in files):
        raise Damaged(f"{folder}: damaged, {_STATE} does not name the files of a checkpoint")
    for name, checksum in files.items():
        if not (folder / name).is_file():
            raise Damaged(f"{folder}: damaged, {name} is missing")
        if read_checksum(folder / name) != checksum:
            raise Damaged(f"{folder / name}: damaged, it is not the file that was written with this checkpoint")
    return state


def set_aside(damaged: Path) -> Path:
    """Rename the folder of a damaged checkpoint, so that nobody takes it for one; return what it is called now."""
    renamed = damaged.with_name(f"damaged-{damaged.name}")
    shutil.rmtree(renamed, ignore_errors=True)  # an earlier one of the same step
    damaged.rename(renamed)
    return renamed
