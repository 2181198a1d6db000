"""The published way, as the benchmark does it, is a right way: distinct views, and the same ranking of candidates as ours."""

from pathlib import Path

import numpy as np

from augment.canvas import encode
from augment.grid import Grid, grid_key
from augment.transform import Transform
from eval.vote import Ballot
from pipeline.bench.published_way import build_published, distinct_views, vote_published
from tests.eval.ballots import add
from tests.pipeline.tiny import random_grid, tiny_source


def content(task) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:  # type: ignore[no-untyped-def]
    return sorted((grid_key(pair.input), grid_key(pair.output)) for pair in task.train), list(map(grid_key, task.test))


def test_views_are_distinct_and_the_first_is_the_task() -> None:
    task = tiny_source().tasks[1]
    views = list(distinct_views(task, 30, np.random.default_rng(0)))
    assert content(views[0]) == content(task)
    assert len({repr(content(view)) for view in views}) == len(views) == 31


def test_every_view_of_every_pair_is_written(tmp_path: Path) -> None:
    tasks = tiny_source(tasks=2).tasks
    assert build_published(tasks, 10, 0, tmp_path) == 22
    inputs, labels = (np.load(tmp_path / f"{name}.npy") for name in ("inputs", "labels"))
    assert inputs.shape == labels.shape == (11 * (4 + 5), 900)
    assert inputs.dtype == np.uint8
    assert np.array_equal(inputs[0], encode(tasks[0].train[0].input).ravel())


def test_candidates_are_ranked_as_by_a_ballot() -> None:
    rng = np.random.default_rng(0)
    pool = [random_grid(rng) for _ in range(4)]
    chosen: list[Grid] = [pool[k] for k in rng.integers(0, 4, 60)]
    transforms = [Transform(k % 8, (0, *(int(c) + 1 for c in rng.permutation(9)))) for k in range(60)]
    places = [("t", k % 2) for k in range(60)]
    canvases = np.stack([encode(transform.apply(grid)) for transform, grid in zip(transforms, chosen, strict=True)])
    canvases[7] = 0  # no grid
    probabilities = rng.random(60).astype(np.float32)
    ballot = Ballot("here")
    for number, (place, grid, probability) in enumerate(zip(places, chosen, probabilities.tolist(), strict=True)):
        add(ballot, [(*place, None if number == 7 else grid, probability)])
    ranked = vote_published(places, transforms, canvases, probabilities)
    for place in (("t", 0), ("t", 1)):
        assert list(map(grid_key, ranked[place])) == [grid_key(found.grid) for found in ballot.top(*place, None)]
