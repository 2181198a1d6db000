"""Distinct views of a task, against brute force."""

from collections import Counter
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augment.dihedral import apply_dihedral
from augment.grid import Grid, grid_key
from augment.task import Pair, Task
from augment.transform import TRANSFORMS, Codes, decode_transforms
from augment.views import Policy, distinct_transforms
from tests.augment.strategies import tasks
from tests.grids import cell, row

View = tuple[tuple[tuple[bytes, ...], ...], tuple[bytes, ...]]
POLICIES: tuple[Policy, ...] = ("all", "keep-output-only")
policies = st.sampled_from(POLICIES)


def task_of(*train: tuple[Grid, Grid], test: tuple[Grid, ...] = ()) -> Task:
    return Task("t", tuple(Pair(*pair) for pair in train), test)


def view_of(task: Task, dihedral: int, colors: npt.NDArray[np.uint8]) -> View:
    """Return what `task` shows through a transform, whatever the order of its pairs."""

    def seen(grid: Grid) -> bytes:
        return grid_key(apply_dihedral(colors[grid], dihedral))

    return tuple(sorted((seen(pair.input), seen(pair.output)) for pair in task.train)), tuple(sorted(map(seen, task.test)))


def views_of(task: Task, codes: Codes) -> list[View]:
    return [view_of(task, int(dihedral), colors) for dihedral, colors in zip(*decode_transforms(codes), strict=True)]


def shown_colors(grids: list[Grid]) -> set[int]:
    return {int(color) for grid in grids for color in np.unique(grid)} - {0}


def brute_force(task: Task, policy: Policy) -> set[View]:
    """Return all views of `task`, by trying every dihedral and every choice of images for the colors it shows."""
    inputs = shown_colors([pair.input for pair in task.train] + list(task.test))
    outputs = shown_colors([pair.output for pair in task.train])
    kept = outputs - inputs if policy == "keep-output-only" else set()
    movable = [color for color in range(1, 10) if color not in kept]
    shown = sorted((inputs | outputs) - kept)
    views = set()
    for images in permutations(movable, len(shown)):
        targets = dict(zip(shown, images, strict=True)) | {color: color for color in kept}
        unused = iter(color for color in range(1, 10) if color not in targets.values())
        colors = np.array([0, *(targets[color] if color in targets else next(unused) for color in range(1, 10))], np.uint8)
        views |= {view_of(task, dihedral, colors) for dihedral in range(8)}
    return views


def count(task: Task, policy: Policy = "all") -> int:
    """Return the number of distinct views of `task`, itself included."""
    return len(distinct_transforms(task, TRANSFORMS, np.random.default_rng(0), policy))


SWAP = task_of((row(1, 0, 0), row(2)), (row(2, 0, 0), row(1)))
FLIP = task_of((row(1, 2), cell(3)))
ROTATION = task_of((row(1, 2), cell(1)), (row(2, 1).T, cell(1)), test=(cell(2),))


@settings(max_examples=12)
@given(tasks(colors=3), policies)
@example(task_of((row(1, 1), row(1, 1))), "all")
@example(SWAP, "all")
@example(SWAP, "keep-output-only")
@example(ROTATION, "all")
@example(task_of((cell(0), row(0, 0)), test=(cell(0),)), "all")
@example(task_of((cell(0), row(1, 2, 3))), "keep-output-only")
@example(task_of((cell(1), cell(2)), (cell(2), cell(3)), (cell(3), cell(1))), "all")
@example(task_of((cell(1), cell(5)), test=(cell(5),)), "keep-output-only")
@example(task_of(), "all")
def test_all_views_are_found_once(task: Task, policy: Policy) -> None:
    expected = brute_force(task, policy)
    codes = distinct_transforms(task, 10_000, np.random.default_rng(0), policy)
    views = views_of(task, codes)
    assert len(views) == len(expected)
    assert set(views) == expected


@settings(max_examples=15)
@given(tasks(), policies, st.integers(1, 60), st.integers(0, 2**32))
@example(SWAP, "all", 40, 0)
@example(task_of((cell(1), cell(1)), (cell(2), cell(2)), (cell(3), cell(3))), "all", 2, 0)
def test_sample_has_distinct_views_and_the_identity_first(task: Task, policy: Policy, limit: int, seed: int) -> None:
    codes = distinct_transforms(task, limit, np.random.default_rng(seed), policy)
    assert codes.dtype == np.uint32
    assert codes[0] == 0
    assert len(codes) == min(limit, count(task, policy))
    assert len(set(views_of(task, codes))) == len(codes)
    again = distinct_transforms(task, limit, np.random.default_rng(seed), policy)
    assert np.array_equal(codes, again)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (task_of((np.arange(1, 10, dtype=np.uint8).reshape(3, 3), cell(0))), 362_880),
        (task_of((row(*range(1, 9)), row(1, 2, 3))), 8 * 362_880 // 2),
        (task_of(*((cell(color), cell(color % 9 + 1)) for color in range(1, 10))), 40_320),
        (task_of((np.array([[1, 2], [3, 0]], dtype=np.uint8), cell(4))), 8 * 9 * 8 * 7 * 6 // 2),
    ],
)
def test_counts_that_are_known(task: Task, expected: int) -> None:
    assert count(task) == expected


def test_colors_of_outputs_alone_stay_where_the_policy_says_so() -> None:
    task = task_of((row(1, 2), row(5, 6)), test=(row(1, 3),))
    _, colors = decode_transforms(distinct_transforms(task, 500, np.random.default_rng(0), "keep-output-only"))
    assert (colors[:, [0, 5, 6]] == [0, 5, 6]).all()
    assert set(colors[:, 1].tolist()) == {1, 2, 3, 4, 7, 8, 9}
    assert count(task, "keep-output-only") == 8 // 2 * 7 * 6 * 5
    _, colors = decode_transforms(distinct_transforms(task, 500, np.random.default_rng(0), "all"))
    assert set(colors[:, 5].tolist()) == set(range(1, 10))


def test_colors_that_are_not_shown_take_the_remaining_images_in_order() -> None:
    _, colors = decode_transforms(distinct_transforms(task_of((cell(4), cell(4))), 9, np.random.default_rng(0)))
    others = colors[:, [1, 2, 3, 5, 6, 7, 8, 9]]
    assert sorted(colors[:, 4].tolist()) == list(range(1, 10))
    assert (np.sort(colors) == range(10)).all() and (np.diff(others.astype(int)) > 0).all()


@pytest.mark.parametrize(
    ("task", "limit"),
    [(FLIP, 30), (FLIP, 400), (SWAP, 100), (task_of((np.array([[1, 2], [0, 0]], np.uint8), cell(3))), 50)],
    ids=["few of a symmetric task", "many of it", "most of a symmetric task", "few without symmetry"],
)
def test_every_view_is_drawn_equally_often(task: Task, limit: int) -> None:
    others, runs = count(task) - 1, 150
    drawn = [distinct_transforms(task, limit, np.random.default_rng(seed))[1:] for seed in range(runs)]
    for size in (limit - 1, limit // 4):
        times = Counter(np.concatenate([codes[:size] for codes in drawn]).tolist())
        expected = runs * size / others
        squares = sum((seen - expected) ** 2 for seen in times.values()) + (others - len(times)) * expected**2
        assert len(times) <= others
        assert squares / (others * expected) == pytest.approx(1 - size / others, rel=0.3)


def test_wrong_limits_are_refused() -> None:
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"got {limit}"):
            distinct_transforms(SWAP, limit, np.random.default_rng(0))
