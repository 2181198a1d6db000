"""Why an attempt was missed: the words are those that a person would check on the grids."""

import numpy as np
import pytest
from hypothesis import given, settings

from augment.dihedral import apply_dihedral
from augment.grid import Grid
from eval.explain import explain, wrong_cells
from tests.augment.strategies import grids
from tests.grids import grid

TRUTH = grid([1, 2, 3], [4, 5, 6])


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (None, "there is no attempt"),
        (TRUTH, "right"),
        (grid([1, 2, 3], [4, 0, 6]), "1 of 6 cells is wrong: row 2, column 2 is black (0), should be gray (5)"),
        (
            grid([0, 2, 3], [4, 0, 6]),
            "2 of 6 cells are wrong: row 1, column 1 is black (0), should be blue (1); "
            "row 2, column 2 is black (0), should be gray (5)",
        ),
        (
            grid([1, 2], [4, 0]),
            "wrong size: 2 x 2, the truth is 2 x 3; 3 of the 4 cells that both have at the top left agree; "
            "green (3), gray (5) and magenta (6) are missing; black (0) should not be there",
        ),
    ],
)
def test_each_kind_of_miss_has_its_words(attempt: Grid | None, words: str) -> None:
    assert explain(attempt, TRUTH) == words


def test_many_wrong_cells_are_placed_the_colors_named_and_renamed_colors_told_from_wrong_shapes() -> None:
    truth = np.zeros((5, 5), np.uint8)
    truth[1:3, 2:5] = 2
    assert explain(np.zeros((5, 5), np.uint8), truth) == (
        "6 of 25 cells are wrong, within rows 2 to 3, columns 3 to 5; red (2) is missing"
    )
    everywhere = np.ones((5, 5), np.uint8)
    everywhere[2, 3] = 2
    assert explain(everywhere, truth).startswith("24 of 25 cells are wrong, all over the grid; black (0) is missing; blue (1)")

    assert explain(grid([7, 7, 0], [0, 7, 7]), grid([1, 1, 0], [0, 1, 1])) == (
        "the shapes are right, the colors are not: orange (7) where blue (1) belongs (4 of 6 cells)"
    )


@pytest.mark.parametrize(("dihedral", "words"), [(4, "flipped left to right"), (6, "transposed"), (2, "turned by half")])
def test_a_symmetry_of_the_truth_is_named(dihedral: int, words: str) -> None:
    assert explain(apply_dihedral(TRUTH, dihedral), TRUTH) == f"it is the truth {words}"


@settings(max_examples=50)
@given(grids(max_side=3, colors=3), grids(max_side=3, colors=3))
def test_right_is_said_exactly_of_equal_grids_and_always_in_one_line(attempt: Grid, truth: Grid) -> None:
    words = explain(attempt, truth)
    assert (words == "right") == np.array_equal(attempt, truth)
    assert "\n" not in words
    wrong = wrong_cells(attempt, truth)
    assert (wrong is None) == (attempt.shape != truth.shape)
