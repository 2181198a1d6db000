"""Symmetries of Sudoku boards in batches, and a hash that all views of a board share.

A view of a puzzle is an equivalent puzzle: it may be transposed, its bands, stacks and the rows and columns within them are
permuted, and its digits relabelled. The published networks are trained on such views of Sudoku-Extreme (HRM, arXiv 2506.21734;
TRM, 2510.04871). A symmetry is a hash of seed, puzzle and view, so a batch needs no state and no loop.
`pipeline.data.puzzles.generate` uses `symmetry_invariants` to keep all views of a puzzle in one split.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augment.errors import InputError
from augment.hashing import Hashes, scramble

Board = npt.NDArray[np.uint8]
"""One board (S, S), S = 4 or 9: 0 blank, 1..S digits."""
Boards = npt.NDArray[np.uint8]
"""Boards (B, S, S)."""
_BOX_SIDES = {4: 2, 9: 3}
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_BLOCK_BOARDS = 1 << 16
_INVARIANT_ROUNDS = 3
"""A round spreads information between cells that share a unit or a digit; after two it has reached every cell."""


@dataclass(frozen=True)
class SudokuSymmetries:
    """One symmetry for each of B boards of side S: transposition first, then rows and columns, then digits."""

    transpose: npt.NDArray[np.bool_]
    """(B,) whether rows and columns change places."""
    rows: npt.NDArray[np.uint8]
    """(B, S) for each row of the view, the row of the (transposed) board that it shows."""
    columns: npt.NDArray[np.uint8]
    """(B, S) for each column of the view, the column of the (transposed) board that it shows."""
    digits: npt.NDArray[np.uint8]
    """(B, S+1) the new digit of each digit; blank, 0, stays blank."""

    def apply(self, boards: Boards) -> Boards:
        """Return the views (B, S, S) uint8 of `boards` (B, S, S)."""
        count, side = self.rows.shape
        row, column = self.rows[:, :, None].astype(np.int64), self.columns[:, None, :].astype(np.int64)
        cell = np.where(self.transpose[:, None, None], column * side + row, row * side + column)
        board = np.arange(count)[:, None, None]
        digit = boards.reshape(-1)[board * side * side + cell]
        return self.digits.reshape(-1)[board * (side + 1) + digit]


def draw_symmetries(seed: int, puzzles: npt.NDArray[np.int64], views: npt.NDArray[np.int64], side: int) -> SudokuSymmetries:
    """Return the symmetries of `views` (B,) of `puzzles` (B,), each a function of only seed, puzzle and view.

    View 0 is the identity; the others are drawn uniformly from all symmetries, 3,072 for side 4 and 1.2e12 for side 9.
    `seed` is 0..2^64-1. Raises InputError unless `side` is 4 or 9.
    """
    box = box_side(side)
    parts = (1, box, side, box, side, side)
    keys = _hash_keys(seed, puzzles, views, sum(parts))  # (B, parts)
    keys[views == 0] = np.arange(sum(parts), dtype=np.uint64)  # ascending keys sort to the identity
    transpose, bands, rows, stacks, columns, digits = np.split(keys, np.cumsum(parts)[:-1], axis=1)
    labels = np.zeros((len(keys), side + 1), dtype=np.uint8)
    labels[:, 1:] = _sort_keys(digits) + 1
    return SudokuSymmetries(
        transpose[:, 0] >> np.uint64(63) == 1, _order_lines(bands, rows), _order_lines(stacks, columns), labels
    )


def are_solutions(boards: Boards) -> npt.NDArray[np.bool_]:
    """Return which of `boards` (B, S, S) have every digit once in each row, column and box: (B,). S must be 4 or 9."""
    boxed = _split_boxes(boards)
    side = boards.shape[1]
    shown = np.int64(1) << np.minimum(boxed, side + 1).astype(np.int64)  # blanks and invalid digits have bits of their own
    solved = np.ones(len(boards), dtype=np.bool_)
    for unit in ((3, 4), (1, 2), (2, 4)):  # rows, columns, boxes
        solved &= (np.bitwise_or.reduce(shown, axis=unit) == (2 << side) - 2).all(axis=(1, 2))
    return solved


def extends(questions: Boards, answers: Boards) -> npt.NDArray[np.bool_]:
    """Return a mask (B,) of the `answers` (B, S, S) that keep all clues of `questions` (B, S, S)."""
    return ((questions == 0) | (questions == answers)).all(axis=(1, 2))


def symmetry_invariants(boards: Boards) -> Hashes:
    """Return a hash (B,) uint64 of each of `boards` (B, S, S) that is the same for all its views.

    Color refinement (Weisfeiler and Leman) labels the cells: at first blank or clue, then repeatedly by the labels in their
    row and column, in either order, in their box and under their digit. Puzzles that are not views of each other nearly always
    differ. Boards without blanks never do, because all their cells are alike. Raises InputError unless S is 4 or 9.
    """
    blocks = range(0, max(1, len(boards)), _BLOCK_BOARDS)  # the labels of a board take kilobytes
    return np.concatenate([_invariants(boards[start : start + _BLOCK_BOARDS]) for start in blocks])


def _invariants(boards: Boards) -> Hashes:
    boxed = _split_boxes(boards)
    count, side, _ = boards.shape
    owners = boards.reshape(count, side * side) + np.arange(count)[:, None] * (side + 1)  # one index per board and digit
    own, line, box, digit = scramble(np.arange(1, 5, dtype=np.uint64) * _GAMMA) | np.uint64(1)
    cells = (boxed > 0).astype(np.uint64)  # (B, n, n, n, n): band, row, stack, column
    for _ in range(_INVARIANT_ROUNDS):
        in_row, in_column = (cells.sum(axis=axes, keepdims=True) for axes in ((3, 4), (1, 2)))
        lines = scramble(in_row + _GAMMA) + scramble(in_column + _GAMMA)
        totals = np.zeros(count * (side + 1), dtype=np.uint64)
        np.add.at(totals, owners.ravel(), cells.ravel())
        alike = totals[owners].reshape(cells.shape)
        cells = scramble(cells * own + lines * line + cells.sum(axis=(2, 4), keepdims=True) * box + alike * digit)
    return cells.reshape(count, side * side).sum(axis=1)


def box_side(side: int) -> int:
    """Return the side of the boxes of a board, 2 or 3. Raises InputError unless `side` is 4 or 9."""
    if side not in _BOX_SIDES:
        raise InputError(f"a Sudoku board has a side of {' or '.join(map(str, _BOX_SIDES))}, got {side}")
    return _BOX_SIDES[side]


def _split_boxes(boards: Boards) -> Boards:
    """Return `boards` (B, S, S) as (B, n, n, n, n): band, row within it, stack, column within it."""
    box = box_side(boards.shape[1])
    return boards.reshape(len(boards), box, box, box, box)


def _order_lines(blocks: Hashes, lines: Hashes) -> npt.NDArray[np.uint8]:
    """Return permutations (B, S) of lines from the keys of blocks (B, n) and of the lines within each block (B, S)."""
    count, box = blocks.shape
    within = _sort_keys(lines.reshape(count, box, box))
    return (_sort_keys(blocks)[:, :, None] * box + within).reshape(count, box * box).astype(np.uint8)


def _sort_keys(keys: Hashes) -> npt.NDArray[np.int64]:
    """Return the permutations that sort `keys` along the last axis; for independent keys, all are equally likely."""
    return np.argsort(keys, axis=-1, kind="stable")


def _hash_keys(seed: int, puzzles: npt.NDArray[np.int64], views: npt.NDArray[np.int64], length: int) -> Hashes:
    """Return, (B, length), the first numbers of a SplitMix64 generator for each puzzle and view, seeded by their hash."""
    state = scramble(np.array([seed], dtype=np.uint64) + _GAMMA)
    for part in (puzzles, views):
        state = scramble((state ^ part.astype(np.uint64)) + _GAMMA)
    return scramble(state[:, None] + np.arange(1, length + 1, dtype=np.uint64) * _GAMMA)
