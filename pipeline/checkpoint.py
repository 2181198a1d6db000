"""Checkpoints: safetensors and JSON, no pickle, everything by name.

A checkpoint is a folder `step-00001234` with `weights.safetensors` (what predictions use: averaged weights, task memory, the
config and the names of its tasks and views), `training.safetensors` and `training.json` (what training needs to go on as if it
had not stopped), and `carry-R.safetensors` for each process R that carries unfinished sequences. A folder is renamed into place
when it is complete.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from augment.task import TaskId
from augment.transform import Codes
from pipeline.config import Config
from pipeline.data.dataset import Dataset, canvas_of
from pipeline.reasoner.network import Network, make_network

FORMAT = "arc-trm-weights 1"
_FOLDER = re.compile(r"step-(\d{8,})")
_ROWS = "memory.rows"
_RESIDUAL = "memory.residual.rows"


@dataclass(frozen=True)
class Weights:
    """What predictions use, as read from a weights file."""

    path: Path
    config: Config
    step: int
    data_hash: str
    """Of the dataset that it was trained on."""
    task_ids: tuple[str, ...]
    """Rows of the task memory."""
    tensors: dict[str, Tensor]
    transforms: Tensor
    """(V,) int64 codes of the views that the network was trained on, task after task."""
    transform_start: Tensor
    """(T + 1,) int64 ranges of `transforms` by task."""


class TrainedOn(Protocol):
    """What weights have to know of the dataset that they were trained on: any `Dataset`, or what a foreign one is known by."""

    @property
    def task_ids(self) -> tuple[TaskId, ...]: ...

    @property
    def transforms(self) -> Codes: ...

    @property
    def transform_start(self) -> npt.NDArray[np.int64]: ...

    @property
    def data_hash(self) -> str: ...


def save_weights(path: Path, tensors: Mapping[str, Tensor], config: Config, store: TrainedOn, step: int) -> None:
    """Write a weights file, by way of a temporary file."""
    metadata = {
        "format": FORMAT,
        "config": orjson.dumps(config.to_json()).decode(),
        "step": str(step),
        "data_hash": store.data_hash,
        "task_ids": orjson.dumps(store.task_ids).decode(),
    }
    views = {
        "views.transforms": torch.from_numpy(store.transforms.astype(np.int64)),
        "views.transform_start": torch.from_numpy(store.transform_start.astype(np.int64)),
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()} | views
    write_tensors(path, plain, metadata)


def load_weights(path: Path) -> Weights:
    """Read a weights file, or the newest of a checkpoint, `checkpoints/` or run folder.

    Raises FileNotFoundError or ValueError, naming the file, when there is none or it is not ours.
    """
    path = find_weights(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a weights file of this program (format {metadata.get('format')!r}, not {FORMAT!r})")
    try:
        config = Config.from_json(orjson.loads(metadata["config"]))
        task_ids = tuple(orjson.loads(metadata["task_ids"]))
        views = tensors.pop("views.transforms"), tensors.pop("views.transform_start")
        weights = Weights(path, config, int(metadata["step"]), metadata["data_hash"], task_ids, tensors, *views)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged weights file: {error}") from None
    starts = weights.transform_start
    if len(starts) != len(task_ids) + 1 or int(starts[-1]) != len(weights.transforms):
        raise ValueError(f"{path}: damaged weights file: {len(task_ids)} tasks do not match their ranges of transforms")
    for name, expected in _row_counts(weights).items():
        rows = len(tensors[name]) if name in tensors else 0
        if rows != expected:
            raise ValueError(f"{path}: damaged weights file: {rows} rows of task memory, expected {expected} ({name})")
    return weights


def _row_counts(weights: Weights) -> dict[str, int]:
    """Return how many rows each tensor has that has one for a task or for a view."""
    tasks, views = len(weights.task_ids), len(weights.transforms)
    if weights.config.memory.kind == "table":
        return {_ROWS: views}
    return {_ROWS: tasks, _RESIDUAL: views} if weights.config.memory.residual else {_ROWS: tasks}


def find_weights(path: Path) -> Path:
    """Return the weights file that `path` stands for: itself, or the newest of a run or checkpoint folder."""
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weights file or folder")
    if (path / "weights.safetensors").is_file():
        return path / "weights.safetensors"
    for folder in (path, path / "checkpoints"):
        newest = newest_checkpoint(folder)
        if newest:
            return newest / "weights.safetensors"
    raise FileNotFoundError(f"{path}: no weights.safetensors and no checkpoint in this folder")


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, by their steps."""
    found = [entry for entry in folder.iterdir() if _FOLDER.fullmatch(entry.name)] if folder.is_dir() else []
    return sorted(found, key=lambda entry: int(entry.name[5:]))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint with most steps in `folder`, or None."""
    found = checkpoints(folder)
    return found[-1] if found else None


@dataclass(frozen=True)
class Transplant:
    """What happened when weights met a store."""

    known: int
    """Tasks whose memory was found by id."""
    new: int
    """Tasks that start from the mean of the old ones."""
    unused: int
    """Tasks of the weights that the store does not have."""

    def __str__(self) -> str:
        return f"task memory: {self.known} tasks by id, {self.new} new from the mean, {self.unused} not needed"


def transplant(weights: Weights, network: Network, store: Dataset) -> Transplant:
    """Load `weights` into `network`, made for `store`: trunk by name, memory rows by task id (and transform), else the mean.

    Residual rows of other views are zero. Raises ValueError that names what differs when the architectures do not match.
    """
    different = _differences(weights, network)
    if different:
        listed = ", ".join(different[:3])
        raise ValueError(f"{weights.path}: weights of another architecture, {listed} differ; use the config they come with")
    old_row = {task: row for row, task in enumerate(weights.task_ids)}
    known = [task in old_row for task in store.task_ids]
    if weights.config.memory.kind == "table":
        rows = {_ROWS: _view_rows(_ROWS, weights, store, old_row, _task_means(weights, store, old_row))}
    else:
        old = weights.tensors[_ROWS]
        mean = old.mean(0)
        rows = {_ROWS: torch.stack([old[old_row[task]] if task in old_row else mean for task in store.task_ids])}
    if _RESIDUAL in weights.tensors:
        zeros = torch.zeros(len(store.task_ids), weights.tensors[_RESIDUAL].shape[1])
        rows[_RESIDUAL] = _view_rows(_RESIDUAL, weights, store, old_row, zeros)
    network.load_state_dict(weights.tensors | rows)
    return Transplant(sum(known), len(known) - sum(known), len(set(old_row) - set(store.task_ids)))


def _differences(weights: Weights, network: Network) -> list[str]:
    """Return the names of tensors that do not fit, and of settings that the weights rely on but no tensor shows."""
    own, given = network.state_dict(), weights.tensors
    names = sorted(own.keys() ^ given.keys())
    for name in sorted(own.keys() & given.keys()):
        compared = slice(1, None) if name in (_ROWS, _RESIDUAL) else slice(None)  # how many rows depends on the tasks
        if own[name].shape[compared] != given[name].shape[compared]:
            names.append(name)
    heads = ("heads",) if network.reasoner.config.mixing == "attention" else ()
    for name in (*heads, "positions", "canvas_side"):
        if getattr(network.reasoner.config, name) != getattr(weights.config.model, name):
            names.append(f"model.{name}")
    if network.memory.tokens != weights.config.memory.tokens:
        names.append("memory.tokens")
    return names


def _task_means(weights: Weights, store: Dataset, old_row: Mapping[str, int]) -> Tensor:
    """Return for each task of `store` the mean of its rows in the weights' table, else the mean of all rows."""
    old, starts = weights.tensors[_ROWS], weights.transform_start.tolist()
    overall = old.mean(0)
    ranges = [slice(*starts[old_row[task] : old_row[task] + 2]) if task in old_row else None for task in store.task_ids]
    return torch.stack([overall if rows is None else old[rows].mean(0) for rows in ranges])


def _view_rows(name: str, weights: Weights, store: Dataset, old_row: Mapping[str, int], otherwise: Tensor) -> Tensor:
    """Return a row for each view of `store`: from tensor `name` that of its task and transform, else `otherwise` its task's."""
    old, starts = weights.tensors[name], weights.transform_start.tolist()
    rows = otherwise.repeat_interleave(torch.from_numpy(np.diff(store.transform_start).astype(np.int64)), 0)
    for task, task_id in enumerate(store.task_ids):
        if task_id not in old_row:
            continue
        start, stop = starts[old_row[task_id] : old_row[task_id] + 2]
        place = {code: index for index, code in enumerate(weights.transforms[start:stop].tolist(), start)}
        first, last = store.transform_start[task : task + 2].tolist()
        codes = store.transforms[first:last].astype(np.int64).tolist()
        matches = [(row, place[code]) for row, code in enumerate(codes, first) if code in place]
        if matches:
            to, source = torch.tensor(matches).unbind(1)
            rows[to] = old[source]
    return rows


def network_from(weights: Weights, store: Dataset) -> tuple[Network, Transplant]:
    """Return a network with `weights`, ready for the tasks of `store`.

    Raises ValueError where they were trained on canvases of another size, or on other symbols.
    """
    model = weights.config.model
    vocabulary, side = canvas_of(store)
    if (model.vocabulary, model.canvas_side) != (vocabulary, side):
        raise ValueError(
            f"{weights.path}: weights for {model.vocabulary} tokens on a canvas of {model.canvas_side} x {model.canvas_side}, "
            f"but the dataset has {vocabulary} on {side} x {side}"
        )
    network = make_network(weights.config.model, weights.config.memory, len(store.task_ids), len(store.transforms), 0)
    return network, transplant(weights, network, store)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file and replace `path` with it when it is complete and on disk."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        save_file(dict(tensors), temporary, metadata=dict(metadata or {}))
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file. Raises ValueError naming a file that is damaged."""
    try:
        with safe_open(str(path), "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and replace `path` with it when it is complete and on disk."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in checkpoints(final.parent)[:-kept]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
