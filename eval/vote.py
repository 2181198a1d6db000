"""Votes: counts the candidates of all views of a test input and ranks the different grids among them.

Each different grid is held once, however many candidates there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from augment.grid import COLORS, MAX_SIDE, Grid, grid_key
from augment.task import Task, TaskId

ATTEMPTS = 2
"""Attempts that a submission holds for every test input."""

_UNIT = 1 << 40
# Probabilities are summed as whole numbers of 2**-40: such sums are exact, so the ranking does not depend on the order in
# which candidates arrive or ballots are pooled, as sums of floats would.

Ranking = Callable[[int, float], tuple[float, ...]]
"""(count, sum of halting probabilities) -> sort key; the largest key ranks first."""

RANKINGS: Mapping[str, Ranking] = MappingProxyType(
    {
        "count": lambda count, total: (count, total / count),
        "probability-sum": lambda _, total: (total,),
        "mean-probability": lambda count, total: (total / count,),
    }
)
"""By config name; "count" is the rule of TRM (arXiv 2510.04871): most candidates, then largest mean probability."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A grid in the original frame with the votes it got for one test input."""

    grid: Grid
    count: int
    """Views that predicted exactly this grid, at least 1."""
    probability_sum: float
    """Sum of their halting probabilities, each 0..1."""

    @property
    def mean_probability(self) -> float:
        """Mean halting probability of the views that predicted this grid, 0..1."""
        return self.probability_sum / self.count


@dataclass(frozen=True)
class Tally:
    """How many candidates one test input got."""

    candidates: int
    """All candidates, empty ones included: the number of views."""
    distinct: int
    """Different grids among them."""
    empty: int
    """Candidates that held no grid; they are never ranked."""


class _TestVotes:
    """Votes of one test input: grid key -> [count, sum of probabilities in units of 2**-40]."""

    __slots__ = ("by_key", "empty")

    def __init__(self) -> None:
        self.empty = 0
        self.by_key: dict[bytes, list[int]] = {}


class Ballot:
    """Votes for any number of test inputs, all from one source (a run, a checkpoint) or pooled from several.

    `add` fills a ballot of one source. `pool_ballots` makes the only ballots of several sources, and nothing can be added to
    those, so `sources` always names whose candidates a score rests on.
    """

    def __init__(self, source: str) -> None:
        self._sources: tuple[str, ...] = (source,)
        self._tests: dict[tuple[TaskId, int], _TestVotes] = {}

    @property
    def sources(self) -> tuple[str, ...]:
        """Different sources whose candidates were counted, in the order they were pooled; one for a single checkpoint."""
        return self._sources

    def add(
        self,
        places: Sequence[tuple[TaskId, int]],
        shapes: npt.NDArray[np.integer],
        cells: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.floating],
    ) -> None:
        """Count K candidates of any test inputs and sizes.

        `places` (K) are their tasks and test inputs, `shapes` (K, 2) heights and widths (0, 0 where a prediction was empty),
        `cells` all grids in the original frame, row by row and end to end, `probabilities` (K,) floats 0..1. Raises ValueError,
        naming the first of its kind, on a bad grid, a bad probability or lengths that differ; the ballot is then as it was.
        """
        _check(places, shapes, cells, probabilities)
        tests = {place: self._votes(*place) for place in dict.fromkeys(places)}
        units = np.rint(probabilities.astype(np.float64) * _UNIT).astype(np.int64).tolist()
        areas = shapes.astype(np.int64).prod(axis=1).tolist()
        heads, data = shapes.astype(np.uint8).tobytes(), cells.tobytes()
        head, start = 0, 0
        for place, area, unit in zip(places, areas, units, strict=True):
            votes, stop = tests[place], start + area
            if area:
                key = heads[head : head + 2] + data[start:stop]  # as `grid_key`
                entry = votes.by_key.get(key)
                if entry is None:
                    votes.by_key[key] = [1, unit]
                else:
                    entry[0] += 1
                    entry[1] += unit
            else:
                votes.empty += 1
            head, start = head + 2, stop

    def top(self, task_id: TaskId, test_index: int, k: int | None, ranking: str = "count") -> tuple[Candidate, ...]:
        """Return the k best candidates of a test input (all of them for k=None), best first, all different.

        Ties go to the smaller grid key, so the order depends on nothing but the votes. Raises ValueError on an unknown
        `ranking`.
        """
        key_of = _ranking_named(ranking)
        votes = self._tests.get((task_id, test_index))
        if votes is None:
            return ()
        ranked = sorted(votes.by_key.items())
        ranked.sort(key=lambda item: key_of(item[1][0], item[1][1] / _UNIT), reverse=True)  # stable: ties stay sorted
        return tuple(
            Candidate(np.frombuffer(key, np.uint8, offset=2).reshape(key[0], key[1]).copy(), count, total / _UNIT)
            for key, (count, total) in ranked[:k]
        )

    def rank(self, task_id: TaskId, test_index: int, grid: Grid, ranking: str = "count") -> int:
        """Return the rank of `grid` among all candidates of a test input, as `top` has it, from 1; 0 where it is none."""
        key_of, key = _ranking_named(ranking), grid_key(grid)
        votes = self._tests.get((task_id, test_index))
        if votes is None or key not in votes.by_key:
            return 0
        places = {each: key_of(count, total / _UNIT) for each, (count, total) in votes.by_key.items()}
        own = places[key]
        return 1 + sum(place > own or (place == own and each < key) for each, place in places.items())

    def attempts(self, task_id: TaskId, test_index: int, ranking: str = "count") -> tuple[Grid, ...]:
        """Return the up to 2 best grids of a test input, (H, W) uint8 in the original frame, different and never empty."""
        return tuple(candidate.grid for candidate in self.top(task_id, test_index, ATTEMPTS, ranking))

    def predictions(self, tasks: Iterable[Task], ranking: str = "count") -> dict[TaskId, list[tuple[Grid, ...]]]:
        """Return the attempts for every test input of `tasks`, in order; a test input without candidates gets ()."""
        return {task.id: [self.attempts(task.id, i, ranking) for i in range(len(task.test))] for task in tasks}

    def tally(self, task_id: TaskId, test_index: int) -> Tally:
        """Return how many candidates a test input got; all zero when it got none."""
        votes = self._tests.get((task_id, test_index), _TestVotes())
        counted = sum(count for count, _ in votes.by_key.values())
        return Tally(candidates=counted + votes.empty, distinct=len(votes.by_key), empty=votes.empty)

    def _votes(self, task_id: TaskId, test_index: int) -> _TestVotes:
        if len(self._sources) > 1:
            raise ValueError(f"nothing can be added to a ballot pooled from {', '.join(self._sources)}")
        votes = self._tests.get((task_id, test_index))
        if votes is None:
            self._tests[task_id, test_index] = votes = _TestVotes()
        return votes


def pool_ballots(ballots: Sequence[Ballot]) -> Ballot:
    """Return a new ballot with the votes of all `ballots`, which stay as they are.

    Parts of one source (say, the views that two processes predicted with one checkpoint) give a ballot of that one
    source; different sources give a pooled one. Raises ValueError when there is nothing to pool.
    """
    if not ballots:
        raise ValueError("pooling needs at least one ballot")
    sources = tuple(dict.fromkeys(source for ballot in ballots for source in ballot._sources))
    pooled = Ballot(sources[0])
    for ballot in ballots:
        for (task_id, test_index), votes in ballot._tests.items():
            into = pooled._votes(task_id, test_index)
            into.empty += votes.empty
            for key, (count, total) in votes.by_key.items():
                entry = into.by_key.setdefault(key, [0, 0])
                entry[0] += count
                entry[1] += total
    pooled._sources = sources
    return pooled


def choose_attempts(ranked: Sequence[Grid], fallbacks: Sequence[Grid]) -> tuple[Grid, Grid]:
    """Return the first two different grids of `ranked`, then `fallbacks`; the same one twice if there is no second.

    Raises ValueError when both are empty.
    """
    grids = [*ranked, *fallbacks]
    if not grids:
        raise ValueError("no grid to choose an attempt from")
    first = grids[0]
    second = next((grid for grid in grids if grid_key(grid) != grid_key(first)), first)
    return first, second


def _ranking_named(name: str) -> Ranking:
    ranking = RANKINGS.get(name)
    if ranking is None:
        raise ValueError(f"unknown ranking {name!r}; there are {', '.join(RANKINGS)}")
    return ranking


def _check(
    places: Sequence[tuple[TaskId, int]],
    shapes: npt.NDArray[np.integer],
    cells: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.floating],
) -> None:
    """Raise ValueError unless these are candidates as `Ballot.add` takes them."""
    if cells.dtype != np.uint8 or shapes.shape != (len(places), 2) or probabilities.shape != (len(places),):
        got = f"shapes {shapes.shape}, probabilities {probabilities.shape} and {cells.dtype} cells"
        raise ValueError(f"expected shapes and probabilities of {len(places)} candidates and uint8 cells, got {got}")

    def where(number: int) -> str:
        return f"task {places[number][0]}, test input {places[number][1]}"

    sizes = shapes.astype(np.int64)
    for number in np.flatnonzero(~((probabilities >= 0.0) & (probabilities <= 1.0)))[:1].tolist():
        raise ValueError(f"{where(number)}: a halting probability is 0..1, got {probabilities[number]}")
    proper = ((sizes >= 1) & (sizes <= MAX_SIDE)).all(axis=1) | (sizes == 0).all(axis=1)
    for number in np.flatnonzero(~proper)[:1].tolist():
        raise ValueError(f"{where(number)}: a grid is 1..{MAX_SIDE} by 1..{MAX_SIDE}, got {tuple(sizes[number].tolist())}")
    ends = sizes.prod(axis=1).cumsum()
    if len(cells) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{len(cells)} cells do not fill the grids of {len(places)} candidates")
    for cell in np.flatnonzero(cells >= COLORS)[:1].tolist():
        number = int(np.searchsorted(ends, cell, side="right"))
        raise ValueError(f"{where(number)}: a color is 0..{COLORS - 1}, got {cells[cell]}")
