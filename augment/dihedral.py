"""The eight dihedral symmetries of a grid, numbered 0..7 as the published ARC builders number them.

0 identity, 1 quarter turn counterclockwise, 2 half turn, 3 quarter turn clockwise, 4 left-right flip, 5 up-down flip,
6 transpose, 7 flip across the other diagonal. `augment.transform` combines them with color permutations.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from augment.errors import InputError

Cell = TypeVar("Cell", bound=np.generic)
"""Type of the cells: colors or anything else on a grid."""
DIHEDRALS = 8

STEPS = (
    (False, False, False),
    (True, True, False),
    (False, True, True),
    (True, False, True),
    (False, False, True),
    (False, True, False),
    (True, False, False),
    (True, True, True),
)
"""By dihedral: transpose first?, then reverse the rows?, then reverse the columns?"""


def apply_dihedral(grid: npt.NDArray[Cell], dihedral: int) -> npt.NDArray[Cell]:
    """Return a new array: `grid` (..., H, W) seen through `dihedral` 0..7; 1, 3, 6 and 7 swap its sides. Raises InputError."""
    transpose, reverse_rows, reverse_columns = STEPS[check_dihedral(dihedral)]
    turned = grid.swapaxes(-1, -2) if transpose else grid
    return turned[..., :: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1].copy(order="C")


def invert_dihedral(grid: npt.NDArray[Cell], dihedral: int) -> npt.NDArray[Cell]:
    """Return the grid, or grids, of which `grid` is the view: the inverse of `apply_dihedral`, with the same errors."""
    return apply_dihedral(grid, inverse_dihedral(dihedral))


def compose_dihedral(first: int, second: int) -> int:
    """Return the dihedral that equals `first` followed by `second`. Raises InputError unless both are 0..7."""
    transpose, reverse_rows, reverse_columns = STEPS[check_dihedral(first)]
    transpose_after, rows_after, columns_after = STEPS[check_dihedral(second)]
    if transpose_after:
        reverse_rows, reverse_columns = reverse_columns, reverse_rows
    return STEPS.index((transpose ^ transpose_after, reverse_rows ^ rows_after, reverse_columns ^ columns_after))


def inverse_dihedral(dihedral: int) -> int:
    """Return the inverse of `dihedral`, which is itself for all but the quarter turns."""
    return {1: 3, 3: 1}.get(check_dihedral(dihedral), dihedral)


def swaps_sides(dihedral: int) -> bool:
    """Return whether `dihedral` turns an (H, W) grid into a (W, H) one."""
    return STEPS[check_dihedral(dihedral)][0]


def check_dihedral(dihedral: int) -> int:
    """Return `dihedral`. Raises InputError unless it is 0..7."""
    if not 0 <= dihedral < DIHEDRALS:
        raise InputError(f"a dihedral is 0..{DIHEDRALS - 1}, got {dihedral}")
    return dihedral
