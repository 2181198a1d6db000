"""Canvases: grids written as tokens with a border, as the networks read and write them.

Token 0 is padding, 1 the end-of-grid border, 2..11 the colors 0..9. `encode` writes the canvas of a grid, possibly shifted;
`crop_sizes` and `decode` read a predicted, unshifted canvas back, however untidy it is.
"""

import numpy as np
import numpy.typing as npt

from augment.grid import COLORS, MAX_SIDE, Grid

PAD = 0

EOS = 1

FIRST_COLOR = 2
"""The token of color 0; the token of color c is FIRST_COLOR + c."""

VOCABULARY = FIRST_COLOR + COLORS

Tokens = npt.NDArray[np.uint8]
"""(H, W) uint8 tokens 0..11 of one canvas, or (B, H, W) of many."""


def encode(grid: Grid, height: int = MAX_SIDE, width: int = MAX_SIDE, row: int = 0, column: int = 0) -> Tokens:
    """Return the canvas, (height, width) uint8, that shows `grid` with its top-left cell at (`row`, `column`).

    The border is the row right below the grid, over its columns, and the column right of it, over its rows, as far as
    they lie on the canvas; the corner between them is padding. Raises ValueError when the grid does not fit.
    """
    bottom, right = row + grid.shape[0], column + grid.shape[1]
    if row < 0 or column < 0 or bottom > height or right > width:
        place = f"a {grid.shape[0]}x{grid.shape[1]} grid at row {row}, column {column}"
        raise ValueError(f"{place} does not fit on a {height}x{width} canvas")
    tokens = np.full((height, width), PAD, dtype=np.uint8)
    tokens[row:bottom, column:right] = grid + FIRST_COLOR
    tokens[bottom : bottom + 1, column:right] = EOS
    tokens[row:bottom, right : right + 1] = EOS
    return tokens


def crop_sizes(tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return, (B, 2) int64, the rows and columns of the grid on each canvas of `tokens` (B, H, W).

    That is the largest rectangle at the top left in which every token is a color; among equally large ones, the one with
    the fewest rows (what the published evaluator picks); (0, 0) when the first token is not a color.
    """
    height, width = tokens.shape[1:]
    blocked = (tokens < FIRST_COLOR) | (tokens >= VOCABULARY)  # (B, H, W)
    leading = blocked.argmax(axis=2)  # (B, H), 0 as well where nothing is blocked
    leading[(leading == 0) & ~blocked[:, :, 0]] = width
    widths = np.minimum.accumulate(leading, axis=1)
    areas = widths * np.arange(1, height + 1)
    best = areas.argmax(axis=1)  # (B,), the first of equals
    canvas = np.arange(len(tokens))
    sizes = np.stack([best + 1, widths[canvas, best]], axis=1)
    return np.where(areas[canvas, best, None] > 0, sizes, 0)


def decode(tokens: npt.NDArray[np.integer]) -> Grid | None:
    """Return the grid that the canvas `tokens` (H, W) shows at its top left (see `crop_sizes`), or None when it is empty."""
    rows, columns = crop_sizes(tokens[None])[0]
    if rows == 0:
        return None
    return (tokens[:rows, :columns] - FIRST_COLOR).astype(np.uint8)
