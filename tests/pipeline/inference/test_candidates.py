"""Candidates come back to the original frame, and survive the disk."""

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import save_file

from augment.canvas import decode
from augment.grid import Grid
from augment.transform import Transform
from pipeline.data.packs import Pack
from pipeline.inference.candidates import (
    Candidates,
    Origin,
    clear_candidates,
    join_candidates,
    read_candidates,
    to_candidates,
    write_candidates,
)
from pipeline.tensor_files import read_tensors

ORIGIN = Origin("run/weights.safetensors, step 7", "abc", 3, 9, 17, complete=False)


def small_candidates() -> Candidates:
    """Random grids of up to 4 x 4, one of which was not predicted."""
    rng = np.random.default_rng(1)
    shape = rng.integers(1, 5, size=(24, 2), dtype=np.uint8)
    shape[7] = 0
    cells = rng.integers(0, 10, size=int(shape.astype(int).prod(axis=1).sum()), dtype=np.uint8)
    test, transform = np.arange(24, dtype=np.int32), rng.integers(0, 2**32, size=24, dtype=np.uint32)
    return Candidates(test, transform, rng.random(24, dtype=np.float32), shape, cells)


def one_by_one(pack: Pack, tokens: npt.NDArray[np.uint8]) -> list[Grid | None]:
    """What `to_candidates` finds, by a loop over the canvases."""
    found, cell = [], 0
    for (height, width), dihedral, colors in zip(pack.shapes.tolist(), pack.dihedral, pack.colors, strict=True):
        view = decode(tokens[cell : cell + height * width].reshape(height, width))
        transform = Transform(int(dihedral), tuple(colors.tolist()))
        found.append(None if view is None else transform.inverse().apply(view))
        cell += height * width
    return found


@pytest.mark.parametrize("seed", [0, 2])
def test_predictions_tidy_or_not_come_back_to_the_original_frame_as_by_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = np.repeat([[1, 1], [2, 3], [3, 2], [6, 6]], 40, axis=0)
    count = len(shapes)
    cells = int(shapes.prod(axis=1).sum())
    tokens = np.where(rng.random(cells) < 0.1 * seed, rng.integers(0, 2, cells), rng.integers(2, 12, cells)).astype(np.uint8)
    colors = np.concatenate((np.zeros((count, 1), int), rng.permuted(np.tile(np.arange(1, 10), (count, 1)), axis=1)), axis=1)
    dihedral, zero = rng.integers(0, 8, count), np.zeros(count, np.int64)
    pack = Pack(tokens.astype(np.int64), None, shapes, np.zeros_like(shapes), zero, zero, dihedral, colors)
    tests, codes, probability = rng.permutation(count), rng.permutation(count).astype(np.uint32), rng.random(count, np.float32)
    candidates = to_candidates(tests, pack, codes, tokens, probability)
    found = list(candidates.grids())
    assert [test for test, _, _ in found] == tests.tolist()
    assert [sure for _, _, sure in found] == probability.tolist()
    assert candidates.transform.tolist() == codes.tolist()
    for (_, grid, _), expected in zip(found, one_by_one(pack, tokens), strict=True):
        assert (grid is None) == (expected is None)
        assert grid is None or expected is None or np.array_equal(grid, expected)


def assert_equal(ours: Candidates, others: Candidates) -> None:
    for field in fields(Candidates):
        mine, other = getattr(ours, field.name), getattr(others, field.name)
        assert mine.dtype == other.dtype, field.name
        assert np.array_equal(mine, other), field.name


def written(folder: Path, candidates: Candidates) -> Path:
    path = folder / "round-0001.safetensors"
    write_candidates(path, candidates, ORIGIN)
    return path


@pytest.mark.parametrize("candidates", [small_candidates(), join_candidates([])], ids=["some", "none"])
def test_candidates_are_read_as_they_were_written(tmp_path: Path, candidates: Candidates) -> None:
    path = written(tmp_path, candidates)
    found, origin = read_candidates(path)
    assert_equal(found, candidates)
    assert origin == ORIGIN
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_joined_candidates_are_those_of_the_parts_in_order() -> None:
    whole = small_candidates()
    areas = np.concatenate(([0], whole.shape.astype(int).prod(axis=1).cumsum()))
    parts = []
    for start, stop in pairwise([0, 0, 5, 17, len(whole.test)]):
        rows = (getattr(whole, name)[start:stop] for name in ("test", "transform", "probability", "shape"))
        parts.append(Candidates(*rows, whole.cells[areas[start] : areas[stop]]))
    assert_equal(join_candidates(parts), whole)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("test", lambda array: array[1:], "its columns differ in length"),
        ("cells", lambda array: array[1:], "cells do not fill the grids"),
        ("shape", lambda array: array + 1, "cells do not fill the grids"),
        ("cells", lambda array: array + 10, "it holds what is no grid"),
        ("test", lambda array: array - 100, "it holds what is no test input"),
        ("probability", lambda array: array + 1, "it holds what is no test input or no probability"),
        ("probability", lambda array: array * float("nan"), "it holds what is no test input or no probability"),
    ],
)
def test_columns_that_contradict_each_other_are_damage(
    tmp_path: Path, name: str, damage: Callable[[Any], Any], message: str
) -> None:
    path = written(tmp_path, small_candidates())
    tensors, metadata = read_tensors(path)
    save_file(tensors | {name: damage(tensors[name]).clone().contiguous()}, path, metadata=metadata)
    with pytest.raises(ValueError, match=f"^{path}: damaged, .*{message}"):
        read_candidates(path)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, small_candidates())
    tensors, metadata = read_tensors(path)
    for changed, said in (({**tensors, "more": tensors["test"].clone()}, metadata), (tensors, {"source": "x"}), ({}, metadata)):
        save_file(changed, path, metadata=said)
        with pytest.raises(ValueError, match=f"^{path}: not a file of candidates"):
            read_candidates(path)


def test_clearing_removes_earlier_candidates_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "candidates"
    clear_candidates(folder)
    folder.mkdir(parents=True)
    written(folder, small_candidates())
    (folder / "notes.txt").write_text("kept")
    clear_candidates(folder)
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]
