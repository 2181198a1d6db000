"""A dataset on disk, of tasks or of puzzles, is the dataset in memory, byte for byte, or it does not load."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save

from pipeline.data.dataset import ARRAYS_FILE, MANIFEST_FILE, Dataset, TaskDataset, load_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset

GRIDS = ([[1, 2, 3], [4, 5, 6]], [[7]], [[0, 9]])


def make_dataset(**changes: Any) -> TaskDataset:
    """Return a dataset of two tasks: "a" with two pairs, "b" with one and two tests."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "cells": np.array([cell for rows in GRIDS for row in rows for cell in row], dtype=np.uint8),
        "grid_start": np.array([0, 6, 7], dtype=np.int64),
        "grid_height": np.array([2, 1, 1], dtype=np.uint8),
        "grid_width": np.array([3, 1, 2], dtype=np.uint8),
        "pair_task": np.array([0, 0, 1], dtype=np.int32),
        "pair_input": np.array([0, 1, 2], dtype=np.int32),
        "pair_output": np.array([1, 1, 0], dtype=np.int32),
        "pair_start": np.array([0, 2, 3], dtype=np.int64),
        "pair_canvas": np.array([[2, 3], [1, 1], [2, 3]], dtype=np.uint8),
        "test_task": np.array([1, 1], dtype=np.int32),
        "test_index": np.array([0, 1], dtype=np.int32),
        "test_input": np.array([1, 2], dtype=np.int32),
        "test_canvas": np.array([[2, 3], [30, 30]], dtype=np.uint8),
        "transforms": np.array([0, 0, 5, 2_903_039], dtype=np.uint32),
        "transform_start": np.array([0, 1, 4], dtype=np.int64),
    }
    return replace(TaskDataset(("a", "b"), **arrays, manifest={"settings": {"seed": 3}}), **changes)


@pytest.fixture(params=[make_dataset, tiny_puzzle_dataset], ids=["tasks", "puzzles"])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return request.param()


def test_tasks_to_solve_have_their_pairs_and_tests() -> None:
    (task,) = make_dataset().tasks_to_solve()
    assert (task.id, [grid.tolist() for grid in task.test]) == ("b", [GRIDS[1], GRIDS[2]])
    assert [(pair.input.tolist(), pair.output.tolist()) for pair in task.train] == [(GRIDS[2], GRIDS[0])]


def test_a_test_has_the_views_of_its_task_up_to_the_most_that_are_wanted() -> None:
    assert make_dataset().test_views(99) == {("b", 0): 3, ("b", 1): 3}
    assert make_dataset().test_views(2) == {("b", 0): 2, ("b", 1): 2}


def test_what_is_saved_is_what_is_loaded_with_tests_or_without(dataset: Dataset, tmp_path: Path) -> None:
    none = {name: array[:0] for name, array in dataset.arrays().items() if name.startswith("test_")}
    for each in (dataset, replace(dataset, **none)):
        each.save(tmp_path / "new" / "folder")
        loaded = load_dataset(tmp_path / "new" / "folder")
        assert type(loaded) is type(each)
        names = ("task_ids", "manifest", "data_hash")
        for name in (*names, "tests_hash") if isinstance(each, TaskDataset) else names:
            assert getattr(loaded, name) == getattr(each, name), name
        for name, array in each.arrays().items():
            assert np.array_equal(loaded.arrays()[name], array), name
            assert loaded.arrays()[name].dtype == array.dtype, name


def test_saving_again_gives_the_same_bytes_and_leaves_nothing_else(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("first", "second", "second"):
        dataset.save(tmp_path / name)
    for name in (ARRAYS_FILE, MANIFEST_FILE):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [MANIFEST_FILE, ARRAYS_FILE]


def test_the_hash_tells_ids_and_arrays_but_not_manifests() -> None:
    dataset = make_dataset()
    assert make_dataset(manifest={}).data_hash == dataset.data_hash
    assert make_dataset(task_ids=("a", "c")).data_hash != dataset.data_hash
    for name, array in dataset.arrays().items():
        changed = array.copy()
        changed.flat[-1] += 1
        assert make_dataset(**{name: changed}).data_hash != dataset.data_hash, name


def test_the_hash_of_the_tests_tells_their_ids_inputs_and_order_but_not_what_is_trained_on() -> None:
    dataset = make_dataset()
    other_inputs = [make_dataset(test_input=np.array(grids, dtype=np.int32)) for grids in ([2, 1], [1, 0])]
    others = [make_dataset(task_ids=("a", "c")), *other_inputs]
    assert len({each.tests_hash for each in (dataset, *others)}) == 4
    assert make_dataset(pair_output=dataset.pair_input).tests_hash == dataset.tests_hash


@pytest.mark.parametrize("name", [ARRAYS_FILE, MANIFEST_FILE])
def test_a_missing_file_is_named(dataset: Dataset, name: str, tmp_path: Path) -> None:
    dataset.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file; a dataset has"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda content, kept=kept: content[:kept] for kept in (0, 4, 100, -1)),
        *(lambda _, dtype=dtype: save({"cells": torch.zeros(9).to(dtype)}) for dtype in (torch.bfloat16, torch.float8_e4m3fn)),
    ],
)
def test_arrays_that_are_truncated_or_of_types_that_numpy_lacks_are_refused(
    dataset: Dataset, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    dataset.save(tmp_path)
    path = tmp_path / ARRAYS_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"store\.safetensors: damaged or not a safetensors file"):
        type(dataset).load(tmp_path)


@pytest.mark.parametrize("added", [False, True])
def test_arrays_that_were_changed_are_noticed(dataset: Dataset, added: bool, tmp_path: Path) -> None:
    dataset.save(tmp_path)
    path = tmp_path / ARRAYS_FILE
    arrays = safetensors.numpy.load(path.read_bytes())
    if added:
        arrays["test_answers"] = np.zeros(1)
    else:
        name = "cells" if "cells" in arrays else "test_questions"
        arrays[name] = arrays[name][::-1].copy()
    path.write_bytes(safetensors.numpy.save(arrays))
    message = r"missing \[\], unknown \['test_answers'\]" if added else "does not belong to the manifest"
    with pytest.raises(ValueError, match=message):
        type(dataset).load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"format": "arc-trm-dataset 1"', "not JSON"),
        (b"[]", "expected an object"),
        (b'{"format": "arc-trm-dataset 99"}', "got 'arc-trm-dataset 99'"),
        (b'{"format": "arc-trm-puzzles 1"}', "expected format 'arc-trm-dataset 1', got 'arc-trm-puzzles 1'"),
        (b'{"format": "arc-trm-dataset 1"}', "task_ids must be a list, got None"),
        (b'{"format": "arc-trm-dataset 1", "task_ids": [1], "data_hash": ""}', "task_ids must be of type str"),
    ],
)
def test_foreign_manifests_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    make_dataset().save(tmp_path)
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"manifest.json: .*{message}"):
        TaskDataset.load(tmp_path)
