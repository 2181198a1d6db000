"""Voting: counts the candidates of each test input and ranks the different grids, each of which is held once.

The rule is that of TRM (arXiv 2510.04871): most candidates first, then the largest mean halting probability.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augment.grid import Grid, grid_key
from augment.task import Task, TaskId, TestId
from eval.provenance import Judging

_UNIT = 1 << 40
# Probabilities are summed in whole units of 2**-40. Unlike sums of floats these are exact, so the ranking does not depend on
# the order in which candidates arrive or ballots are pooled.

Judged = tuple[Sequence[Grid], npt.NDArray[np.float64]]
"""Grids, and the log-likelihood of each (N,): -inf where a judge holds it for impossible."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A grid in the original frame with the votes it got for one test input."""

    grid: Grid
    count: int
    """Views that predicted exactly this grid, at least 1."""
    mean_probability: float
    """Mean of their halting probabilities, 0..1."""


@dataclass(frozen=True)
class Tally:
    """How many candidates one test input got."""

    candidates: int
    """All candidates, empty ones included: the number of views."""
    distinct: int
    empty: int
    """Candidates that held no grid; they are never ranked."""


_EMPTY = b"\0\0"
# Key of a prediction that holds no grid, as `grid_key` has it for a grid of 0 x 0.


class Ballot:
    """Votes for any number of test inputs, of one source (a run, a checkpoint) or pooled from several."""

    judging: Judging | None = None
    """How other networks have judged the candidates."""

    def __init__(self, *sources: str) -> None:
        self.sources = sources
        """The different sources whose candidates were counted, in order; one for a single checkpoint."""
        self._tests: dict[TestId, dict[bytes, list[int]]] = {}
        # Of each test input: grid key -> [count, sum of probabilities in units of 2**-40].

    def add(
        self,
        places: Sequence[TestId],
        shapes: npt.NDArray[np.integer],
        cells: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.floating],
        source: str | None = None,
    ) -> None:
        """Count K candidates of any test inputs and sizes; `source` names where they come from if `sources` may lack it.

        `places` (K) are their tasks and test inputs, `shapes` (K, 2) heights and widths (0, 0 where a prediction was empty),
        `cells` all grids in the original frame, row by row and end to end, `probabilities` (K,) floats 0..1. They are trusted:
        `pipeline.inference.candidates` checks what it reads.
        """
        if source is not None and source not in self.sources:
            self.sources += (source,)
        units = np.rint(probabilities.astype(np.float64) * _UNIT).astype(np.int64).tolist()
        areas = shapes.astype(np.int64).prod(axis=1).tolist()
        heads, data = shapes.astype(np.uint8).tobytes(), cells.tobytes()
        start = 0
        for number, (place, area, unit) in enumerate(zip(places, areas, units, strict=True)):
            key = heads[2 * number : 2 * number + 2] + data[start : start + area]  # as `grid_key`
            entry = self._tests.setdefault(place, {}).setdefault(key, [0, 0])
            entry[0] += 1
            entry[1] += unit
            start += area

    def top(self, task_id: TaskId, test_index: int, k: int | None) -> tuple[Candidate, ...]:
        """Return the k best candidates (None: all) of a test input, best first. Ties go to the smaller grid key."""
        votes = self._tests.get((task_id, test_index), {})
        ranked = sorted((key, count, total / _UNIT) for key, (count, total) in votes.items() if key != _EMPTY)
        ranked.sort(key=lambda each: (each[1], each[2] / each[1]), reverse=True)  # stable: ties stay sorted
        return tuple(
            Candidate(np.frombuffer(key, np.uint8, offset=2).reshape(key[0], key[1]).copy(), count, total / count)
            for key, count, total in ranked[:k]
        )

    def rank(self, task_id: TaskId, test_index: int, grid: Grid) -> int:
        """Return the rank of `grid` among all candidates of a test input, as `top` has it, from 1; 0 where it is none."""
        ranked = enumerate(self.top(task_id, test_index, None), start=1)
        return next((place for place, candidate in ranked if np.array_equal(candidate.grid, grid)), 0)

    def attempts(self, task_id: TaskId, test_index: int) -> tuple[Grid, ...]:
        """Return the up to 2 best grids of a test input, (H, W) uint8 in the original frame, different and never empty."""
        return tuple(candidate.grid for candidate in self.top(task_id, test_index, 2))

    def predictions(self, tasks: Iterable[Task]) -> dict[TaskId, list[tuple[Grid, ...]]]:
        """Return the attempts for every test input of `tasks`, in order; a test input without candidates gets ()."""
        return {task.id: [self.attempts(task.id, i) for i in range(len(task.test))] for task in tasks}

    def tally(self, task_id: TaskId, test_index: int) -> Tally:
        """Return how many candidates a test input got; all zero when it got none."""
        votes = self._tests.get((task_id, test_index), {})
        empty = votes.get(_EMPTY, [0])[0]
        return Tally(sum(count for count, _ in votes.values()), len(votes.keys() - {_EMPTY}), empty)


class JudgedBallot(Ballot):
    """A ballot whose best candidates other networks have judged: a candidate ranks by its votes and by its judges.

    Its score is (1 - weight) x its share of the votes + weight x its share among the judged, the softmax of log-likelihoods.
    """

    def __init__(self, ballot: Ballot, judging: Judging, judged: Mapping[TestId, Judged]) -> None:
        """Judge `ballot`; a test input that is not in `judged` ranks by votes alone."""
        super().__init__(*ballot.sources)
        self._tests, self.judging, self.weight = ballot._tests, judging, judging.weight
        self._shares = {
            place: dict(zip(map(grid_key, grids), _softmax(likelihoods).tolist(), strict=True))
            for place, (grids, likelihoods) in judged.items()
        }

    def top(self, task_id: TaskId, test_index: int, k: int | None) -> tuple[Candidate, ...]:
        """Return the k best candidates (None: all) of a test input, best first; votes decide between equal scores."""
        ranked, shares = super().top(task_id, test_index, None), self._shares.get((task_id, test_index), {})
        total = self.tally(task_id, test_index).candidates

        def score(candidate: Candidate) -> float:
            return (1 - self.weight) * candidate.count / total + self.weight * shares.get(grid_key(candidate.grid), 0.0)

        return tuple(sorted(ranked, key=score, reverse=True)[:k])


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (N,) shares of 1; that of -inf is 0."""
    finite = np.isfinite(logits)
    likely = np.zeros_like(logits)
    likely[finite] = np.exp(logits[finite] - logits[finite].max(initial=-np.inf))
    return likely / max(likely.sum(), 1.0)  # the largest is 1
