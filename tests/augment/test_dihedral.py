"""The eight symmetries: numbering, inverses, and the group they form."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.dihedral import DIHEDRALS, apply_dihedral, compose_dihedral, inverse_dihedral, invert_dihedral, swaps_sides
from augment.grid import Grid
from tests.augment.strategies import grids

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "arc_transforms.json").read_text())["dihedral"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["tid"]))
def test_numbering_is_the_published_one(case: dict[str, Any]) -> None:
    grid = np.array(case["grid"], dtype=np.uint8)
    transformed = apply_dihedral(grid, case["tid"])
    assert transformed.tolist() == case["transformed"]
    assert invert_dihedral(transformed, case["tid"]).tolist() == case["restored"]


@given(grids(), st.integers(0, 7))
def test_invert_undoes_apply_also_for_stacked_grids(grid: Grid, dihedral: int) -> None:
    assert np.array_equal(invert_dihedral(apply_dihedral(grid, dihedral), dihedral), grid)
    assert compose_dihedral(dihedral, inverse_dihedral(dihedral)) == 0
    stack = np.stack([grid, 9 - grid])
    assert np.array_equal(apply_dihedral(stack, dihedral), [apply_dihedral(one, dihedral) for one in stack])
    assert invert_dihedral(stack, dihedral).flags.c_contiguous


@given(grids(), st.integers(0, 7), st.integers(0, 7))
def test_composition_is_one_after_the_other(grid: Grid, first: int, second: int) -> None:
    one_by_one = apply_dihedral(apply_dihedral(grid, first), second)
    assert np.array_equal(apply_dihedral(grid, compose_dihedral(first, second)), one_by_one)


@pytest.mark.parametrize("dihedral", range(DIHEDRALS))
def test_result_is_a_new_contiguous_array_of_the_right_shape(dihedral: int) -> None:
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = apply_dihedral(grid, dihedral)
    assert turned.shape == ((3, 2) if swaps_sides(dihedral) else (2, 3))
    assert turned.flags.c_contiguous
    assert not np.shares_memory(turned, grid)


@pytest.mark.parametrize("wrong", [-1, 8])
def test_other_numbers_are_refused(wrong: int) -> None:
    grid = np.zeros((1, 1), dtype=np.uint8)
    for call in (lambda: apply_dihedral(grid, wrong), lambda: compose_dihedral(0, wrong), lambda: inverse_dihedral(wrong)):
        with pytest.raises(ValueError, match=rf"0\.\.7, got {wrong}"):
            call()
