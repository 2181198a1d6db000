"""The dataset: every distinct grid once, pairs and tests that point to them, and a list of views for each task.

Written by `build`, read by packing, training and prediction. A folder with `store.safetensors` (the arrays) and `manifest.json`
(where they came from). Canvases are not in it: they are made when a pack is drawn. Neither are the outputs of scored tests.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from augment.grid import COLORS, MAX_SIDE, Grid
from augment.task import Pair, Task, TaskId
from augment.transform import TRANSFORMS, Codes
from eval.formatting import show_path
from pipeline.data.folder import (
    MANIFEST_FILE,
    Arrays,
    ArrayTypes,
    check_arrays,
    hash_arrays,
    read_arrays,
    read_manifest,
    require_files,
    write_folder,
)

FORMAT = "arc-trm-dataset 1"

Bytes = npt.NDArray[np.uint8]

Indices = npt.NDArray[np.int32]

Starts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Store:
    """A dataset of T tasks, G grids, P training pairs, Q tests to be predicted and V views.

    Equal `data_hash` means equal ids and arrays, whatever the manifest says.
    """

    task_ids: tuple[TaskId, ...]
    """Sorted."""
    cells: Bytes
    """(C,) colors: all distinct grids end to end, row-major."""
    grid_start: Starts
    """(G,) where each grid begins in `cells`."""
    grid_height: Bytes
    """(G,)"""
    grid_width: Bytes
    """(G,)"""
    pair_task: Indices
    """(P,) position in `task_ids`, ascending."""
    pair_input: Indices
    """(P,) grid."""
    pair_output: Indices
    """(P,) grid."""
    pair_start: Starts
    """(T + 1,) where the pairs of each task begin; the last is P."""
    pair_canvas: Bytes
    """(P, 2) height and width of the fitted canvas, in the original frame."""
    test_task: Indices
    """(Q,) position in `task_ids`, ascending."""
    test_index: Indices
    """(Q,) position among the tests of the task, in the order of its source."""
    test_input: Indices
    """(Q,) grid."""
    test_canvas: Bytes
    """(Q, 2) height and width of the fitted canvas, in the original frame."""
    transforms: Codes
    """(V,) integer codes (`augment.transform`) of the views, task after task; the first of each task is 0, the identity."""
    transform_start: Starts
    """(T + 1,) where the views of each task begin; the last is V."""
    manifest: Mapping[str, Any]
    """What the dataset was built from and how: plain JSON values, see `build`. The file has task ids and data hash too."""

    def grid(self, index: int) -> Grid:
        """Return grid `index`, (H, W) uint8, as a view of `cells`."""
        start, height, width = int(self.grid_start[index]), int(self.grid_height[index]), int(self.grid_width[index])
        return self.cells[start : start + height * width].reshape(height, width)

    def task(self, number: int) -> Task:
        """Return task `number`: its training pairs as demonstrations and its tests to be predicted, as views of `cells`."""
        pairs = range(int(self.pair_start[number]), int(self.pair_start[number + 1]))
        train = tuple(Pair(self.grid(self.pair_input[i]), self.grid(self.pair_output[i])) for i in pairs)
        first, last = np.searchsorted(self.test_task, (number, number + 1)).tolist()
        return Task(self.task_ids[number], train, tuple(map(self.grid, self.test_input[first:last])))

    def tasks_to_solve(self) -> list[Task]:
        """Return the tasks that have tests, by id: their training pairs as demonstrations, and their test inputs."""
        return [self.task(number) for number in np.unique(self.test_task).tolist()]

    @cached_property
    def tests_hash(self) -> str:
        """The SHA-256, in hex, of the tests to be predicted: ids, order and inputs, whatever is trained on."""
        digest = hashlib.sha256()
        for task in self.tasks_to_solve():
            digest.update(orjson.dumps([task.id, *(grid.tolist() for grid in task.test)]))
        return digest.hexdigest()

    @cached_property
    def data_hash(self) -> str:
        """The SHA-256, in hex, of task ids and arrays."""
        return hash_arrays(orjson.dumps(self.task_ids), self.arrays())

    def arrays(self) -> Arrays:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def save(self, folder: Path) -> None:
        """Write the dataset into `folder`, which is made if need be. The same dataset gives the same bytes.

        Each file is replaced at once and the manifest last, so that a dataset that was cut short does not load.
        """
        manifest = {**self.manifest, "format": FORMAT, "task_ids": list(self.task_ids), "data_hash": self.data_hash}
        write_folder(folder, self.arrays(), manifest)

    @staticmethod
    def load(folder: Path) -> "Store":
        """Read a dataset that `save` wrote.

        Raises FileNotFoundError where a file is missing, and ValueError, of one line that names the file, where the dataset is
        truncated, changed since it was written, inconsistent or not one of ours.
        """
        require_files(folder)
        manifest = _read_manifest(folder)
        task_ids, data_hash = tuple(manifest.pop("task_ids")), manifest.pop("data_hash")
        store = Store(task_ids, **read_arrays(folder, _TYPES), manifest=manifest)
        check_arrays(folder, _faults(store), lambda: store.data_hash, data_hash)
        return store


_ARRAYS = tuple(field.name for field in fields(Store) if field.name not in ("task_ids", "manifest"))

_TYPES: ArrayTypes = {
    **dict.fromkeys(("cells", "grid_height", "grid_width"), (np.dtype(np.uint8), 1)),
    **dict.fromkeys(("pair_canvas", "test_canvas"), (np.dtype(np.uint8), 2)),
    **dict.fromkeys(
        ("pair_task", "pair_input", "pair_output", "test_task", "test_index", "test_input"), (np.dtype(np.int32), 1)
    ),
    **dict.fromkeys(("grid_start", "pair_start", "transform_start"), (np.dtype(np.int64), 1)),
    "transforms": (np.dtype(np.uint32), 1),
}


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder, (FORMAT,))
    ids = manifest.get("task_ids")
    if not isinstance(ids, list) or not all(isinstance(task_id, str) for task_id in ids) or "data_hash" not in manifest:
        raise ValueError(f"{show_path(folder / MANIFEST_FILE)}: has no task ids or no data hash")
    del manifest["format"]
    return manifest


def _faults(store: Store) -> Iterator[str]:
    """Yield what is wrong with the arrays; each check relies on those before it, so the first fault is the one to tell."""
    tasks, grids, pairs, tests = len(store.task_ids), len(store.grid_start), len(store.pair_task), len(store.test_task)
    shapes = {
        **dict.fromkeys(("grid_height", "grid_width"), (grids,)),
        **dict.fromkeys(("pair_input", "pair_output"), (pairs,)),
        **dict.fromkeys(("test_index", "test_input"), (tests,)),
        **dict.fromkeys(("pair_start", "transform_start"), (tasks + 1,)),
        "pair_canvas": (pairs, 2),
        "test_canvas": (tests, 2),
    }
    for name, shape in shapes.items():
        if getattr(store, name).shape != shape:
            yield f"{name} must have the shape {shape}, got {getattr(store, name).shape}"
    ranges = {
        "cells": (0, COLORS - 1),
        **dict.fromkeys(("grid_height", "grid_width", "pair_canvas", "test_canvas"), (1, MAX_SIDE)),
        **dict.fromkeys(("pair_task", "test_task"), (0, tasks - 1)),
        **dict.fromkeys(("pair_input", "pair_output", "test_input"), (0, grids - 1)),
        "transforms": (0, TRANSFORMS - 1),
    }
    for name, (least, greatest) in ranges.items():
        array = getattr(store, name)
        if array.size and not least <= int(array.min()) <= int(array.max()) <= greatest:
            yield f"{name} must be {least}..{greatest}, got {int(array.min())}..{int(array.max())}"
    yield from _contradictions(store)


def _contradictions(store: Store) -> Iterator[str]:
    """Yield how ids, grids, ranges and canvases contradict each other; shapes and indices are right already."""
    if list(store.task_ids) != sorted(set(store.task_ids)):
        yield "task ids must be sorted and distinct"
    areas = store.grid_height.astype(np.int64) * store.grid_width
    if not np.array_equal(np.append(store.grid_start, len(store.cells)), np.cumsum([0, *areas])):
        yield "grids must lie end to end in cells"
    counts = np.bincount(store.pair_task, minlength=len(store.task_ids))
    if not np.array_equal(store.pair_start, np.cumsum([0, *counts])) or np.any(np.diff(store.pair_task) < 0):
        yield "pair_start must be the ranges of pair_task, ascending"
    if np.any(np.diff(store.test_task) < 0):
        yield "test_task must be ascending"
    starts = store.transform_start
    if starts[0] != 0 or np.any(np.diff(starts) < 1) or starts[-1] != len(store.transforms):
        yield "transform_start must give each task a range of transforms"
    if np.any(store.transforms[starts[:-1]]):
        yield "the first transform of each task must be the identity, 0"
    sizes = np.stack([store.grid_height, store.grid_width], axis=1)  # (G, 2)
    for grid in (store.pair_input, store.pair_output):
        if np.any(store.pair_canvas < sizes[grid]):
            yield "pair_canvas must hold both grids of each pair"
    if np.any(store.test_canvas < sizes[store.test_input]):
        yield "test_canvas must hold the test input"
