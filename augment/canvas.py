"""Canvases: grids as tokens with a border, the input and output of the networks.

Token 0 is padding, 1 the end-of-grid border, 2..11 the colors 0..9. `encode` makes the canvas of a grid, possibly shifted;
`crop_sizes` and `decode` read the grid from a predicted, unshifted canvas, which may be malformed.
"""

import numpy as np
import numpy.typing as npt

from augment.errors import InputError
from augment.grid import COLORS, MAX_SIDE, Grid

PAD = 0
EOS = 1
FIRST_COLOR = 2
"""The token of color 0; the token of color c is FIRST_COLOR + c."""
VOCABULARY = FIRST_COLOR + COLORS
IGNORED = -100
"""The label of a cell that does not count in a loss, as in PyTorch."""
Tokens = npt.NDArray[np.uint8]
"""(H, W) uint8 tokens 0..11 of one canvas, or (B, H, W) of many."""


def encode(grid: Grid, height: int = MAX_SIDE, width: int = MAX_SIDE, row: int = 0, column: int = 0) -> Tokens:
    """Return a canvas, (height, width) uint8, with the top-left cell of `grid` at (`row`, `column`).

    The border is the row just below the grid and the column just right of it, as far as they are on the canvas; the corner
    between them is padding. Raises InputError when the grid does not fit.
    """
    bottom, right = row + grid.shape[0], column + grid.shape[1]
    if row < 0 or column < 0 or bottom > height or right > width:
        place = f"a {grid.shape[0]}x{grid.shape[1]} grid at row {row}, column {column}"
        raise InputError(f"{place} does not fit on a {height}x{width} canvas")
    tokens = np.full((height, width), PAD, dtype=np.uint8)
    tokens[row:bottom, column:right] = grid + FIRST_COLOR
    tokens[bottom : bottom + 1, column:right] = EOS
    tokens[row:bottom, right : right + 1] = EOS
    return tokens


def crop_sizes(tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the size, (B, 2) int64 rows and columns, of the grid on each canvas of `tokens` (B, H, W).

    The grid is the largest rectangle at the top left in which every token is a color; of equally large ones, that with the
    fewest rows, as in the published evaluator. The size is (0, 0) when the first token is not a color.
    """
    height, width = tokens.shape[1:]
    blocked = (tokens < FIRST_COLOR) | (tokens >= VOCABULARY)  # (B, H, W)
    leading = blocked.argmax(axis=2)  # (B, H), also 0 where nothing is blocked
    leading[(leading == 0) & ~blocked[:, :, 0]] = width
    widths = np.minimum.accumulate(leading, axis=1)
    areas = widths * np.arange(1, height + 1)
    best = areas.argmax(axis=1)  # (B,), the first of equals
    canvas = np.arange(len(tokens))
    sizes = np.stack([best + 1, widths[canvas, best]], axis=1)
    return np.where(areas[canvas, best, None] > 0, sizes, 0)


def decode(tokens: npt.NDArray[np.integer]) -> Grid | None:
    """Return the grid at the top left of the canvas `tokens` (H, W), sized by `crop_sizes`, or None if it is empty."""
    rows, columns = crop_sizes(tokens[None])[0]
    if rows == 0:
        return None
    return (tokens[:rows, :columns] - FIRST_COLOR).astype(np.uint8)
