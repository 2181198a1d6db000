"""The grid type and its parser.

Every grid from outside passes through `parse_grid` once; all other code relies on its checks.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

Grid = npt.NDArray[np.uint8]
"""(H, W) uint8, 1 <= H, W <= 30, colors 0..9."""
MAX_SIDE = 30
COLORS = 10
_COLOR_BYTES = bytes(range(COLORS))


def parse_grid(rows: object, where: str) -> Grid:
    """Return `rows` as a grid. Raises ValueError, beginning with `where`, unless they are 1..30 lists of 1..30 colors 0..9."""
    grid = _convert_plain(rows)
    if grid is not None:
        return grid
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise ValueError(f"{where}: expected a grid (a list of rows), got {type(rows).__name__}")
    if not 1 <= len(rows) <= MAX_SIDE:
        raise ValueError(f"{where}: a grid has 1 to {MAX_SIDE} rows, got {len(rows)}")
    width = None
    for i, row in enumerate(rows):
        if not isinstance(row, Sequence) or isinstance(row, str | bytes):
            raise ValueError(f"{where}: row {i} must be a list of colors, got {type(row).__name__}")
        if width is None:
            width = len(row)
            if not 1 <= width <= MAX_SIDE:
                raise ValueError(f"{where}: a row has 1 to {MAX_SIDE} cells, got {width}")
        if len(row) != width:
            raise ValueError(f"{where}: not a rectangle, row {i} has {len(row)} cells and row 0 has {width}")
        for j, color in enumerate(row):
            if type(color) is not int or not 0 <= color < COLORS:
                # repr fails on lists nested a thousand deep
                shown = f"a {type(color).__name__}" if isinstance(color, list | tuple | dict) else f"{color!r:.40}"
                raise ValueError(f"{where}: row {i}, cell {j}: a color is an int 0..9, got {shown}")
    return np.array(rows, dtype=np.uint8)


def _convert_plain(rows: object) -> Grid | None:
    """Return the grid if `rows` is a valid list of lists: the checks of `parse_grid`, three times faster, without messages."""
    if type(rows) is not list or not 1 <= len(rows) <= MAX_SIDE or set(map(type, rows)) != {list}:
        return None
    width = len(rows[0])
    if not 1 <= width <= MAX_SIDE or set(map(len, rows)) != {width}:
        return None
    cells = list(chain.from_iterable(rows))
    if set(map(type, cells)) != {int}:  # bytes() also accepts True and np.int64(1), which are not colors
        return None
    try:
        colors = bytes(cells)
    except ValueError:  # outside 0..255
        return None
    valid = not colors.translate(None, delete=_COLOR_BYTES)
    return np.frombuffer(colors, dtype=np.uint8).reshape(len(rows), width).copy() if valid else None


def grid_key(grid: Grid) -> bytes:
    """Return bytes that are equal if and only if the grids are (shape and cells)."""
    return bytes(grid.shape) + grid.tobytes()
