"""The published way of building a dataset and of counting votes, as their code does it: one view, one candidate at a time.

What of it is compiled there (the search for the grid on a canvas) is numpy here. Training and prediction need no code of their
own: the published way is a mode of ours, which reference vectors of the published code prove equal (tests/parity.py).
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augment.canvas import decode, encode
from augment.grid import Grid
from augment.task import Task, TestId
from augment.transform import IDENTITY, Transform

TRIALS = 5
"""So many random transforms are tried for each view that is wanted."""
CANVAS_BYTES = 900
"""A canvas in the materialised dataset, a byte a cell; each pair has two."""


def build_published(tasks: Sequence[Task], augmentations: int, seed: int, folder: Path) -> int:
    """Write every view of every pair of `tasks` to `folder` as canvases; return the number of augmented tasks.

    Random transforms are applied to the whole task and kept when the hash of the result is new.
    """
    rng = np.random.default_rng(seed)
    inputs, labels, identifiers = [], [], []
    views = 0
    for task in tasks:
        for view in distinct_views(task, augmentations, rng):
            views += 1
            blank = np.zeros((1, 1), np.uint8)  # tests have no output that may be stored
            pairs = [(pair.input, pair.output) for pair in view.train] + [(grid, blank) for grid in view.test]
            for given, wanted in pairs:
                inputs.append(encode(given).ravel())
                labels.append(encode(wanted).ravel())
                identifiers.append(views)
    for name, arrays in (("inputs", np.stack(inputs)), ("labels", np.stack(labels)), ("identifiers", np.array(identifiers))):
        np.save(folder / f"{name}.npy", arrays)
    return views


def distinct_views(task: Task, augmentations: int, rng: np.random.Generator) -> Iterator[Task]:
    """Yield `task` and up to `augmentations` different random views of it."""
    known = {_task_hash(task)}
    yield task
    for _ in range(TRIALS * augmentations):
        if len(known) > augmentations:
            return
        colors = (0, *(int(color) for color in rng.permutation(np.arange(1, 10))))
        view = Transform(int(rng.integers(8)), colors).apply_task(task)
        found = _task_hash(view)
        if found not in known:
            known.add(found)
            yield view


def _task_hash(task: Task) -> str:
    pairs = sorted(f"{_grid_hash(pair.input)}|{_grid_hash(pair.output)}" for pair in task.train)
    return hashlib.sha256("|".join([*pairs, *map(_grid_hash, task.test)]).encode()).hexdigest()


def _grid_hash(grid: Grid) -> str:
    return hashlib.sha256(bytes(grid.shape) + grid.tobytes()).hexdigest()


def vote_published(
    places: Sequence[TestId],
    transforms: Sequence[Transform],
    canvases: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.float32],
) -> dict[TestId, list[Grid]]:
    """Return the different grids of each test input, best first, from K candidates.

    `canvases` (K, 30, 30) are predicted tokens of the views, `transforms` (K) say which view each is.
    """
    grids: dict[str, Grid] = {}
    votes: dict[TestId, dict[str, list[float]]] = {}
    for place, transform, canvas, probability in zip(places, transforms, canvases, probabilities.tolist(), strict=True):
        view = decode(canvas)
        if view is None:
            continue
        grid = transform.inverse().apply(view) if transform != IDENTITY else view
        name = _grid_hash(grid)
        grids[name] = grid
        counted = votes.setdefault(place, {}).setdefault(name, [0, 0.0])
        counted[0] += 1
        counted[1] += probability
    ranked = {}
    for place, counted_grids in votes.items():
        best = sorted(counted_grids.items(), key=lambda item: (item[1][0], item[1][1] / item[1][0]), reverse=True)
        ranked[place] = [grids[name] for name, _ in best]
    return ranked
