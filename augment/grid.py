"""The grid type and its parser, which checks every grid from outside once; all other code relies on that."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from augment.errors import InputError

Grid = npt.NDArray[np.uint8]
"""(H, W) uint8, 1 <= H, W <= 30, colors 0..9."""
MAX_SIDE = 30
COLORS = 10
_COLORS = frozenset(range(COLORS))


def parse_grid(rows: object, where: str) -> Grid:
    """Return `rows` as a grid. Raises InputError, beginning with `where`, unless they are 1..30 lists of 1..30 colors 0..9."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise InputError(f"{where}: expected a grid (a list of rows), got {type(rows).__name__}")
    if not 1 <= len(rows) <= MAX_SIDE:
        raise InputError(f"{where}: a grid has 1 to {MAX_SIDE} rows, got {len(rows)}")
    for i, row in enumerate(rows):
        if type(row) is not list and (not isinstance(row, Sequence) or isinstance(row, str | bytes)):
            raise InputError(f"{where}: row {i} must be a list of colors, got {type(row).__name__}")
        if i == 0 and not 1 <= len(row) <= MAX_SIDE:
            raise InputError(f"{where}: a row has 1 to {MAX_SIDE} cells, got {len(row)}")
        if len(row) != len(rows[0]):
            raise InputError(f"{where}: not a rectangle, row {i} has {len(row)} cells and row 0 has {len(rows[0])}")
    cells = [*chain.from_iterable(rows)]
    if set(map(type, cells)) != {int} or not _COLORS.issuperset(cells):
        place, color = next((k, color) for k, color in enumerate(cells) if type(color) is not int or color not in _COLORS)
        i, j = divmod(place, len(rows[0]))
        # repr fails on lists nested a thousand deep
        shown = f"a {type(color).__name__}" if isinstance(color, list | tuple | dict) else f"{color!r:.40}"
        raise InputError(f"{where}: row {i}, cell {j}: a color is an int 0..9, got {shown}")
    return np.frombuffer(bytes(cells), dtype=np.uint8).reshape(len(rows), -1).copy()


def grid_key(grid: Grid) -> bytes:
    """Return bytes that are equal if and only if the grids are (shape and cells)."""
    return bytes(grid.shape) + grid.tobytes()
