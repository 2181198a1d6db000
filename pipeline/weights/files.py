"""Weights files: the tensors of a network with its config and tasks, in safetensors; and the checkpoints that hold them.

A checkpoint (pipeline.training.checkpoint) holds a weights file beside the state of training. Predictions and later trainings
read it; they find the rows of the task memory by task and transform. Those that come with the program are written by
`export_weights`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import orjson
import torch
from torch import Tensor

from augment.errors import InputError
from augment.transform import TRANSFORMS
from eval.files import parse_json
from eval.formatting import show_name, show_path, show_value
from pipeline.config import Config, override
from pipeline.data.dataset import Dataset, canvas_of
from pipeline.models.network import Network, make_network
from pipeline.tensor_files import Damaged, read_tensors, write_tensors
from pipeline.weights.find import EXPORTED, FORMAT, config_in, read_found

logger = logging.getLogger(__name__)

Memory = Literal["own", "blank", "swapped"]
_ROWS, _RESIDUAL = "memory.rows", "memory.residual.rows"
_SCALES = ".int8_scales"
"""With the name of a tensor before it: the scale of each of its rows."""


@dataclass(frozen=True)
class Weights:
    """The content of a weights file."""

    path: Path
    config: Config
    step: int
    data_hash: str
    """Of the dataset that the network was trained on."""
    task_ids: tuple[str, ...]
    """That the network was trained on, in the order of the task memory."""
    tensors: dict[str, Tensor]
    transforms: Tensor
    """(V,) int64 codes of the views that the network was trained on, task after task. Of exported weights whose memory has no
    rows of views, only the identity of each task."""
    transform_start: Tensor
    """(T + 1,) int64 ranges of `transforms` by task."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], config: Config, dataset: Dataset, step: int) -> None:
    """Write a weights file in one step. Raises OSError."""
    views = tuple(torch.from_numpy(array.astype(np.int64)) for array in (dataset.transforms, dataset.transform_start))
    _write(Weights(path, config, step, dataset.data_hash, tuple(dataset.task_ids), dict(tensors), *views), FORMAT)


def export_weights(weights: Weights, path: Path) -> None:
    """Write `weights` in a quarter of their bytes: matrices in int8 with a scale for each row. Raises OSError."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        if tensor.ndim < 2:
            tensors[name] = tensor
            continue
        rows = tensor.flatten(1)
        scales = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        tensors[name] = (rows / scales[:, None]).round().to(torch.int8).view_as(tensor)
        tensors[name + _SCALES] = scales
    _write(replace(weights, path=path, tensors=tensors), EXPORTED)


def _write(weights: Weights, form: str) -> None:
    metadata = {
        "format": form,
        "config": orjson.dumps(weights.config.to_json()).decode(),
        "step": str(weights.step),
        "data_hash": weights.data_hash,
        "task_ids": orjson.dumps(weights.task_ids).decode(),
    }
    views = {"views.transforms": weights.transforms, "views.transform_start": weights.transform_start}
    kept = views if form == FORMAT or _has_rows_of_views(weights.config) else {}
    write_tensors(weights.path, weights.tensors | kept, metadata)


def _has_rows_of_views(config: Config) -> bool:
    return config.memory.kind == "table" or config.memory.residual > 0


def load_weights(path: Path) -> Weights:
    """Read a weights file, or that of a checkpoint, or of the newest checkpoint of a `checkpoints/` or run folder.

    Raises FileNotFoundError or InputError, naming the file, where there is none or it is not ours; Damaged, an InputError,
    where it, or every checkpoint in the folder, is damaged.
    """
    return read_found(path, read_weights)


def newest_weights(folder: Path) -> Weights | None:
    """Return the weights of the newest undamaged checkpoint in `folder`, None where there is none; damaged ones stay there."""
    with suppress(FileNotFoundError, Damaged):
        return load_weights(folder)
    return None


def read_weights(path: Path) -> Weights:
    """Read a weights file. Raises FileNotFoundError, or InputError where it is not ours, Damaged where it is damaged."""
    tensors, metadata = read_tensors(path)
    config, exported = config_in(path, metadata), metadata["format"] == EXPORTED
    try:
        task_ids = parse_json(metadata["task_ids"].encode(), "task_ids")
        if not isinstance(task_ids, list) or not all(isinstance(task_id, str) for task_id in task_ids):
            raise InputError("task_ids must be a list of names")
        if exported and not _has_rows_of_views(config):
            tensors["views.transforms"] = torch.zeros(len(task_ids), dtype=torch.int64)  # the identity
            tensors["views.transform_start"] = torch.arange(len(task_ids) + 1)
        views = tensors.pop("views.transforms"), tensors.pop("views.transform_start")
        tensors = _dequantize(tensors) if exported else tensors
        weights = Weights(path, config, int(metadata["step"]), metadata["data_hash"], tuple(task_ids), tensors, *views)
        _require_views(weights)
        _require_tensors(weights)
    except KeyError as error:
        raise Damaged(f"{show_path(path)}: damaged weights file: it has no {error}") from None
    except ValueError as error:
        raise Damaged(f"{show_path(path)}: damaged weights file: {error}") from None
    return weights


def _dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` in float32, without scales. Raises InputError where scales do not fit."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(_SCALES)}
    for name in sorted(tensors.keys() - plain.keys()):
        scales, quantized = tensors[name], plain.get(name.removesuffix(_SCALES))
        if quantized is None or (quantized.dtype, scales.dtype) != (torch.int8, torch.float32):
            raise InputError(f"{show_name(name)} does not belong to a tensor of int8")
        if scales.shape != quantized.shape[:1]:
            raise InputError(f"{show_name(name)}: {tuple(scales.shape)} scales for {tuple(quantized.shape)} values")
        plain[name.removesuffix(_SCALES)] = quantized * scales.view(-1, *[1] * (quantized.ndim - 1))
    return plain


def with_settings(weights: Weights, settings: Sequence[str]) -> Config:
    """Return the config of `weights` with settings such as `train.packs=4`. Raises InputError where they change the network."""
    config = override(weights.config, settings)
    if (config.model, config.memory) != (weights.config.model, weights.config.memory):
        raise InputError(
            f"{show_path(weights.path)}: the network of these weights stays as it is, without {', '.join(settings)}"
        )
    return config


def change_memory(weights: Weights, memory: Memory) -> Weights:
    """Return `weights` with the task memory "own", "blank" (all of its rows zero) or "swapped" (of each task that of the next).

    Raises InputError where there is no other task.
    """
    if memory == "own":
        return weights
    if memory == "blank":
        rows = {name: torch.zeros_like(weights.tensors[name]) for name in (_ROWS, _RESIDUAL) if name in weights.tensors}
        return replace(weights, tensors=weights.tensors | rows)
    if len(weights.task_ids) < 2:
        raise InputError(f"{weights.path}: of one task, whose memory cannot be swapped with another one's")
    return replace(weights, task_ids=(weights.task_ids[-1], *weights.task_ids[:-1]))  # rows are found by the ids


def _require_views(weights: Weights) -> None:
    """Raise InputError unless the views are ranges of transforms, one for each of the tasks."""
    starts, transforms = weights.transform_start, weights.transforms
    tasks = len(weights.task_ids)
    if len(set(weights.task_ids)) < tasks:
        raise InputError("a task is named twice")
    if starts.dtype != torch.int64 or transforms.dtype != torch.int64 or starts.shape != (tasks + 1,) or transforms.ndim != 1:
        raise InputError(f"{tasks} tasks do not match their ranges of transforms")
    if starts[0] != 0 or starts[-1] != len(transforms) or (starts.diff() < 1).any():
        raise InputError(f"{tasks} tasks do not match their ranges of {len(transforms)} transforms")
    if ((transforms < 0) | (transforms >= TRANSFORMS)).any():
        raise InputError(f"a transform is 0..{TRANSFORMS - 1}")


def _require_tensors(weights: Weights) -> None:
    """Raise InputError unless the tensors are those of a network of the config, float32 and finite."""
    config, tensors = weights.config, weights.tensors
    if config.model.layers > len(tensors):
        raise InputError(f"{config.model.layers} layers, but {len(tensors)} tensors")
    try:
        with torch.device("meta"):  # nothing is allocated, whatever sizes the config has
            network = make_network(config.model, config.memory, len(weights.task_ids), len(weights.transforms), 0)
    except (RuntimeError, TypeError, OverflowError, MemoryError, AssertionError) as error:
        raise InputError(f"its config does not describe a network: {show_value(str(error))}") from None
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise InputError(f"{show_name(name)} is {'missing' if name in expected else 'not of its network'}")
    for name, shape in expected.items():
        found = tensors[name]
        if name in (_ROWS, _RESIDUAL) and found.ndim == len(shape) and len(found) != shape[0]:
            raise InputError(f"{len(found)} rows of task memory, expected {shape[0]} ({name})")
        if found.shape != shape or found.dtype != torch.float32:
            raise InputError(f"{name} is {tuple(found.shape)} {found.dtype}, expected {tuple(shape)} {torch.float32}")
        if found.numel() and not all(bound.isfinite() for bound in found.aminmax()):
            raise InputError(f"{name} has values that are not finite")


def transplant(weights: Weights, network: Network, dataset: Dataset) -> str:
    """Load `weights` into `network`, made for the tasks of `dataset`: trunk by name, memory rows by task id (and transform).

    Rows of new tasks are the mean of the old ones; residual rows of new views are zero. Returns in words how many tasks were
    found. Raises InputError that names what differs where the architectures do not match.
    """
    different = _differences(weights, network)
    if different:
        listed = ", ".join(different[:3])
        raise InputError(f"{weights.path}: weights of another network, {listed} differ; without a preset they bring their own")
    old_row = {task: row for row, task in enumerate(weights.task_ids)}
    known = [task in old_row for task in dataset.task_ids]
    old, starts = weights.tensors[_ROWS], weights.transform_start.tolist()
    mean, means = old.mean(0), []
    for task, is_known in zip(dataset.task_ids, known, strict=True):
        if not is_known:
            means.append(mean)
        elif weights.config.memory.kind == "table":
            means.append(old[slice(*starts[old_row[task] : old_row[task] + 2])].mean(0))
        else:
            means.append(old[old_row[task]])
    rows = {_ROWS: torch.stack(means)}
    if weights.config.memory.kind == "table":
        rows = {_ROWS: _view_rows(_ROWS, weights, dataset, old_row, rows[_ROWS])}
    if _RESIDUAL in weights.tensors:
        zeros = torch.zeros(len(dataset.task_ids), weights.tensors[_RESIDUAL].shape[1])
        rows[_RESIDUAL] = _view_rows(_RESIDUAL, weights, dataset, old_row, zeros)
    network.load_state_dict(weights.tensors | rows)
    unused = len(set(old_row) - set(dataset.task_ids))
    return f"task memory: {sum(known)} tasks by id, {len(known) - sum(known)} new from the mean, {unused} not needed"


def _differences(weights: Weights, network: Network) -> list[str]:
    """Return the names of tensors that do not fit, and of settings that differ without changing the shape of a tensor."""
    own, given = network.state_dict(), weights.tensors
    names = sorted(own.keys() ^ given.keys())
    for name in sorted(own.keys() & given.keys()):
        compared = slice(1, None) if name in (_ROWS, _RESIDUAL) else slice(None)  # the number of rows depends on the tasks
        if own[name].shape[compared] != given[name].shape[compared]:
            names.append(name)
    attention = ("heads", "attention_norm") if network.reasoner.config.mixing == "attention" else ()
    for name in ("kind", *attention, "positions", "canvas_side", "gate"):
        if getattr(network.reasoner.config, name) != getattr(weights.config.model, name):
            names.append(f"model.{name}")
    if network.memory.tokens != weights.config.memory.tokens:
        names.append("memory.tokens")
    return names


def _view_rows(name: str, weights: Weights, dataset: Dataset, old_row: Mapping[str, int], default: Tensor) -> Tensor:
    """Return a row for each view of `dataset`: that of its task and transform in tensor `name`, else that of `default`."""
    old, starts = weights.tensors[name], weights.transform_start.tolist()
    rows = default.repeat_interleave(torch.from_numpy(np.diff(dataset.transform_start).astype(np.int64)), 0)
    for task, task_id in enumerate(dataset.task_ids):
        if task_id not in old_row:
            continue
        start, stop = starts[old_row[task_id] : old_row[task_id] + 2]
        place = {code: index for index, code in enumerate(weights.transforms[start:stop].tolist(), start)}
        first, last = dataset.transform_start[task : task + 2].tolist()
        codes = dataset.transforms[first:last].astype(np.int64).tolist()
        matches = [(row, place[code]) for row, code in enumerate(codes, first) if code in place]
        if matches:
            to, source = torch.tensor(matches).unbind(1)
            rows[to] = old[source]
    return rows


def make_network_for(config: Config, dataset: Dataset) -> Network:
    """Return a fresh network of `config` for the tasks and views of `dataset`."""
    return make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), config.train.seed)


FindStart = Callable[[], Weights | None]
"""Finds the weights that a training starts from, the same in every process; None where it starts from nothing."""


def network_from(weights: Weights, dataset: Dataset) -> tuple[Network, str]:
    """Return a network with `weights` for `dataset`, and `transplant`'s words. Raises InputError where canvases differ."""
    require_canvas(weights, dataset)
    network = make_network_for(weights.config, dataset)
    return network, transplant(weights, network, dataset)


def require_canvas(weights: Weights, dataset: Dataset) -> None:
    """Raise InputError where `weights` are for another canvas or other tokens than those of `dataset`."""
    model = weights.config.model
    vocabulary, side = canvas_of(dataset)
    if (model.vocabulary, model.canvas_side) != (vocabulary, side):
        raise InputError(
            f"{weights.path}: weights for {model.vocabulary} tokens on a canvas of {model.canvas_side} x {model.canvas_side}, "
            f"but the dataset has {vocabulary} on {side} x {side}"
        )
