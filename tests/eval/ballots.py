"""Candidates for ballots, one by one."""

from collections.abc import Sequence

import numpy as np

from augment.grid import Grid
from augment.task import TaskId
from eval.vote import Ballot


def add(ballot: Ballot, candidates: Sequence[tuple[TaskId, int, Grid | None, float]], source: str | None = None) -> None:
    """Count (task, test input, grid, halting probability); a grid of None is a prediction that was empty."""
    ballot.add(
        [(task, test) for task, test, _, _ in candidates],
        np.array([(0, 0) if grid is None else grid.shape for _, _, grid, _ in candidates], np.int64).reshape(-1, 2),
        np.concatenate([np.zeros(0, np.uint8), *(grid.ravel() for _, _, grid, _ in candidates if grid is not None)]),
        np.array([probability for *_, probability in candidates], np.float32),
        source,
    )
