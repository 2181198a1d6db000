"""Selection looks at what a solver may see, and holds out the last demonstration."""

import numpy as np
import pytest

from augment.grid import Grid
from augment.task import Pair, Task
from pipeline.data.sources import Selection, Source, hold_out


def grid(height: int, width: int, color: int = 1) -> Grid:
    return np.full((height, width), color, np.uint8)


def make_source(*tasks: Task, solutions: dict[str, tuple[Grid, ...]] | None = None) -> Source:
    return Source("made", tasks, solutions or {})


def make_task(task_id: str, sizes: list[tuple[int, int]], tests: list[tuple[int, int]]) -> Task:
    pairs = tuple(Pair(grid(*size, 2), grid(*size, color)) for color, size in enumerate(sizes))
    return Task(task_id, pairs, tuple(grid(*size) for size in tests))


SMALL = make_task("small", [(4, 4), (1, 3), (2, 2)], [(4, 1), (1, 4)])


@pytest.mark.parametrize("part", ["input", "output", "test"])
@pytest.mark.parametrize("size", [(5, 1), (1, 5)])
def test_a_side_over_the_limit_anywhere_that_is_seen_leaves_a_task_out(part: str, size: tuple[int, int]) -> None:
    large = grid(*size)
    given, wanted = (large if part == name else grid(2, 2) for name in ("input", "output"))
    task = Task("large", (Pair(grid(1, 1), grid(1, 1)), Pair(given, wanted)), (large if part == "test" else grid(2, 2),))
    source = make_source(SMALL, task, solutions={"small": (grid(1, 1), grid(1, 1)), "large": (grid(1, 1),)})
    selected = Selection(max_side=4).apply(source)
    assert [task.id for task in selected.tasks] == ["small"]
    assert list(selected.solutions) == ["small"]
    assert [task.id for task in Selection(max_side=5).apply(source).tasks] == ["small", "large"]


def test_test_outputs_are_not_looked_at() -> None:
    source = make_source(SMALL, solutions={"small": (grid(30, 30), grid(9, 9))})
    assert Selection(max_side=4).apply(source).tasks == (SMALL,)


def test_the_last_of_three_demonstrations_becomes_the_only_test() -> None:
    two, one = make_task("two", [(1, 1), (2, 2)], [(1, 1)]), (grid(1, 1),)
    held = hold_out(make_source(two, SMALL, solutions={"two": one, "small": one * 2}))
    (task,) = held.tasks
    assert list(held.solutions) == [task.id] == ["small"]
    assert task.train == SMALL.train[:2]
    assert [id(test) for test in task.test] == [id(SMALL.train[2].input)]
    assert [id(output) for output in held.solutions["small"]] == [id(SMALL.train[2].output)]
    assert SMALL.train[2].output.max() == 2


def test_a_selection_limits_sides_by_what_is_seen_before_it_holds_out() -> None:
    wide_test = make_task("wide", [(2, 2)] * 3, [(9, 9)])
    source = make_source(SMALL, wide_test)
    assert [task.id for task in Selection(hold_out=True).apply(source).tasks] == ["small", "wide"]
    assert [task.id for task in Selection(max_side=4, hold_out=True).apply(source).tasks] == ["small"]
    assert Selection().apply(source) is source
