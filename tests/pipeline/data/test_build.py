"""From sources to a dataset: what goes in, what stays out, and that nothing else matters."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment.grid import Grid
from augment.task import Pair, Task
from augment.transform import transform_from_int
from eval.provenance import Audited, audited_in
from pipeline.config import BuildConfig
from pipeline.data import build as build_module
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset, load_dataset
from pipeline.data.sources import Source
from tests.grids import grid
from tests.pipeline.tiny import tiny_source, write_kaggle
from tests.pipeline.tinyrun import call

SMALL = BuildConfig(augmentations=7)
TURN = transform_from_int(400_000)


A, B, C, D = grid([1, 2], [3, 0]), grid([4, 4, 5]), grid([6], [7]), grid([8, 0, 9], [0, 0, 1])
SECRET = grid([7, 7, 7], [1, 2, 3], [4, 5, 6])
QUESTION = Source("arc1:evaluation", (Task("q", (Pair(A, A), Pair(B, B)), (D, C)),), {"q": (SECRET, C)})
LESSONS = Source(
    "json:/somewhere/lessons.json",
    (Task("m", (Pair(A, B), Pair(A, B), Pair(B, A)), (C,)), Task("l", (Pair(C, A),), (B, A))),
    {"m": (D,)},
)


@pytest.fixture(scope="module")
def dataset() -> TaskDataset:
    return build([QUESTION], [LESSONS], SMALL)


def pairs_of(dataset: TaskDataset, task_id: str) -> list[tuple[list[Any], list[Any]]]:
    """Return the pairs of a task in no particular order, as sorted lists."""
    task = dataset.task_ids.index(task_id)
    places = range(dataset.pair_start[task], dataset.pair_start[task + 1])
    assert all(dataset.pair_task[place] == task for place in places)
    return sorted((dataset.grid(dataset.pair_input[i]).tolist(), dataset.grid(dataset.pair_output[i]).tolist()) for i in places)


def listed(*pairs: tuple[Grid, Grid]) -> list[tuple[list[Any], list[Any]]]:
    return sorted((given.tolist(), wanted.tolist()) for given, wanted in pairs)


def codes_of(dataset: TaskDataset, task_id: str) -> list[int]:
    task = dataset.task_ids.index(task_id)
    codes: list[int] = dataset.transforms[dataset.transform_start[task] : dataset.transform_start[task + 1]].tolist()
    return codes


def test_demonstrations_of_all_and_known_tests_of_train_sources_are_trained_on(dataset: TaskDataset) -> None:
    assert dataset.task_ids == ("l", "m", "q")
    assert pairs_of(dataset, "l") == listed((C, A))
    assert pairs_of(dataset, "m") == listed((A, B), (B, A), (C, D))
    assert pairs_of(dataset, "q") == listed((A, A), (B, B))


def test_tests_of_sources_are_asked_in_order_and_those_of_train_sources_are_not(dataset: TaskDataset) -> None:
    assert [dataset.task_ids[task] for task in dataset.test_task] == ["q", "q"]
    assert dataset.test_index.tolist() == [0, 1]
    assert [dataset.grid(grid).tolist() for grid in dataset.test_input] == [D.tolist(), C.tolist()]


def test_the_output_of_a_scored_test_is_nowhere_in_the_dataset(dataset: TaskDataset) -> None:
    assert SECRET.tobytes() not in dataset.cells.tobytes()
    hidden = Source(QUESTION.name, QUESTION.tasks, {})
    assert build([hidden], [LESSONS], SMALL).data_hash == dataset.data_hash


def test_each_grid_is_kept_once(dataset: TaskDataset) -> None:
    grids = {(dataset.grid(i).shape, dataset.grid(i).tobytes()) for i in range(len(dataset.grid_start))}
    assert len(grids) == len(dataset.grid_start) == 4
    assert len(dataset.cells) == sum(grid.size for grid in (A, B, C, D))


def test_tasks_of_one_id_are_merged_and_asked_once() -> None:
    more = Source("json:more", (Task("q", (Pair(B, B), Pair(C, D)), ()),), {})
    dataset = build([QUESTION, Source("arc2:evaluation", QUESTION.tasks, {})], [more, LESSONS], SMALL)
    assert pairs_of(dataset, "q") == listed((A, A), (B, B), (C, D))
    assert len(dataset.test_task) == 2
    assert dataset.manifest["merged_tasks"] == 1


def test_what_a_source_has_of_a_task_is_drawn_by_its_weight(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    question = replace(QUESTION, weight=2.0)
    more = Source("json:more", (Task("q", (Pair(B, B), Pair(C, D), Pair(D, D), Pair(C, A)), ()),), {}, weight=0.5)
    dataset = build([question], [more, LESSONS], SMALL)
    assert dataset.pair_weight is not None
    weights = dict(zip(dataset.task_ids, np.split(dataset.pair_weight, dataset.pair_start[1:-1]), strict=True))
    assert weights["l"].tolist() == [1.0]
    assert weights["m"].tolist() == [1 / 3] * 3
    assert sorted(weights["q"].tolist()) == [0.5 / 3] * 3 + [1.0, 1.0]  # the pair of both belongs to the first
    assert [source["weight"] for source in dataset.manifest["sources"]] == [2.0, 1.0, 0.5]
    assert "for each source that has pairs of them: arc1:evaluation x 2, json:more x 0.5" in caplog.text
    assert build([question], [LESSONS, more], SMALL).data_hash == dataset.data_hash
    dataset.save(tmp_path)
    assert load_dataset(tmp_path).data_hash == dataset.data_hash
    largest = build([QUESTION], [replace(more, weight=4.0), LESSONS], SMALL)
    weights = dict(zip(largest.task_ids, np.split(largest.pair_weight, largest.pair_start[1:-1]), strict=True))
    assert sorted(weights["q"].tolist()) == [1.0, 1.0, 1.0, 1.0, 1.0]  # the pair of both is one of its four
    evenly = build([QUESTION], [LESSONS], SMALL)
    assert evenly.pair_weight is None
    assert evenly.data_hash == build([replace(QUESTION, weight=3.0)], [replace(LESSONS, weight=3.0)], SMALL).data_hash


def test_the_larger_a_pair_is_the_less_often_it_is_drawn_where_that_is_set(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset = build([QUESTION], [replace(LESSONS, weight=2.0)], replace(SMALL, size_exponent=0.5))
    cells = dataset.pair_canvas.prod(axis=1, dtype=np.int64)
    assert len(set(cells.tolist())) > 2
    of_source = np.array([2.0 if dataset.task_ids[task] in ("l", "m") else 1.0 for task in dataset.pair_task])
    pairs = np.diff(dataset.pair_start)[dataset.pair_task]
    np.testing.assert_allclose(dataset.pair_weight, of_source / pairs / np.sqrt(cells))
    assert caplog.messages == [
        "tasks are drawn for each source that has pairs of them: arc1:evaluation x 1, json:lessons.json x 2; "
        "pairs less often the larger, by cells^-0.5"
    ]
    assert dataset.manifest["settings"]["size_exponent"] == 0.5

    squares = {name: np.zeros((side, side), np.uint8) for name, side in (("s", 20), ("t", 30))}
    tasks = tuple(Task(name, (Pair(square, square),), (square,)) for name, square in squares.items())
    steep = build([Source("json:x", tasks, {})], [], replace(SMALL, size_exponent=4.0))
    assert steep.pair_weight is not None  # however small the weights are


def test_each_pair_is_drawn_as_often_where_that_is_set(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset = build([QUESTION], [replace(LESSONS, weight=2.0)], replace(SMALL, draw="pairs"))
    of_source = [2.0 if dataset.task_ids[task] in ("l", "m") else 1.0 for task in dataset.pair_task]
    assert dataset.pair_weight is not None
    assert dataset.pair_weight.tolist() == of_source
    assert caplog.messages == ["pairs are drawn by the weight of their source: arc1:evaluation x 1, json:lessons.json x 2"]
    assert dataset.data_hash != build([QUESTION], [replace(LESSONS, weight=2.0)], SMALL).data_hash


def test_the_command_builds_with_its_options(tmp_path: Path) -> None:
    write_kaggle(tmp_path, tiny_source(), "training", with_solutions=True)
    options = ("--augmentations", 5, "--policy", "keep-output-only", "--seed", 3, "--draw", "pairs", "--size-exponent", 0.5)
    assert call("build", "--source", f"kaggle:{tmp_path}:training", *options, "--out", tmp_path / "data") == 0
    settings = {"augmentations": 5, "policy": "keep-output-only", "seed": 3, "draw": "pairs", "size_exponent": 0.5}
    assert load_dataset(tmp_path / "data").manifest["settings"] == settings


def test_generators_of_scored_tasks_are_refused_or_left_out_whole(caplog: pytest.LogCaptureFixture) -> None:
    made = Source("rearc:made.zip", (Task("q", (Pair(C, D), Pair(A, A)), ()), Task("l", (Pair(C, D),), ())), {})
    with pytest.raises(
        ValueError, match=r"^1 generator of a rearc: source makes pairs of scored tasks: rearc:made\.zip q generator"
    ):
        build([QUESTION], [LESSONS, made], SMALL)
    dataset = build([QUESTION], [LESSONS, made], SMALL, leakage="drop")
    assert pairs_of(dataset, "q") == listed((A, A), (B, B))  # its own demonstrations stay
    assert pairs_of(dataset, "l") == listed((C, A), (C, D))
    assert len(dataset.manifest["audit"]["leaks"]) == 1
    assert audited_in(dataset.manifest["audit"]) == Audited(0, "drop", 2, 0, generators=1)
    assert "left out: 1 generator of a rearc: source makes pairs of scored tasks" in caplog.text
    assert len(pairs_of(build([QUESTION], [made], SMALL, leakage="allow"), "q")) == 3


def test_sources_that_disagree_on_tests_are_refused() -> None:
    other = Source("arc2:training", (Task("q", (Pair(A, A),), (C, D)),), {})
    with pytest.raises(ValueError, match="task q has other tests in arc2:training and arc1:evaluation"):
        build([QUESTION, other], [], SMALL)


def test_the_identity_comes_first_and_views_are_distinct(dataset: TaskDataset) -> None:
    for task_id in dataset.task_ids:
        codes = codes_of(dataset, task_id)
        assert codes[0] == 0
        assert len(set(codes)) == len(codes) == 8


def test_a_task_has_no_more_views_than_exist() -> None:
    plain = Task("plain", (Pair(grid([0, 0]), grid([1])),), (grid([0, 0]),))
    dataset = build([Source("plain", (plain,), {})], [], BuildConfig(augmentations=1000))
    assert len(dataset.transforms) == 18
    kept = build([Source("plain", (plain,), {})], [], BuildConfig(augmentations=1000, policy="keep-output-only"))
    assert len(kept.transforms) == 2


def test_canvases_follow_the_rule_of_the_task_and_hold_the_pair(dataset: TaskDataset) -> None:
    assert dataset.test_canvas.tolist() == [[2, 3], [2, 1]]
    single = dataset.pair_canvas[dataset.pair_start[0] : dataset.pair_start[1]]
    assert single.tolist() == [[30, 30]]
    doubled = tuple(Pair(grid, np.tile(grid, (2, 2))) for grid in (B, C))
    tasks = (Task("doubled", doubled, (A,)), Task("constant", (Pair(A, B), Pair(D, B)), (A,)))
    assert build([Source("s", tasks, {})], [], SMALL).test_canvas.tolist() == [[2, 3], [4, 4]]


def test_order_of_sources_tasks_and_pairs_does_not_matter() -> None:
    more = Source("json:more", (Task("q", (Pair(B, B), Pair(C, D)), ()),), {})
    turned = Source(LESSONS.name, tuple(Task(t.id, t.train[::-1], t.test) for t in LESSONS.tasks[::-1]), LESSONS.solutions)
    first = build([QUESTION], [LESSONS, more], SMALL)
    assert build([QUESTION], [more, turned], SMALL).data_hash == first.data_hash
    assert build([QUESTION], [more, LESSONS], SMALL).manifest == first.manifest


@pytest.mark.parametrize("names", [("json:a", "json:b"), ("json:a/x", "json:b/x")])
def test_the_order_of_sources_of_one_weight_that_share_a_pair_does_not_matter(names: tuple[str, str]) -> None:
    of_names = ((Pair(C, D), Pair(C, A)), (Pair(C, D), Pair(D, D), Pair(C, B)))
    sources = [Source(name, (Task("q", pairs, ()),), {}) for name, pairs in zip(names, of_names, strict=True)]
    assert build([QUESTION], sources, SMALL).data_hash == build([QUESTION], sources[::-1], SMALL).data_hash


def test_another_seed_draws_other_views() -> None:
    first, second = (build([QUESTION], [LESSONS], BuildConfig(augmentations=7, seed=seed)) for seed in (0, 1))
    assert first.cells.tobytes() == second.cells.tobytes()
    assert codes_of(first, "q") != codes_of(second, "q")
    assert codes_of(first, "q")[1:] != codes_of(first, "m")[1:]


def test_the_number_of_processes_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build([QUESTION], [LESSONS], BuildConfig(augmentations=7, jobs=1)).save(tmp_path / "one")
    monkeypatch.setattr(build_module, "PROCESSES_PAY_SECONDS", 0.0)
    build([QUESTION], [LESSONS], BuildConfig(augmentations=7, jobs=2)).save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


MANY = tuple(Task(f"t{i:02}", (Pair(D, A), Pair(grid([i % 9 + 1, 2, 3]), C)), (D,)) for i in range(32))
"""Tasks that have all views there are."""


def build_many(seconds: float | None) -> TaskDataset:
    return build([Source("json:many.json", MANY, {})], [], BuildConfig(augmentations=99, jobs=1), seconds=seconds)


def test_the_number_of_shares_in_which_views_are_drawn_does_not_matter() -> None:
    assert build_many(seconds=None).data_hash == build_many(seconds=1e9).data_hash


class Clock:
    """Stands still until something is drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_per_view: float) -> None:
        self.now, real = 100.0, build_module._draw_share

        def draw(dataset: TaskDataset, numbers: Iterable[int], config: BuildConfig, most: int) -> Any:
            codes = real(dataset, numbers, config, most)
            self.now += seconds_per_view * sum(map(len, codes))
            return codes

        monkeypatch.setattr(build_module, "_draw_share", draw)
        monkeypatch.setattr(build_module.time, "monotonic", lambda: self.now)


def test_where_drawing_views_is_slow_there_are_fewer_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch, 1.0)
    with caplog.at_level(logging.WARNING):
        dataset = build_many(seconds=800.0)  # 3200 for all
    counts = np.diff(dataset.transform_start)
    assert counts[0] == 100
    assert 800 * 0.9 < clock.now - 100 <= 800
    fewest = int(counts.min())
    assert 10 < fewest < 25
    assert dataset.manifest["augmentations_cut_to"] == fewest - 1
    assert f"of some tasks there are {fewest - 1} besides the task itself, not 99" in caplog.text


@pytest.mark.parametrize(("seconds", "least", "said"), [(0.0, 1, 0), (4000.0, 100, None), (None, 100, None)])
def test_without_time_tasks_stay_as_they_are_and_with_enough_nothing_is_cut(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, least: int, said: int | None
) -> None:
    Clock(monkeypatch, 1.0)
    dataset = build_many(seconds)
    assert np.diff(dataset.transform_start).tolist() == [100] + [least] * 31
    assert dataset.manifest.get("augmentations_cut_to") == said


def test_the_hash_seed_of_python_does_not_matter(dataset: TaskDataset) -> None:
    script = "from tests.pipeline.data.test_build import *; print(build([QUESTION], [LESSONS], SMALL).data_hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "12"}
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == dataset.data_hash


def test_the_manifest_says_what_came_from_where(dataset: TaskDataset) -> None:
    manifest = dataset.manifest
    assert manifest["settings"] == {"augmentations": 7, "policy": "all", "seed": 0, "draw": "tasks", "size_exponent": 0.0}
    described = [(s["name"], s["role"], s["tasks"], s["demonstrations"], s["tests_trained"]) for s in manifest["sources"]]
    assert described == [("arc1:evaluation", "solve", 1, 2, 0), ("json:lessons.json", "train", 2, 4, 1)]
    totals = dict(manifest["totals"])
    assert totals.pop("bytes") > 0
    assert totals == {"tasks": 3, "pairs": 6, "tests": 2, "grids": 4, "transforms": 24}
    assert manifest["audit"] == {
        "leakage": "refuse",
        "leaks": [],
        "pairs": 0,
        "generators": 0,
        "given": [],
        "tests_checked": 2,
        "tests_unchecked": 0,
    }
    assert "/" not in str(manifest)


LEAKING = Source("rearc:/r.zip", (Task("x", (Pair(TURN.apply(D), TURN.apply(SECRET)), Pair(A, B)), ()),), {})


def test_leaks_are_refused_by_name_left_out_or_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    leak = "rearc:r.zip x demonstration 0 is arc1:evaluation q test 0"
    with pytest.raises(
        ValueError, match=f"^1 training pair shows the answer to a scored test: {leak}.*--leakage drop"
    ) as caught:
        build([QUESTION], [LESSONS, LEAKING], SMALL)
    assert str(caught.value).isprintable()
    dropped, allowed = (build([QUESTION], [LESSONS, LEAKING], SMALL, leakage) for leakage in ("drop", "allow"))
    assert [record.message[:35] for record in caplog.records] == [
        "left out: 1 training pair shows the",
        "trained on all the same: 1 training",
    ]
    assert pairs_of(dropped, "x") == listed((A, B))
    assert len(pairs_of(allowed, "x")) == 2
    assert dropped.manifest["audit"]["leaks"] == allowed.manifest["audit"]["leaks"] == [leak]


def test_many_leaks_are_counted_and_the_first_few_named() -> None:
    tasks = tuple(Task(f"x{i}", (Pair(D, SECRET),), ()) for i in range(5))
    with pytest.raises(ValueError, match=r"5 training pairs show .*x0.*x1.*x2.*and 2 more"):
        build([QUESTION], [Source("rearc:r", tasks, {})], SMALL)


def test_a_pair_that_shows_two_answers_is_one_pair() -> None:
    twice = Source("arc1:evaluation", (Task("q", (Pair(A, A), Pair(B, B)), (D, D)),), {"q": (SECRET, SECRET)})
    dataset = build([twice], [Source("rearc:r", (Task("x", (Pair(D, SECRET),), ()),), {})], SMALL, "drop")
    assert len(dataset.manifest["audit"]["leaks"]) == 2
    assert audited_in(dataset.manifest["audit"]) == Audited(1, "drop", 2, 0)


def test_a_leaking_copy_of_the_scored_task_loses_its_tests_and_a_task_of_which_nothing_is_left_is_left_out() -> None:
    only = Source("rearc:r", (Task("x", (Pair(D, SECRET),), ()),), {})
    dataset = build([QUESTION], [QUESTION, only], SMALL, "drop")
    assert dataset.task_ids == ("q",)
    assert pairs_of(dataset, "q") == listed((A, A), (B, B))
    assert len(dataset.manifest["audit"]["leaks"]) == 3


def test_a_demonstration_that_shows_the_answer_to_its_own_task_stays() -> None:
    task = Task("own", (Pair(A, B), Pair(C, D)), (TURN.apply(A),))
    dataset = build([Source("s", (task,), {"own": (TURN.apply(B),)})], [], SMALL)
    assert len(pairs_of(dataset, "own")) == 2
    assert dataset.manifest["audit"]["given"] == ["s own demonstration 0 is s own test 0"]


def test_nothing_to_build_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to build"):
        build([], [], SMALL)
