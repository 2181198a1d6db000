"""What became of one test input: its attempts, their votes, the truth where it is known, and why it was missed.

Takes what a run or a submission says about a task, gives the words and the panels that `show` draws.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from augment.grid import Grid
from augment.transform import Transform
from eval.explain import explain, wrong_cells


@dataclass(frozen=True, eq=False)
class Attempt:
    """One of the grids submitted for a test input."""

    grid: Grid | None
    """None where it is missing."""
    votes: int | None = None
    """Views that predicted it; 0 for a fallback, None where that is not known."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """A test input with what was submitted for it."""

    attempts: tuple[Attempt, ...] = ()
    truth: Grid | None = None
    """None where it is not known."""
    views: int | None = None
    """Views that were asked; None where that is not known."""
    truth_votes: int | None = None
    truth_place: int | None = None
    """The place of the truth among all candidates, from 1; None where none of them is right, or that is not known."""

    @property
    def solved(self) -> bool:
        """Whether the truth is known and an attempt equals it."""
        return self.truth is not None and any(_is(attempt.grid, self.truth) for attempt in self.attempts)

    @property
    def cells_off(self) -> float:
        """Wrong cells of the closest attempt; infinite where none has the size of the truth, or that is not known."""
        if self.truth is None:
            return math.inf
        masks = [wrong_cells(attempt.grid, self.truth) for attempt in self.attempts]
        return min((float(mask.sum()) for mask in masks if mask is not None), default=math.inf)

    def seen_through(self, transform: Transform) -> "Verdict":
        """Return the same in the frame of a view."""
        attempts = tuple(replace(a, grid=None if a.grid is None else transform.apply(a.grid)) for a in self.attempts)
        return replace(self, attempts=attempts, truth=None if self.truth is None else transform.apply(self.truth))

    def summary(self) -> str:
        """Return in one line what became of it: right, or why the closest attempt is not."""
        if self.truth is None:
            return "the truth is not known"
        for number, attempt in enumerate(self.attempts, start=1):
            if _is(attempt.grid, self.truth):
                return f"right by attempt {number}"
        truth = self.truth
        if not self.attempts:
            return "there is no attempt"

        def distance(attempt: Attempt) -> float:
            return Verdict((attempt,), truth).cells_off

        closest = min(range(len(self.attempts)), key=lambda i: distance(self.attempts[i]))
        return f"attempt {closest + 1}: {explain(self.attempts[closest].grid, truth)}"

    def reasons(self) -> list[str]:
        """Return a line for each attempt, and where the truth is known and was not chosen, one for how near it came."""
        lines = []
        for number, attempt in enumerate(self.attempts, start=1):
            words = f"attempt {number}" + (f" ({self.votes_of(attempt)})" if attempt.votes is not None else "")
            if self.truth is not None:
                words += f": {explain(attempt.grid, self.truth)}"
            lines.append(words)
        if self.truth is not None and self.views and not self.solved:
            lines.append(
                f"the truth got {self.truth_votes} of {self.views} votes, place {self.truth_place}"
                if self.truth_place
                else f"none of the {self.views} views gave the truth"
            )
        return lines

    def votes_of(self, attempt: Attempt) -> str:
        """Return in words how many views voted for `attempt`; nothing where that is not known."""
        if attempt.votes is None:
            return ""
        return f"{attempt.votes} of {self.views} votes" if attempt.votes else "a fallback, no votes"


def _is(grid: Grid | None, truth: Grid) -> bool:
    return grid is not None and np.array_equal(grid, truth)
