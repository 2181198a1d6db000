"""Weights files: what predictions use, safetensors without pickle, everything by name.

Written beside what training needs to go on (pipeline.training.checkpoint), read by prediction and by later trainings: rows of
the task memory are found again by task and transform.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import orjson
import torch
from torch import Tensor

from augment.task import TaskId
from augment.transform import TRANSFORMS, Codes
from eval.files import parse_json
from eval.formatting import show_name, show_path, show_value
from pipeline.config import Config
from pipeline.data.dataset import Dataset, canvas_of
from pipeline.models.network import Network, make_network
from pipeline.tensor_files import Damaged, read_tensors, write_tensors

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"

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


FORMAT = "arc-trm-weights 1"

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
    """Read a weights file, or that of a checkpoint, or of the newest checkpoint of a `checkpoints/` or run folder.

    Of several checkpoints, damaged ones are passed over, with a line in the log. Raises FileNotFoundError or ValueError, naming
    the file, when there is none or it is not ours; Damaged, a ValueError, when it is damaged.
    """
    if path.is_dir() and not (path / WEIGHTS).is_file():
        for folder in (path, path / "checkpoints"):
            if checkpoints(folder):
                weights = newest_weights(folder)
                if weights is None:
                    raise Damaged(f"{folder}: every checkpoint in it is damaged")
                return weights
    return read_weights(find_weights(path))


def newest_weights(folder: Path) -> Weights | None:
    """Return the weights of the undamaged checkpoint with most steps in `folder`, None where there is none.

    A line in the log names each that is passed over. It stays where it is: somebody may be training there.
    """
    passed_over: set[Path] = set()
    while left := [checkpoint for checkpoint in checkpoints(folder) if checkpoint not in passed_over]:
        newest = left[-1]
        try:
            return read_weights(newest / WEIGHTS)
        except (Damaged, FileNotFoundError) as error:
            passed_over.add(newest)
            logger.warning("%s; this checkpoint is passed over", error)
    return None


def read_weights(path: Path) -> Weights:
    """Read a weights file. Raises FileNotFoundError, or ValueError where it is not ours, Damaged where it is damaged."""
    tensors, metadata = read_tensors(path)
    found = metadata.get("format")
    if found != FORMAT:
        raise ValueError(f"{show_path(path)}: not a weights file of this program (format {show_value(found)}, not {FORMAT!r})")
    try:
        config = Config.from_json(parse_json(metadata["config"].encode(), "config"))
        task_ids = parse_json(metadata["task_ids"].encode(), "task_ids")
        if not isinstance(task_ids, list) or not all(isinstance(task_id, str) for task_id in task_ids):
            raise ValueError("task_ids must be a list of names")
        views = tensors.pop("views.transforms"), tensors.pop("views.transform_start")
        weights = Weights(path, config, int(metadata["step"]), metadata["data_hash"], tuple(task_ids), tensors, *views)
        _require_views(weights)
        _require_tensors(weights)
    except KeyError as error:
        raise Damaged(f"{show_path(path)}: damaged weights file: it has no {error}") from None
    except ValueError as error:
        raise Damaged(f"{show_path(path)}: damaged weights file: {error}") from None
    return weights


def _require_views(weights: Weights) -> None:
    """Raise ValueError unless the views are ranges of transforms, one for each of the tasks."""
    starts, transforms = weights.transform_start, weights.transforms
    tasks = len(weights.task_ids)
    if len(set(weights.task_ids)) < tasks:
        raise ValueError("a task is named twice")
    if starts.dtype != torch.int64 or transforms.dtype != torch.int64 or starts.shape != (tasks + 1,) or transforms.ndim != 1:
        raise ValueError(f"{tasks} tasks do not match their ranges of transforms")
    if starts[0] != 0 or starts[-1] != len(transforms) or (starts.diff() < 1).any():
        raise ValueError(f"{tasks} tasks do not match their ranges of {len(transforms)} transforms")
    if ((transforms < 0) | (transforms >= TRANSFORMS)).any():
        raise ValueError(f"a transform is 0..{TRANSFORMS - 1}")


def _require_tensors(weights: Weights) -> None:
    """Raise ValueError unless the tensors are those that the config calls for, float32 and finite."""
    config, tensors = weights.config, weights.tensors
    if config.model.layers > len(tensors):
        raise ValueError(f"{config.model.layers} layers, but {len(tensors)} tensors")
    try:
        with torch.device("meta"):  # nothing is allocated, whatever sizes the config has
            network = make_network(config.model, config.memory, len(weights.task_ids), len(weights.transforms), 0)
    except (RuntimeError, TypeError, OverflowError, MemoryError, AssertionError) as error:
        raise ValueError(f"no network can be made of its config: {show_value(str(error))}") from None
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"{show_name(name)} is {'missing' if name in expected else 'not of its network'}")
    for name, shape in expected.items():
        found = tensors[name]
        if name in (_ROWS, _RESIDUAL) and found.ndim == len(shape) and len(found) != shape[0]:
            raise ValueError(f"{len(found)} rows of task memory, expected {shape[0]} ({name})")
        if found.shape != shape or found.dtype != torch.float32:
            raise ValueError(f"{name} is {tuple(found.shape)} {found.dtype}, expected {tuple(shape)} {torch.float32}")
        if found.numel() and not all(bound.isfinite() for bound in found.aminmax()):
            raise ValueError(f"{name} has values that are not finite")


def find_weights(path: Path) -> Path:
    """Return the weights file that `path` stands for: itself, or the newest of a run or checkpoint folder."""
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such weights file or folder")
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    for folder in (path, path / "checkpoints"):
        newest = newest_checkpoint(folder)
        if newest:
            return newest / WEIGHTS
    raise FileNotFoundError(f"{path}: no {WEIGHTS} and no checkpoint in this folder")


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
