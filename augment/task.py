"""Tasks: demonstrations and test inputs. Test outputs are a separate type, `Solutions`, so that nothing trains on them."""

from collections.abc import Mapping
from dataclasses import dataclass

from augment.grid import Grid, grid_key

TaskId = str
TestId = tuple[TaskId, int]
"""A test input and its output: the task, and their number there, from 0."""


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
    """Test inputs, in file order. Empty only for sources that have nothing but training pairs, such as Re-ARC."""


def same_tests(first: Task, second: Task) -> bool:
    """Return whether two tasks have the same test inputs, in the same order."""
    return [*map(grid_key, first.test)] == [*map(grid_key, second.test)]


Solutions = Mapping[TaskId, tuple[Grid, ...]]
"""Test outputs by task id, in the order of `Task.test`; a task whose outputs are unknown is absent."""
