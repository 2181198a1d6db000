"""Reading grids from outside data."""

import numpy as np
import pytest
from hypothesis import given

from augment.grid import MAX_SIDE, Grid, grid_key, parse_grid
from tests.augment.strategies import grids


@given(grids())
def test_rows_of_a_grid_are_read_back_unchanged(grid: Grid) -> None:
    for rows in (grid.tolist(), tuple(map(tuple, grid.tolist()))):
        parsed = parse_grid(rows, "here")
        assert parsed.dtype == np.uint8
        assert np.array_equal(parsed, grid)


def test_largest_grid_is_accepted_and_can_be_written_to() -> None:
    grid = parse_grid([[9] * MAX_SIDE] * MAX_SIDE, "here")
    grid[0, 0] = 5
    assert (grid.shape, int(grid[0, 0])) == ((MAX_SIDE, MAX_SIDE), 5)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (None, "expected a grid"),
        ("12", "expected a grid"),
        ([], "1 to 30 rows, got 0"),
        ([[1]] * 31, "1 to 30 rows, got 31"),
        ([1, 2], "row 0 must be a list"),
        ([[1], "2"], "row 1 must be a list"),
        ([[]], "1 to 30 cells, got 0"),
        ([[1] * 31], "1 to 30 cells, got 31"),
        ([[1, 2], [3]], "row 1 has 1 cells and row 0 has 2"),
        ([[1, 10]], "row 0, cell 1: a color is an int 0..9, got 10"),
        ([[-1]], "got -1"),
        ([[[[1]]]], "got a list"),
        ([[np.uint8(1)]], "a color is an int 0..9"),
        (np.ones((1, 1), dtype=np.uint8), "expected a grid"),
        ([[1.0]], "got 1.0"),
        ([[True]], "got True"),
        ([["1" * 100]], "got '1{39}$"),
    ],
)
def test_anything_but_a_grid_is_refused_with_its_place(rows: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        parse_grid(rows, "file.json: task t: train 0")
    assert str(error.value).startswith("file.json: task t: train 0: ")
    assert len(str(error.value)) < 120


@given(grids(max_side=2, colors=2), grids(max_side=2, colors=2))
def test_keys_are_equal_exactly_for_equal_grids(first: Grid, second: Grid) -> None:
    assert (grid_key(first) == grid_key(second)) == np.array_equal(first, second)
    assert grid_key(np.asfortranarray(first)) == grid_key(first)
