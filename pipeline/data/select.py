"""Choosing the tasks of a source, and their tests, by what a solver may see of them; finding one by its id."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from augment.task import Task, TaskId
from pipeline.data.sources import Source, load_source

PUBLIC_SOURCES = ("arc1:training", "arc1:evaluation", "arc2:training", "arc2:evaluation")
"""Where a task is looked for when no source is named."""


@dataclass(frozen=True)
class Selection:
    """Which tasks to solve, and which of their pairs."""

    max_side: int | None = None
    """Keep tasks whose demonstrations and test inputs have no side over this; test outputs are not looked at."""
    hold_out: bool = False
    """Make the last demonstration of each task its test, and leave its own tests out, to choose settings without them."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max-side must be at least 1, got {self.max_side}")

    def apply(self, source: Source) -> Source:
        """Return `source` with the selected tasks and their tests."""
        if self.max_side is not None:
            source = select_small(source, self.max_side)
        return hold_out(source) if self.hold_out else source


def select_small(source: Source, max_side: int) -> Source:
    """Return `source` with only the tasks whose demonstrations and test inputs have no side over `max_side`."""
    tasks = tuple(
        task
        for task in source.tasks
        if max(max(grid.shape) for grid in (*task.test, *(g for p in task.train for g in (p.input, p.output)))) <= max_side
    )
    kept = {task.id for task in tasks}
    solutions = {task_id: outputs for task_id, outputs in source.solutions.items() if task_id in kept}
    return replace(source, tasks=tasks, solutions=solutions)


def hold_out(source: Source) -> Source:
    """Return `source` with the last demonstration of each task as its only test.

    Tasks with fewer than three demonstrations are left out.
    """
    held = [task for task in source.tasks if len(task.train) >= 3]
    tasks = tuple(replace(task, train=task.train[:-1], test=(task.train[-1].input,)) for task in held)
    return replace(source, tasks=tasks, solutions={task.id: (task.train[-1].output,) for task in held})


def find_task(task_id: TaskId, specs: Sequence[str]) -> tuple[Task, Source]:
    """Return a task and the source that it is in: the first of `specs`, or of the public ones where none are named.

    Raises ValueError where none has it.
    """
    for spec in specs or PUBLIC_SOURCES:
        source = load_source(spec)
        for task in source.tasks:
            if task.id == task_id:
                return task, source
    places = " + ".join(specs or PUBLIC_SOURCES)
    raise ValueError(f"no task {task_id!r} in {places}" + ("" if specs else "; --source names another place"))
