"""What a report says of each task: attempts, votes, drafts, and a verdict where the test outputs are known.

Filled by `pipeline.reports.report` from a run directory; judged here, shown by `gallery` and `summary`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from augment.canvas import Tokens
from augment.grid import Grid
from augment.task import Task

Kind = Literal["solved", "cells", "size", "unknown"]
"""Of a test input: solved, wrong in some cells only, no attempt of the right size, or its output is not known."""

DraftUnit = Literal["segment", "cycle"]
"""After what a draft was made: each segment, or each cycle of the only one."""

LEAST_AGREEMENT = 0.25
"""With a smaller share of the views for attempt 1 there is no agreement."""

NEAR_CELLS = 5
"""A task that is missed by so many cells or fewer is a near miss."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """One of the grids that were submitted for a test input."""

    grid: Grid | None
    """None where it is missing."""
    votes: int | None
    """Views that predicted it; 0 for a fallback, which was not predicted; None where that is not known."""
    probability: float | None
    """Mean halting probability of these views, 0..1."""


@dataclass(frozen=True, eq=False)
class Draft:
    """The output of one segment or cycle for the identity view."""

    tokens: Tokens
    """(H, W) canvas: 0 padding, 1 border, 2..11 colors."""
    probability: float
    """Of halting; it may not be finite."""


@dataclass(frozen=True, eq=False)
class InputEntry:
    """One test input."""

    attempts: tuple[Attempt, ...]
    views: int | None = None
    """Views that were asked; None where that is not known."""
    distinct: int | None = None
    """Different grids among their answers."""
    truth: Grid | None = None
    """The test output; None where it is not known."""
    truth_rank: int | None = None
    """Where the votes put the test output, from 1; 0 where no view predicted it; None where that is not known."""
    drafts: tuple[Draft, ...] = ()
    draft_unit: DraftUnit = "segment"

    @property
    def wrong_cells(self) -> tuple[int | None, ...]:
        """How many cells of each attempt are wrong; None where it has another size, is missing, or nothing is known."""
        return tuple(count_wrong(attempt.grid, self.truth) for attempt in self.attempts)

    @property
    def kind(self) -> Kind:
        """What became of it."""
        if self.truth is None:
            return "unknown"
        wrong = [count for count in self.wrong_cells if count is not None]
        return "size" if not wrong else "solved" if not min(wrong) else "cells"

    @property
    def solved_by(self) -> int | None:
        """The first attempt that is right, from 1; None where none is."""
        return next((number for number, wrong in enumerate(self.wrong_cells, start=1) if wrong == 0), None)

    @property
    def solved_by_alone(self) -> int | None:
        """The attempt that is right, from 1, where one is and no other; None where none is, or several."""
        right = [number for number, wrong in enumerate(self.wrong_cells, start=1) if wrong == 0]
        return right[0] if len(right) == 1 else None

    @property
    def predicted(self) -> bool:
        """Whether an attempt was predicted, as far as is known."""
        return any(attempt.votes != 0 for attempt in self.attempts)

    @property
    def agreement(self) -> float | None:
        """Share of the views that predicted attempt 1, 0..1; None where it is not known or there were no views."""
        first = self.attempts[0].votes if self.attempts else None
        return None if first is None or not self.views else first / self.views

    @property
    def margin(self) -> float | None:
        """By how much of the views attempt 1 is ahead of attempt 2, -1..1 (a ranking need not go by counts)."""
        if self.agreement is None or not self.views:
            return None
        return self.agreement - sum(attempt.votes or 0 for attempt in self.attempts[1:2]) / self.views

    @property
    def disagrees(self) -> bool:
        """Whether the views do not agree on anything: few of several for attempt 1, or each for a grid of its own."""
        share = self.agreement
        if share is None or self.views is None or self.views < 2 or not self.predicted:
            return False
        return share < LEAST_AGREEMENT or self.attempts[0].votes == 1


@dataclass(frozen=True, eq=False)
class TaskEntry:
    """One task, with an entry for each test input, in order."""

    task: Task
    tests: tuple[InputEntry, ...]

    @property
    def known(self) -> bool:
        """Whether all test outputs are known."""
        return all(test.kind != "unknown" for test in self.tests)

    @property
    def solved(self) -> int:
        """Test inputs that are solved."""
        return sum(test.kind == "solved" for test in self.tests)

    @property
    def missed_by(self) -> int | None:
        """Cells in which the task is wrong, over all test inputs, each by its better attempt.

        0 where it is solved; None where an attempt of the right size is missing, or a test output is not known.
        """
        best = [min((count for count in test.wrong_cells if count is not None), default=None) for test in self.tests]
        counts = [count for count in best if count is not None]
        return sum(counts) if len(counts) == len(best) else None

    @property
    def near(self) -> bool:
        """Whether it is missed by a few cells only."""
        return self.missed_by is not None and 0 < self.missed_by <= NEAR_CELLS

    @property
    def margin(self) -> float | None:
        """The least margin of its test inputs; None where there are no votes."""
        return min((test.margin for test in self.tests if test.margin is not None), default=None)

    @property
    def tags(self) -> tuple[str, ...]:
        """What the gallery can be filtered by."""
        solved = self.known and self.solved == len(self.tests)
        tags = {
            "solved": solved,
            "first": any(test.solved_by_alone == 1 for test in self.tests),
            "second": any(test.solved_by_alone == 2 for test in self.tests),
            "part": 0 < self.solved < len(self.tests),
            "unsolved": self.known and not solved,
            "size": any(test.kind == "size" for test in self.tests),
            "disagree": any(test.disagrees for test in self.tests),
            "fallback": any(not test.predicted for test in self.tests),
        }
        return tuple(name for name, holds in tags.items() if holds)

    def verdict(self) -> str:
        """Return in a few words what became of the task."""
        if not self.known:
            return "output not known"
        if self.solved == len(self.tests):
            by = sorted({test.solved_by or 0 for test in self.tests})
            return f"solved by attempt {' and '.join(map(str, by))}"
        part = f"{self.solved} of {len(self.tests)} solved, " if self.solved else ""
        if self.missed_by is not None:
            cells = sum(test.truth.size for test in self.tests if test.truth is not None and test.kind != "solved")
            return f"{part}missed by {self.missed_by} of {plural(cells, 'cell')}"
        return f"{part}wrong size"


def count_wrong(grid: Grid | None, truth: Grid | None) -> int | None:
    """Return how many cells of `grid` are wrong; None where its size is, or where one of the two is not there."""
    if grid is None or truth is None or grid.shape != truth.shape:
        return None
    return int(np.count_nonzero(grid != truth))


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def is_known(entries: Sequence[TaskEntry]) -> bool:
    """Return whether the outputs of any task are known."""
    return any(entry.known for entry in entries)
