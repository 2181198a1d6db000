"""The leakage audit: finds training pairs that show the answer to a scored test.

It compares content, not ids: a training pair leaks a test when some transform (a dihedral symmetry and a permutation of the
colors 1..9) turns it into the test input with its output. Some tasks show the answer to a test, or a view of it, in a
demonstration of their own. That is part of the question, not a leak.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np

from augment.dihedral import DIHEDRALS, apply_dihedral, swaps_sides
from augment.grid import COLORS, grid_key
from augment.task import Pair, TaskId
from eval.formatting import show_name
from pipeline.data.sources import Source, source_label


@dataclass(frozen=True)
class PairPlace:
    """The place of a pair."""

    source: str
    """As `source_label` names it."""
    task: TaskId
    part: Literal["demonstration", "test", "generator"]
    """generator: everything that Re-ARC, or another archive like it, has of a task."""
    index: int = 0
    """Among the demonstrations or the tests of the task, from 0."""

    def __str__(self) -> str:
        """Return the place in words, such as `arc1:training 40853293 demonstration 0`."""
        index = "" if self.part == "generator" else f" {self.index}"
        return f"{self.source} {show_name(self.task)} {self.part}{index}"


PlacedPair = tuple[PairPlace, Pair]


@dataclass(frozen=True)
class Leak:
    """A training pair that shows the answer to a scored test, or a generator that shows its rule."""

    trained: PairPlace
    scored: PairPlace
    pair: Pair | None = field(compare=False, repr=False, default=None)
    """The training pair; None for a generator, all of whose pairs count."""

    def __str__(self) -> str:
        """Return the leak in words."""
        return f"{self.trained} {'is' if self.pair else 'makes pairs of'} {self.scored}"


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    leaks: tuple[Leak, ...]
    given: tuple[Leak, ...]
    """Demonstrations of the scored task itself that show the answer: no leaks."""
    checked: int
    """Scored tests whose outputs are known."""
    unchecked: int
    """Scored tests whose outputs are not known, such as hidden tests."""

    def counts(self) -> tuple[int, int]:
        """Return how many training pairs, and how many generators, leak; one pair may show several answers."""
        return len({leak.trained for leak in self.leaks if leak.pair}), sum(leak.pair is None for leak in self.leaks)


def audit_sources(sources: Sequence[Source], train_sources: Sequence[Source]) -> Audit:
    """Return which pairs that are trained on (`training_pairs`) show the answer to a test of `sources`, or its rule.

    Pairs are compared by shapes, then by how often their colors occur, and only what agrees in both by `canonical_key`. The
    rule is shown by generated pairs, of a source rearc:, under the id of a task with tests or with a demonstration of it.
    """
    scored = scored_pairs(sources)
    own = {(place.task, pair_key(pair)) for source in sources for place, pair in _demonstrations(source)}
    suspects = training_pairs(sources, train_sources)
    for key in (_shape_key, _count_key):
        known = {key(pair) for _, pair in scored} if suspects else set()
        suspects = [(place, pair) for place, pair in suspects if key(pair) in known]
    shown = {_count_key(pair) for _, pair in suspects}
    answers: dict[bytes, list[PairPlace]] = defaultdict(list)
    for place, pair in scored if shown else ():
        if _count_key(pair) in shown:
            answers[canonical_key(pair)].append(place)
    leaks, given = _generators(sources, train_sources), list[Leak]()
    for trained, pair in suspects:
        for place in answers.get(canonical_key(pair), ()):
            (given if (place.task, pair_key(pair)) in own else leaks).append(Leak(trained, place, pair))
    tests = sum(len(task.test) for source in sources for task in source.tasks)
    return Audit(tuple(leaks), tuple(given), checked=len(scored), unchecked=tests - len(scored))


def _generators(sources: Sequence[Source], train_sources: Sequence[Source]) -> list[Leak]:
    """Return each task of a source rearc: that generates pairs of a task with tests, with the first test of that."""
    generated = [source for source in train_sources if source.name.startswith("rearc:")]
    asked = {task.id: (source, task) for source in sources if generated for task in source.tasks if task.test}
    counts, by_view = set[object](), dict[bytes, TaskId]()
    for task_id, (_, task) in asked.items():
        counts |= {_count_key(pair) for pair in task.train}
        by_view |= {canonical_key(pair): task_id for pair in task.train}
    leaks = []
    for source in generated:
        for task in source.tasks:
            views = (by_view.get(canonical_key(pair)) for pair in task.train if _count_key(pair) in counts)
            found = task.id if task.id in asked else next(filter(None, views), None)
            if found is not None:
                scored = PairPlace(source_label(asked[found][0]), found, "test")
                leaks.append(Leak(PairPlace(source_label(source), task.id, "generator"), scored))
    return leaks


def training_pairs(sources: Sequence[Source], train_sources: Sequence[Source]) -> list[PlacedPair]:
    """Return what is trained on: all demonstrations, and of `train_sources` also the tests whose outputs are known."""
    return [*chain.from_iterable(map(_demonstrations, (*sources, *train_sources))), *scored_pairs(train_sources)]


def scored_pairs(sources: Iterable[Source]) -> list[PlacedPair]:
    """Return the tests of `sources` whose outputs are known, as pairs."""
    return [
        (PairPlace(source_label(source), task.id, "test", i), Pair(given, wanted))
        for source in sources
        for task in source.tasks
        if task.id in source.solutions
        for i, (given, wanted) in enumerate(zip(task.test, source.solutions[task.id], strict=True))
    ]


def _demonstrations(source: Source) -> Iterable[PlacedPair]:
    for task in source.tasks:
        for i, pair in enumerate(task.train):
            yield PairPlace(source_label(source), task.id, "demonstration", i), pair


def pair_key(pair: Pair) -> tuple[bytes, bytes]:
    """Return the keys of input and output, together equal exactly for equal pairs."""
    return grid_key(pair.input), grid_key(pair.output)


def canonical_key(pair: Pair) -> bytes:
    """Return a key that is equal exactly for pairs of which one is a view of the other, input and output alike."""
    sides = (pair.input, pair.output)
    cells = np.stack(
        [np.concatenate([apply_dihedral(grid, dihedral).ravel() for grid in sides]) for dihedral in range(DIHEDRALS)]
    )  # (8, cells)
    shows = cells[:, None] == np.arange(COLORS, dtype=np.uint8)[:, None]  # (8, 10, cells)
    first = np.where(shows.any(axis=2), shows.argmax(axis=2), cells.shape[1])  # (8, 10)
    first[:, 0] = -1  # color 0 stays
    labels = first.argsort(axis=1, kind="stable").argsort(axis=1).astype(np.uint8)
    relabeled = np.take_along_axis(labels, cells.astype(np.int64), axis=1)
    shapes = [bytes(side for grid in sides for side in grid.shape[::step]) for step in (1, -1)]
    return min(shapes[swaps_sides(dihedral)] + relabeled[dihedral].tobytes() for dihedral in range(DIHEDRALS))


def _shape_key(pair: Pair) -> tuple[tuple[int, ...], ...]:
    """Return the sides of input and output, equal for all views of a pair."""
    shapes = (pair.input.shape, pair.output.shape)
    return min(shapes, (shapes[0][::-1], shapes[1][::-1]))


def _count_key(pair: Pair) -> tuple[object, ...]:
    """Return the sides and how often colors occur in input and output, equal for all views of a pair."""
    counts = [np.bincount(grid.ravel(), minlength=COLORS).tolist() for grid in (pair.input, pair.output)]
    kept, *others = zip(*counts, strict=True)
    return (_shape_key(pair), kept, *sorted(others))
