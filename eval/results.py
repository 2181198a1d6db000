"""Results of test inputs and tasks, for `show` and the report: attempts with their votes and errors, and drafts."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from augment.canvas import Tokens
from augment.grid import Grid
from augment.task import Task
from augment.transform import Transform
from eval.explain import explain, wrong_cells
from eval.formatting import plural

DraftUnit = Literal["segment", "cycle"]
"""Drafts are made after each segment, or after each cycle of a single segment."""
NEAR_CELLS = 5
"""A task with at most this many wrong cells is a near miss."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """One of the grids that were submitted for a test input."""

    grid: Grid | None
    """None where it is missing."""
    votes: int | None = None
    """Views that predicted it; 0 for a fallback, which was not predicted; None where that is not known."""
    probability: float | None = None
    """Mean halting probability of these views, 0..1."""


@dataclass(frozen=True, eq=False)
class Draft:
    """The output of the network after one segment or cycle, for the identity view."""

    tokens: Tokens
    """(H, W) canvas: 0 padding, 1 border, 2..11 colors."""
    probability: float
    """Of halting; it may not be finite."""


@dataclass(frozen=True, eq=False)
class TestResult:
    """One test input with what was submitted for it."""

    __test__ = False  # for pytest, which collects classes by name
    attempts: tuple[Attempt, ...] = ()
    views: int | None = None
    """Views that were predicted; None where that is not known."""
    distinct: int | None = None
    truth: Grid | None = None
    truth_rank: int | None = None
    """Rank of the test output in the votes, from 1; 0 where no view predicted it; None where that is not known."""
    drafts: tuple[Draft, ...] = ()
    draft_unit: DraftUnit = "segment"
    truth_votes: int | None = None
    """Views that predicted the test output; None where that is not known."""

    @property
    def wrong_cells(self) -> tuple[int | None, ...]:
        """How many cells of each attempt are wrong; None where it has another size, is missing, or nothing is known."""
        return tuple(count_wrong(attempt.grid, self.truth) for attempt in self.attempts)

    @property
    def missed_by(self) -> int | None:
        """Wrong cells of the closest attempt; None where no attempt has the right size, or the output is not known."""
        return min((count for count in self.wrong_cells if count is not None), default=None)

    @property
    def wrong_size(self) -> bool:
        """Whether the output is known and there are attempts, but none of its size."""
        return self.truth is not None and self.missed_by is None and any(a.grid is not None for a in self.attempts)

    @property
    def solved(self) -> bool:
        """Whether the output is known and an attempt equals it."""
        return self.missed_by == 0

    @property
    def right(self) -> tuple[int, ...]:
        """The attempts that are right, from 1."""
        return tuple(number for number, wrong in enumerate(self.wrong_cells, start=1) if wrong == 0)

    @property
    def predicted(self) -> bool:
        """Whether an attempt was predicted; True where that is not known."""
        return any(attempt.votes != 0 for attempt in self.attempts)

    @property
    def agreement(self) -> float | None:
        """Share of the views that predicted attempt 1, 0..1; None where it is not known or there were no views."""
        first = self.attempts[0].votes if self.attempts else None
        return None if first is None or not self.views else first / self.views

    @property
    def margin(self) -> float | None:
        """Lead of attempt 1 over attempt 2 as a share of the views, -1..1; judges may make it negative."""
        if self.agreement is None or not self.views:
            return None
        return self.agreement - sum(attempt.votes or 0 for attempt in self.attempts[1:2]) / self.views

    @property
    def disagrees(self) -> bool:
        """Whether the views disagree: under a quarter of several predicted attempt 1, or only one did."""
        share = self.agreement
        if share is None or self.views is None or self.views < 2 or not self.predicted:
            return False
        return share < 0.25 or self.attempts[0].votes == 1

    def seen_through(self, transform: Transform) -> "TestResult":
        """Return the result in the frame of a view, without drafts."""
        attempts = tuple(replace(a, grid=None if a.grid is None else transform.apply(a.grid)) for a in self.attempts)
        return replace(self, attempts=attempts, truth=None if self.truth is None else transform.apply(self.truth), drafts=())

    def summary(self) -> str:
        """Return in one line which attempt is right, or why the closest one is not."""
        if self.truth is None:
            return "the truth is not known"
        if self.right:
            return f"right by attempt {self.right[0]}"
        if not self.attempts:
            return "there is no attempt"
        distances = [math.inf if wrong is None else wrong for wrong in self.wrong_cells]
        closest = distances.index(min(distances))
        return f"attempt {closest + 1}: {explain(self.attempts[closest].grid, self.truth)}"

    def reasons(self) -> list[str]:
        """Return a line for each attempt, and one for the votes of the truth where it is known and no attempt equals it."""
        lines = []
        for number, attempt in enumerate(self.attempts, start=1):
            votes = self.votes_of(attempt)
            line = f"attempt {number}" + (f" ({votes})" if votes else "")
            lines.append(line if self.truth is None else f"{line}: {explain(attempt.grid, self.truth)}")
        if self.truth is not None and self.views and not self.solved:
            lines.append(
                f"the truth got {self.truth_votes} of {self.views} votes, place {self.truth_rank}"
                if self.truth_rank
                else f"none of the {self.views} views gave the truth"
            )
        return lines

    def votes_of(self, attempt: Attempt) -> str:
        """Return in words how many views voted for `attempt`; an empty text where that is not known."""
        if attempt.votes is None:
            return ""
        return f"{attempt.votes} of {self.views} votes" if attempt.votes else "a fallback, no votes"


@dataclass(frozen=True, eq=False)
class TaskResult:
    """One task with the result of each test input, in order."""

    task: Task
    tests: tuple[TestResult, ...]

    @property
    def known(self) -> bool:
        """Whether all test outputs are known."""
        return all(test.truth is not None for test in self.tests)

    @property
    def solved(self) -> int:
        """Number of test inputs that are solved."""
        return sum(test.solved for test in self.tests)

    @property
    def missed_by(self) -> int | None:
        """Wrong cells, each test by its closest attempt; None where one has no attempt of the right size or no truth."""
        counts = [test.missed_by for test in self.tests if test.missed_by is not None]
        return sum(counts) if len(counts) == len(self.tests) else None

    @property
    def near(self) -> bool:
        """Whether only a few cells are wrong."""
        return self.missed_by is not None and 0 < self.missed_by <= NEAR_CELLS

    @property
    def margin(self) -> float | None:
        """The least margin of its test inputs; None where there are no votes."""
        return min((test.margin for test in self.tests if test.margin is not None), default=None)

    @property
    def tags(self) -> tuple[str, ...]:
        """The filters of the gallery that show the task."""
        solved = self.known and self.solved == len(self.tests)
        tags = {
            "solved": solved,
            "first": any(test.right == (1,) for test in self.tests),
            "second": any(test.right == (2,) for test in self.tests),
            "part": 0 < self.solved < len(self.tests),
            "unsolved": self.known and not solved,
            "size": any(test.wrong_size for test in self.tests),
            "disagree": any(test.disagrees for test in self.tests),
            "fallback": any(not test.predicted for test in self.tests),
        }
        return tuple(name for name, holds in tags.items() if holds)

    def summary(self) -> str:
        """Return in a few words whether the task is solved, and by how much it is missed."""
        if not self.known:
            return "output not known"
        if self.solved == len(self.tests):
            by = sorted({test.right[0] for test in self.tests})
            return f"solved by attempt {' and '.join(map(str, by))}"
        part = f"{self.solved} of {len(self.tests)} solved, " if self.solved else ""
        if self.missed_by is None:
            return f"{part}wrong size" if any(test.wrong_size for test in self.tests) else f"{part}no attempt"
        cells = sum(test.truth.size for test in self.tests if test.truth is not None and not test.solved)
        return f"{part}missed by {self.missed_by} of {plural(cells, 'cell')}"


def count_wrong(grid: Grid | None, truth: Grid | None) -> int | None:
    """Return how many cells of `grid` are wrong; None where its size is wrong, or one of the two is missing."""
    wrong = None if truth is None else wrong_cells(grid, truth)
    return None if wrong is None else int(wrong.sum())
