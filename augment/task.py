"""Tasks: demonstrations and test inputs. Test outputs are kept apart, as `Solutions`, so nothing trains on them by accident."""

from collections.abc import Mapping
from dataclasses import dataclass

from augment.grid import Grid

TaskId = str


@dataclass(frozen=True, eq=False)
class Pair:
    """One input grid and its output grid."""

    input: Grid
    output: Grid


@dataclass(frozen=True, eq=False)
class Task:
    """A task without the outputs of its test inputs."""

    id: TaskId
    train: tuple[Pair, ...]
    """Demonstrations, in file order."""
    test: tuple[Grid, ...]
    """Test inputs, in file order. Empty only for sources of training pairs alone, such as Re-ARC."""


Solutions = Mapping[TaskId, tuple[Grid, ...]]
"""Test outputs by task id, in the order of `Task.test`; a task whose outputs are unknown is absent."""
