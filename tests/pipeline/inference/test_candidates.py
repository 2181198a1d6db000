"""Candidates come back to the original frame, and survive the disk."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import save_file

from augment.canvas import decode, encode
from augment.grid import Grid
from augment.transform import Transform, transform_to_int
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


def random_transform(rng: np.random.Generator, dihedral: int) -> Transform:
    return Transform(dihedral, (0, *(int(color) + 1 for color in rng.permutation(9))))


def make_pack(views: list[tuple[Transform, Grid]], side: int) -> tuple[Pack, npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """A pack of square canvases, the tokens that show each grid through its transform, and the codes of the views."""
    tokens = np.concatenate([encode(transform.apply(grid), side, side).ravel() for transform, grid in views])
    count = len(views)
    dihedral = np.array([transform.dihedral for transform, _ in views])
    colors = np.array([transform.colors for transform, _ in views])
    none = np.zeros((count, 2), np.int64)
    pack = Pack(tokens.astype(np.int64), None, np.full((count, 2), side), none, none[:, 0], none[:, 0], dihedral, colors)
    return pack, tokens, np.array([transform_to_int(transform) for transform, _ in views], np.uint32)


def random_views(seed: int, largest: int) -> list[tuple[Transform, Grid]]:
    """Three random grids through random colors for each of the eight dihedrals."""
    rng = np.random.default_rng(seed)
    return [
        (random_transform(rng, k % 8), rng.integers(0, 10, size=rng.integers(1, largest + 1, size=2), dtype=np.uint8))
        for k in range(24)
    ]


def added(*calls: tuple[Pack, npt.NDArray[np.uint32], npt.NDArray[np.uint8]]) -> Candidates:
    """The candidates of packs, views and predicted tokens; tests are numbered, probabilities are a tenth each."""
    parts, count = [], 0
    for pack, codes, tokens in calls:
        tests = np.arange(count, count + len(codes))
        parts.append(to_candidates(tests, pack, codes, tokens, np.full(len(codes), 0.1, np.float32)))
        count += len(codes)
    return join_candidates(parts)


def assert_grids(candidates: Candidates, expected: Sequence[Grid | None]) -> None:
    for (_, found, _), grid in zip(candidates.grids(), expected, strict=True):
        assert (found is None) == (grid is None)
        assert found is None or grid is None or np.array_equal(found, grid)


def small_candidates() -> Candidates:
    pack, tokens, codes = make_pack(random_views(1, 4), 5)
    return added((pack, codes, tokens))


@pytest.mark.parametrize(("side", "largest"), [(5, 5), (8, 5), (30, 30)])
def test_every_view_comes_back_to_the_original_frame(side: int, largest: int) -> None:
    views = random_views(0, largest)
    pack, tokens, codes = make_pack(views, side)
    probability = np.linspace(0, 1, len(views), dtype=np.float32)
    candidates = to_candidates(np.arange(100, 124), pack, codes, tokens, probability)
    found = list(candidates.grids())
    assert [test for test, _, _ in found] == list(range(100, 124))
    assert [sure for _, _, sure in found] == probability.tolist()
    for (_, grid, _), (_, original) in zip(found, views, strict=True):
        assert grid is not None
        assert np.array_equal(grid, original)
    assert candidates.transform.tolist() == codes.tolist()


def one_by_one(pack: Pack, tokens: npt.NDArray[np.uint8]) -> list[Grid | None]:
    """What `to_candidates` finds, by a loop over the canvases."""
    found, cell = [], 0
    for (height, width), dihedral, colors in zip(pack.shapes.tolist(), pack.dihedral, pack.colors, strict=True):
        view = decode(tokens[cell : cell + height * width].reshape(height, width))
        transform = Transform(int(dihedral), tuple(colors.tolist()))
        found.append(None if view is None else transform.inverse().apply(view))
        cell += height * width
    return found


@pytest.mark.parametrize("seed", range(4))
def test_untidy_predictions_are_read_as_by_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = np.repeat([[1, 1], [2, 3], [3, 2], [6, 6]], 40, axis=0)
    count = len(shapes)
    cells = int(shapes.prod(axis=1).sum())
    tokens = np.where(rng.random(cells) < 0.1 * seed, rng.integers(0, 2, cells), rng.integers(2, 12, cells)).astype(np.uint8)
    colors = np.concatenate((np.zeros((count, 1), int), rng.permuted(np.tile(np.arange(1, 10), (count, 1)), axis=1)), axis=1)
    dihedral, zero = rng.integers(0, 8, count), np.zeros(count, np.int64)
    pack = Pack(tokens.astype(np.int64), None, shapes, np.zeros_like(shapes), zero, zero, dihedral, colors)
    assert_grids(added((pack, np.zeros(count, np.uint32), tokens)), one_by_one(pack, tokens))


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


@pytest.mark.parametrize("seed", range(5))
def test_joined_candidates_are_those_of_the_parts_in_order(seed: int) -> None:
    whole = small_candidates()
    grids = list(whole.grids())
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(grids) + 1, size=3)).tolist()
    parts = [cut_out(whole, start, stop) for start, stop in pairwise([0, *cuts, len(grids)])]
    assert_equal(join_candidates(parts), whole)
    assert_equal(join_candidates([]), added())


def cut_out(whole: Candidates, start: int, stop: int) -> Candidates:
    areas = np.concatenate(([0], whole.shape.astype(int).prod(axis=1).cumsum()))
    rows = (getattr(whole, name)[start:stop] for name in ("test", "transform", "probability", "shape"))
    return Candidates(*rows, whole.cells[areas[start] : areas[stop]])


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
