"""Packs against a plain oracle: transform the grids, write each on its canvas, lay them end to end."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch

from augment.canvas import PAD, encode
from augment.dihedral import swaps_sides
from augment.errors import InputError
from augment.grid import MAX_SIDE, Grid
from augment.task import Pair, Task
from augment.transform import Transform, transform_from_int
from pipeline.config import BuildConfig
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Canvas, Pack, Samples, TaskPackMaker, make_pack_maker, step_generator
from pipeline.data.sources import Source
from pipeline.models.layout import make_layout

MEMORY_TOKENS = 3


def make_grid(rng: np.random.Generator, height: int, width: int) -> Grid:
    return rng.integers(0, 10, size=(height, width), dtype=np.uint8)


def make_dataset(
    sizes: list[list[tuple[int, int]]],
    augmentations: int = 12,
    tests: int = 1,
    seed: int = 0,
    draw: Literal["tasks", "pairs"] = "tasks",
) -> TaskDataset:
    """A task for each list of sizes: a pair for each size, its output one row higher where there is room, and tests."""
    rng = np.random.default_rng(seed)
    tasks = []
    for number, pairs in enumerate(sizes):
        train = tuple(Pair(make_grid(rng, h, w), make_grid(rng, min(h + number % 2, MAX_SIDE), w)) for h, w in pairs)
        height, width = pairs[0] if pairs else (2, 3)
        tasks.append(Task(f"task{number}", train, tuple(make_grid(rng, height, width) for _ in range(tests))))
    return build([Source("made", tuple(tasks), {})], [], BuildConfig(augmentations, "all", seed, 1, draw))


MIXED = [[(2, 3), (3, 1), (1, 1)], [(5, 4), (4, 4), (2, 6), (3, 3)], [(1, 7), (2, 7)], [(30, 29), (28, 30)]]


def transform_of(dataset: TaskDataset, samples: Samples, i: int) -> Transform:
    return transform_from_int(int(dataset.transforms[samples.transform[i]]))


def expected_cells(
    dataset: TaskDataset, samples: Samples, canvas: Canvas, grids: npt.NDArray[np.int32], boxes: np.ndarray
) -> list[int]:
    """The tokens of all canvases, end to end, by way of `Transform.apply` and `encode`."""
    cells: list[int] = []
    for i, example in enumerate(samples.example.tolist()):
        transform = transform_of(dataset, samples, i)
        height, width = boxes[example].tolist()[:: -1 if swaps_sides(transform.dihedral) else 1]
        down, right = samples.shift[i].tolist()
        size, at = ((30, 30), (down, right)) if canvas == "full" else ((height, width), (0, 0))
        cells += encode(transform.apply(dataset.grid(grids[example])), *size, *at).ravel().tolist()
    return cells


def random_pack(dataset: TaskDataset, canvas: Canvas, seed: int, count: int = 60) -> tuple[Samples, Pack]:
    maker = make_pack_maker(dataset, canvas, MEMORY_TOKENS)
    samples = maker.draw(count, np.random.default_rng(seed), 0.75)
    samples = samples[maker.order(samples)]
    return samples, maker.make(samples)


@pytest.mark.parametrize("canvas", ["fitted", "full"])
@pytest.mark.parametrize("seed", range(2))
def test_cells_are_the_canvases_of_the_transformed_grids(seed: int, canvas: Canvas) -> None:
    dataset = make_dataset(MIXED, seed=seed)
    samples, pack = random_pack(dataset, canvas, seed)
    assert pack.inputs.tolist() == expected_cells(dataset, samples, canvas, dataset.pair_input, dataset.pair_canvas)
    outputs = expected_cells(dataset, samples, canvas, dataset.pair_output, dataset.pair_canvas)
    assert pack.labels.tolist() == [-100 if token == PAD else token for token in outputs]


@pytest.mark.parametrize("canvas", ["fitted", "full"])
def test_a_pack_says_what_each_sequence_is(canvas: Canvas) -> None:
    dataset = make_dataset(MIXED)
    samples, pack = random_pack(dataset, canvas, 5)
    for i, example in enumerate(samples.example.tolist()):
        transform = transform_of(dataset, samples, i)
        assert (pack.dihedral[i], tuple(pack.colors[i])) == (transform.dihedral, transform.colors)
        task = int(dataset.pair_task[example])
        assert pack.task[i] == task
        assert dataset.transform_start[task] <= pack.transform[i] < dataset.transform_start[task + 1]
        height, width = dataset.pair_canvas[example].tolist()[:: -1 if swaps_sides(transform.dihedral) else 1]
        assert pack.shapes[i].tolist() == ([30, 30] if canvas == "full" else [height, width])
        assert pack.offsets[i].tolist() == ([0, 0] if canvas == "full" else samples.shift[i].tolist())
    assert (pack.offsets + pack.shapes <= MAX_SIDE).all()


@pytest.mark.parametrize("canvas", ["fitted", "full"])
def test_tests_are_packed_without_labels(canvas: Canvas) -> None:
    dataset = make_dataset(MIXED, tests=2)
    maker = make_pack_maker(dataset, canvas, MEMORY_TOKENS, "tests")
    views = [
        (test, view) for test, task in enumerate(dataset.test_task) for view in range(*dataset.transform_start[task : task + 2])
    ]
    example, transform = np.array(views).T
    samples = Samples(example, transform, np.zeros((len(views), 2), np.int64))
    samples = samples[maker.order(samples)]
    pack = maker.make(samples)
    assert pack.labels is None
    assert pack.inputs.tolist() == expected_cells(dataset, samples, canvas, dataset.test_input, dataset.test_canvas)
    assert pack.task.tolist() == dataset.test_task[samples.example].tolist()


@pytest.mark.parametrize("canvas", ["fitted", "full"])
def test_order_puts_equal_shapes_side_by_side_and_short_ones_first(canvas: Canvas) -> None:
    dataset = make_dataset(MIXED)
    maker = TaskPackMaker(dataset, canvas, MEMORY_TOKENS)
    samples = maker.draw(200, np.random.default_rng(0), 0.0)
    order = maker.order(samples)
    assert sorted(order.tolist()) == list(range(200))
    pack = maker.make(samples[order])
    make_layout(torch.from_numpy(pack.shapes), torch.from_numpy(pack.offsets), MEMORY_TOKENS)  # refuses equal shapes apart
    assert (np.diff(pack.shapes.prod(axis=1)) >= 0).all()
    assert maker.tokens(samples[order]).tolist() == (pack.shapes.prod(axis=1) + MEMORY_TOKENS).tolist()


def test_fill_keeps_the_sequence_that_reaches_the_room_and_none_after_it() -> None:
    maker = TaskPackMaker(make_dataset(MIXED[:3]), "fitted", MEMORY_TOKENS)
    for seed in range(20):
        for room in (1, 50, 400, 5000):
            tokens = maker.tokens(maker.fill(room, np.random.default_rng(seed), 0.5))
            assert tokens[:-1].sum() < room <= tokens.sum()
    for room in (0, -7):
        samples = maker.fill(room, np.random.default_rng(0), 0.5)
        assert len(samples) == 0
        assert len(samples + maker.draw(2, np.random.default_rng(0), 0.5)) == 2


def assert_uniform(counts: npt.NDArray[np.int64]) -> None:
    """Every count within five deviations of their mean; a bias of a tenth is far outside where there are 50,000 draws."""
    mean = counts.mean()
    assert (np.abs(counts - mean) < 5 * np.sqrt(mean)).all(), counts


def test_tasks_are_drawn_uniformly_and_so_are_their_pairs_and_views() -> None:
    dataset = make_dataset([[(2, 3)], [(3, 3), (4, 2), (1, 5)], [(6, 6)] * 8], augmentations=4)
    samples = TaskPackMaker(dataset, "fitted", MEMORY_TOKENS).draw(50_000, np.random.default_rng(1), 0.0)
    task = dataset.pair_task[samples.example]
    assert_uniform(np.bincount(task, minlength=3))
    for t in range(3):
        mine = task == t
        pairs, views = (np.bincount(part[mine] - start[t], minlength=start[t + 1] - start[t]) for part, start in
                        ((samples.example, dataset.pair_start), (samples.transform, dataset.transform_start)))  # fmt: skip
        assert_uniform(pairs)
        assert_uniform(views)
        assert len(views) == 5


def test_pairs_are_drawn_by_the_weights_of_a_dataset() -> None:
    weights = np.array([0.0, 3.0, 1.0, 0.5, 0.5, 0.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    dataset = replace(make_dataset(MIXED), pair_weight=weights)
    samples = make_pack_maker(dataset, "fitted", MEMORY_TOKENS).draw(20_000, np.random.default_rng(0), 0.0)
    counts = np.bincount(samples.example, minlength=len(weights))
    assert not counts[weights == 0].any()
    assert counts / len(samples) == pytest.approx(weights / weights.sum(), abs=0.015)
    first, last = (dataset.transform_start[dataset.pair_task[samples.example] + end] for end in (0, 1))
    assert ((samples.transform >= first) & (samples.transform < last)).all()


def test_views_are_drawn_with_all_pairs_of_their_tasks_side_by_side() -> None:
    dataset = make_dataset([*MIXED, []], augmentations=4)
    maker = TaskPackMaker(dataset, "full", MEMORY_TOKENS)
    samples = maker.draw_views(2000, np.random.default_rng(0), 0.5, 96)
    counts = np.diff(dataset.pair_start)
    orders, start = set[tuple[int, ...]](), 0
    while start < len(samples):
        task = int(dataset.pair_task[samples.example[start]])
        view = samples[start : start + int(counts[task])]
        first, last = (int(bound) for bound in dataset.pair_start[task : task + 2])
        assert sorted(view.example.tolist()) == list(range(first, last))
        assert len(set(view.transform.tolist())) == 1
        assert dataset.transform_start[task] <= view.transform[0] < dataset.transform_start[task + 1]
        orders.add(tuple((view.example - first).tolist()))
        start += len(view)
    assert start == len(samples) == pytest.approx(2000, rel=0.05)
    assert len(orders) == sum(math.factorial(n) for n in (2, 3, 4))  # none of them comes first: the last view is cut
    assert 0 < samples.shift.any(axis=1).mean() < 1
    assert len(maker.draw_views(1, np.random.default_rng(0), 0.0, 96)) in (2, 3, 4)
    with pytest.raises(InputError, match="no training pairs"):
        TaskPackMaker(make_dataset([[], []]), "full", MEMORY_TOKENS).draw_views(3, np.random.default_rng(0), 0.0, 96)


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 3, 3, 3, 3, 1, 1, 0, 0]])
def test_a_task_has_as_many_samples_in_whole_views_as_by_themselves(weights: list[float] | None) -> None:
    dataset = replace(make_dataset([*MIXED, []], augmentations=4), pair_weight=None if weights is None else np.array(weights))
    maker = TaskPackMaker(dataset, "fitted", MEMORY_TOKENS)
    whole, single = (
        maker.draw_views(60_000, np.random.default_rng(0), 0.0, 96),
        maker.draw(50_000, np.random.default_rng(0), 0.0),
    )
    shares = [np.bincount(each.example, minlength=len(dataset.pair_task)) / len(each) for each in (whole, single)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.01)
    first, last = dataset.transform_start[1:3]
    assert_uniform(np.bincount(whole.transform, minlength=last)[first:last] // 4)  # each with four pairs


@pytest.mark.parametrize("draw", ["tasks", "pairs"])
def test_a_task_with_more_pairs_than_a_pack_holds_has_its_share_of_whole_views(draw: Literal["tasks", "pairs"]) -> None:
    sizes = [[(1 + i // 8, 1 + i % 8) for i in range(count)] for count in (3, 3, 3, 50)]
    dataset = make_dataset(sizes, augmentations=4, draw=draw)
    maker = TaskPackMaker(dataset, "full", MEMORY_TOKENS)
    counts, seen = np.zeros(4), set[int]()
    for seed in range(60):
        samples = maker.fill(160 * (900 + MEMORY_TOKENS), np.random.default_rng(seed), 0.0, views=True)
        assert len(samples) == 160
        counts += np.bincount(dataset.pair_task[samples.example], minlength=4)
        seen |= set(samples.example.tolist())
    share = {"tasks": 1 / 4, "pairs": 50 / 59}[draw]
    assert counts[3] / counts.sum() == pytest.approx(share, rel=0.15)  # a view that is cut where a pack ends loses some
    assert len(seen) == 59


def test_filled_packs_hold_long_tasks_as_often_as_short_ones() -> None:
    dataset = make_dataset([[(1, 1), (1, 2)], [(30, 30), (29, 30)]], augmentations=0)
    maker = TaskPackMaker(dataset, "fitted", MEMORY_TOKENS)
    counts = np.zeros(2, np.int64)
    for step in range(500):
        samples = maker.fill(1000, step_generator(0, step, 0), 0.0)
        counts += np.bincount(dataset.pair_task[samples.example], minlength=2)
    assert_uniform(counts)


def test_tasks_without_pairs_are_never_drawn_and_there_must_be_others() -> None:
    dataset = make_dataset([[(2, 3)], [], [(3, 3)]])
    samples = TaskPackMaker(dataset, "fitted", MEMORY_TOKENS).draw(200, np.random.default_rng(0), 0.0)
    assert set(dataset.pair_task[samples.example].tolist()) == {0, 2}
    with pytest.raises(ValueError, match="no training pairs"):
        TaskPackMaker(make_dataset([[], []]), "fitted", MEMORY_TOKENS).fill(10, np.random.default_rng(0), 0.0)


def test_a_full_canvas_is_shifted_to_every_place_that_holds_both_grids() -> None:
    dataset = make_dataset([[(3, 3)], [(28, 27)]], augmentations=30)  # the output of the second is 29 x 27
    maker = TaskPackMaker(dataset, "full", MEMORY_TOKENS)
    samples = maker.draw(3000, np.random.default_rng(0), 1.0)
    samples = samples[np.flatnonzero(samples.example == 1)]
    swapped = np.array([swaps_sides(transform_of(dataset, samples, i).dihedral) for i in range(len(samples))])
    for turned, places in ((False, (2, 4)), (True, (4, 2))):
        found = samples.shift[swapped == turned]
        assert found.min() == 0
        assert np.unique(found, axis=0).tolist() == [[row, column] for row in range(places[0]) for column in range(places[1])]


def test_the_shift_probability_is_the_share_that_is_shifted() -> None:
    maker = TaskPackMaker(make_dataset([[(1, 1), (1, 1)]]), "full", MEMORY_TOKENS)
    for probability in (0.0, 0.25, 1.0):
        shifted = maker.draw(20_000, np.random.default_rng(0), probability).shift.any(axis=1).mean()
        assert shifted == pytest.approx(probability * (1 - 1 / 900), abs=0.015)


def test_the_generator_of_a_step_depends_on_its_four_numbers_alone() -> None:
    def draw(*numbers: int) -> list[int]:
        return step_generator(*numbers).integers(0, 2**62, size=4).tolist()

    first = draw(1, 2, 3, 4)
    others = [
        draw(*numbers) for numbers in ((0, 2, 3, 4), (1, 1, 3, 4), (1, 2, 2, 4), (1, 2, 3, 5), (1, 3, 2, 4), (2, 1, 3, 4))
    ]
    assert all(other != first for other in others)
    assert draw(1, 2, 3, 4) == first
    long = step_generator(1, 2, 3, 0).integers(0, 2**62, size=10_000)
    assert not np.isin(step_generator(1, 2, 3, 1).integers(0, 2**62, size=10_000), long).any()
