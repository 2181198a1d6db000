"""The symmetries of a task's content, against brute force."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.grid import grid_key
from augment.symmetry import Content, Symmetry, find_symmetry, task_content
from augment.task import Pair, Task
from augment.transform import Transform
from tests.augment.strategies import tasks
from tests.grids import cell, row

NINE = tuple(range(1, 10))


def cells(arrows: Iterable[tuple[int, int]]) -> Content:
    """Return one-cell demonstrations, so that all eight dihedrals are symmetries and only the colors matter."""
    return [(cell(source), cell(image)) for source, image in arrows]


def colors_of(content: Content) -> tuple[int, ...]:
    return tuple(sorted({int(color) for example in content for grid in example for color in np.unique(grid)} - {0}))


def brute_force(content: Content, colors: Sequence[int]) -> list[Transform]:
    """Return all symmetries of `content` that permute `colors`, by trying every transform."""
    found = []
    original = Counter(tuple(map(grid_key, example)) for example in content)
    for dihedral, images in product(range(8), permutations(colors)):
        table = list(range(10))
        for source, image in zip(colors, images, strict=True):
            table[source] = image
        transform = Transform(dihedral, tuple(table))
        views = Counter(tuple(grid_key(transform.apply(grid)) for grid in example) for example in content)
        if views == original:
            found.append(transform)
    return found


def chain(symmetries: list[Transform], colors: Sequence[int]) -> Symmetry:
    """Return what `find_symmetry` must find when `symmetries` are all there are."""
    unturned = [transform.colors for transform in symmetries if transform.dihedral == 0]
    orbits = []
    for i, color in enumerate(colors):
        images = {mapped[color] for mapped in unturned if all(mapped[kept] == kept for kept in colors[:i])}
        orbits.append((color, *sorted(images - {color})))
    return Symmetry(tuple(sorted({transform.dihedral for transform in symmetries})), tuple(orbits))


def assert_found(content: Content, colors: Sequence[int]) -> None:
    expected = brute_force(content, colors)
    found = find_symmetry(content, colors)
    assert found == chain(expected, colors)
    assert found.order == len(expected)


@settings(max_examples=40)
@given(tasks(), st.integers(0, 1))
def test_symmetries_of_all_or_some_colors_are_those_of_brute_force(task: Task, first: int) -> None:
    assert_found(task_content(task), colors_of(task_content(task))[first:])


SYMMETRIC = {
    "constant grids": [(row(1, 1), row(2, 2)), (row(1, 1), row(2, 2))],
    "a swap of colors exchanges two demonstrations": [(row(1, 0, 0), row(2)), (row(2, 0, 0), row(1))],
    "a rotation exchanges two demonstrations": [(row(1, 2), cell(1)), (row(2, 1).T, cell(1))],
    "a rotation with a swap of colors": [(row(1, 2, 2), cell(3)), (row(1, 1, 2), cell(3))],
    "color 0 alone": [(row(0, 0), cell(0)), (cell(0),)],
    "a demonstration that repeats": [(row(1, 2), cell(1)), (row(2, 1), cell(1)), (row(2, 1), cell(1))],
    "inputs alike, outputs told apart": [(row(1, 2), cell(1)), (row(1, 2), cell(2))],
    "a test input like a demonstration's": [(row(1), row(1)), (row(2), row(2)), (row(1),)],
    "test inputs exchanged by a swap": [(row(3), row(3)), (row(1, 2),), (row(2, 1),)],
    "sides swapped": [(row(1, 1, 1), cell(2)), (row(1, 1, 1).T, cell(2))],
}


@pytest.mark.parametrize("content", SYMMETRIC.values(), ids=SYMMETRIC)
def test_symmetric_contents_are_seen_through(content: Content) -> None:
    assert_found(content, colors_of(content))


LINES = [
    (a + 1, b + 1, c + 1)
    for a, b, c in permutations(range(9), 3)
    if (a // 3 + b // 3 + c // 3) % 3 == 0 and (a + b + c) % 3 == 0
]
"""The lines of the affine plane of order 3, points being colors, in every direction."""


@pytest.mark.parametrize(
    ("content", "order"),
    [
        (cells((color, color) for color in NINE), 8 * 362_880),
        (cells((color, color % 9 + 1) for color in NINE), 8 * 9),
        (cells(permutations(NINE, 2)), 8 * 362_880),
        (cells((a, b) for a, b in permutations(NINE, 2) if (a - 1) // 3 == (b - 1) // 3 or a % 3 == b % 3), 8 * 72),
        ([(row(*line), cell(0)) for line in LINES], 4 * 432),
        ([(np.arange(1, 10, dtype=np.uint8).reshape(3, 3), cell(0))], 8),
        ([(row(*NINE), cell(0))], 4),
    ],
    ids=["one-cell grids", "cycle", "complete graph", "rook's graph", "affine plane", "square of nine", "row of nine"],
)
def test_order_of_known_groups_of_nine_colors(content: Content, order: int) -> None:
    assert find_symmetry(content, NINE).order == order


def test_two_hundred_large_demonstrations_are_no_burden() -> None:
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 10, size=(200, 30, 30), dtype=np.uint8)
    swapped = np.array([0, 2, 1, *range(3, 10)], dtype=np.uint8)[grids]
    content = [(grid, grid.T) for grid in [*grids, *swapped]]
    assert find_symmetry(content, NINE) == Symmetry((0,), ((1, 2), *((color,) for color in NINE[1:])))


def test_task_content_holds_every_pair_and_test_input_and_an_empty_one_has_every_dihedral() -> None:
    assert find_symmetry([], ()) == Symmetry(tuple(range(8)), ())
    task = Task("t", (Pair(cell(1), cell(2)),), (cell(3), cell(4)))
    assert [[int(grid[0, 0]) for grid in example] for example in task_content(task)] == [[1, 2], [3], [4]]
