"""Canvases: writing a grid as tokens and reading a predicted one back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from augment.canvas import EOS, PAD, VOCABULARY, Tokens, crop_sizes, decode, encode
from augment.grid import Grid
from tests.augment.strategies import grids

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "arc_transforms.json").read_text())["canvas"]


@pytest.mark.parametrize("case", GOLDEN)
def test_published_canvases_are_read_and_if_clean_written_as_published(case: dict[str, Any]) -> None:
    grid = decode(np.array(case["tokens"], dtype=np.uint8).reshape(30, 30))
    assert grid is not None
    assert grid.tolist() == case["cropped"]
    assert not case["clean"] or encode(grid).ravel().tolist() == case["tokens"]


def test_border_lies_below_and_right_but_not_in_the_corner() -> None:
    tokens = encode(np.array([[0, 9]], dtype=np.uint8), height=4, width=5, row=1, column=1)
    assert tokens.tolist() == [[0, 0, 0, 0, 0], [0, 2, 11, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


@given(grids(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_shifted_canvas_holds_the_grid_and_nothing_else(grid: Grid, row: int, column: int, below: int, right: int) -> None:
    height, width = row + grid.shape[0] + below, column + grid.shape[1] + right
    tokens = encode(grid, height, width, row, column)
    assert (tokens.shape, tokens.dtype) == ((height, width), np.uint8)
    assert np.array_equal(decode(tokens[row:, column:]), grid)
    assert (tokens > EOS).sum() == grid.size
    assert (tokens == EOS).sum() == grid.shape[1] * (below > 0) + grid.shape[0] * (right > 0)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ({"height": 1}, "2x3 grid at row 0, column 0 does not fit on a 1x30"),
        ({"width": 2}, "30x2 canvas"),
        ({"row": -1}, "row -1"),
        ({"column": -1}, "column -1"),
    ],
)
def test_grid_that_does_not_fit_is_refused(place: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        encode(np.zeros((2, 3), dtype=np.uint8), **place)


@pytest.mark.parametrize("first", [PAD, EOS, VOCABULARY])
def test_canvas_without_a_color_in_its_corner_is_empty(first: int) -> None:
    tokens = np.full((4, 4), 5, dtype=np.uint8)
    tokens[0, 0] = first
    assert crop_sizes(tokens[None]).tolist() == [[0, 0]]
    assert decode(tokens) is None


def scan(tokens: Tokens) -> tuple[int, int]:
    """Return the crop by looking at every rectangle at the top left."""
    best = (0, 0)
    for rows in range(1, tokens.shape[0] + 1):
        for columns in range(1, tokens.shape[1] + 1):
            block = tokens[:rows, :columns]
            if ((block > EOS) & (block < VOCABULARY)).all() and rows * columns > best[0] * best[1]:
                best = (rows, columns)
    return best


@settings(max_examples=50)
@example(np.array([[[2, 2, 2, 2], [2, 2, 0, 0], [0, 0, 0, 0]]], np.uint8))  # fewest rows of equal areas
@example(np.array([[[2, 1, 2, 2, 2], [2, 2, 2, 2, 2], [2, 2, 0, 2, 2]]], np.uint8))  # a token after a gap
@example(np.full((1, 30, 30), 9, np.uint8))  # no border
@given(arrays(np.uint8, (5, 6, 7), elements=st.sampled_from([0, 1, 2, 2, 3, 7, 11, 11, 11, 12])))
def test_crops_of_a_batch_are_the_largest_rectangles(tokens: Tokens) -> None:
    assert [tuple(size) for size in crop_sizes(tokens).tolist()] == [scan(canvas) for canvas in tokens]
