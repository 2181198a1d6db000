"""Grids as tests write them."""

import numpy as np

from augment.grid import Grid


def grid(*rows: list[int]) -> Grid:
    return np.array(rows, dtype=np.uint8)


def row(*colors: int) -> Grid:
    return grid([*colors])


def cell(color: int) -> Grid:
    return grid([color])
