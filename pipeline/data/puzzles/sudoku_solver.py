"""Sudoku solver: counts solutions, fills boards, and removes clues while the solution stays unique.

A set of cells is an integer with a bit for each cell, row by row. A state of the search is such a set for each digit: the cells
that may still hold it. A few integer operations then look at all cells at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np

from augment.sudoku import Board, box_side


def count_solutions(board: Board, limit: int = 2) -> int:
    """Return how many solutions `board` (S, S) uint8 has, at most `limit`. Raises InputError unless S is 4 or 9."""
    layout = _layout(len(board))
    return sum(1 for _ in islice(_solutions(_allow(_clues(board, layout), layout), 0, layout), limit))


def fill_board(side: int, rng: np.random.Generator) -> Board:
    """Return a random board (side, side) uint8 without blanks that is a solution. Raises InputError unless `side` is 4 or 9."""
    layout = _layout(side)
    orders = rng.permuted(np.tile(np.arange(side), (side * side, 1)), axis=1).tolist()
    return _to_board(next(_solutions([layout.every] * side, 0, layout, orders)), layout)


def remove_clues(answer: Board, clues: int, rng: np.random.Generator) -> Board | None:
    """Blank the cells of the solution `answer` (S, S) in random order, but none without which it is not the only solution.

    Returns the board as soon as `clues` clues are left, and None if so few never are.
    """
    layout = _layout(len(answer))
    given, left = _clues(answer, layout), answer.size
    for cell in rng.permutation(answer.size).tolist():
        if left == clues:
            break
        bit, digit = 1 << cell, int(answer.flat[cell]) - 1
        given[digit] ^= bit
        others = _allow(given, layout)
        others[digit] ^= bit  # with this clue there was one solution, so any other one differs here
        if next(_solutions(others, 0, layout), None) is None:
            left -= 1
        else:
            given[digit] ^= bit
    return _to_board(given, layout) if left == clues else None


@dataclass(frozen=True)
class _Layout:
    """Which cells a board has and how they belong together."""

    side: int
    every: int
    """All cells."""
    units: tuple[int, ...]
    """The cells of each row, column and box."""
    apart: tuple[int, ...]
    """By cell: the cells that may hold its digit when it does, itself included."""


@cache
def _layout(side: int) -> _Layout:
    """Return the layout of boards of `side`. Raises InputError unless it is 4 or 9."""
    box = box_side(side)
    row, column = np.divmod(np.arange(side * side), side)
    owners = np.stack((row, column + side, row // box * box + column // box + 2 * side))  # (3, S * S)
    units = tuple(sum(1 << int(cell) for cell in np.nonzero(owners == unit)[1]) for unit in range(3 * side))
    every = (1 << side * side) - 1
    peers = (units[row] | units[column] | units[box] for row, column, box in owners.T.tolist())
    return _Layout(side, every, units, tuple(every & ~cells | 1 << cell for cell, cells in enumerate(peers)))


def _clues(board: Board, layout: _Layout) -> list[int]:
    """Return, by digit, the cells of `board` that show it."""
    return [sum(1 << int(cell) for cell in np.flatnonzero(board == digit + 1)) for digit in range(layout.side)]


def _allow(given: Sequence[int], layout: _Layout) -> list[int]:
    """Return, by digit, the cells that may hold it: those of its clues in `given`, and all blanks."""
    blanks = layout.every & ~sum(given)
    return [held | blanks for held in given]


def _to_board(places: Sequence[int], layout: _Layout) -> Board:
    """Return the board (S, S) whose digit d + 1 is in the cells `places[d]`."""
    cells = [sum(digit + 1 for digit, held in enumerate(places) if held >> cell & 1) for cell in range(layout.side**2)]
    return np.array(cells, dtype=np.uint8).reshape(layout.side, layout.side)


def _solutions(
    places: list[int], placed: int, layout: _Layout, orders: Sequence[Sequence[int]] | None = None
) -> Iterator[list[int]]:
    """Yield all solutions, each as the cells of every digit; digits are tried in a cell as `orders` has them for it.

    `places` has the cells that may hold each digit, `placed` those whose digit is known to their peers.
    """
    settled = _place_singles(places, placed, layout)
    if settled is None:
        return
    if settled == layout.every:
        yield places
        return
    at_least = _count_digits(places, layout.side)
    cells = next(more & ~most for more, most in zip(at_least[1:], [*at_least[2:], 0], strict=True) if more & ~most)
    cell = (cells & -cells).bit_length() - 1  # the first with the fewest digits left, but more than one
    for digit in orders[cell] if orders else range(layout.side):
        if places[digit] >> cell & 1:
            branch = [held & ~(1 << cell) for held in places]
            branch[digit] |= 1 << cell
            yield from _solutions(branch, settled, layout, orders)


def _place_singles(places: list[int], placed: int, layout: _Layout) -> int | None:
    """Strike what single digits and places imply; return the settled cells, `placed` included, None if there is no solution."""
    while True:
        once, twice = _count_digits(places, 2)
        if once != layout.every:
            return None
        singles = once & ~twice & ~placed
        if not singles:
            if placed == layout.every:
                return placed
            hidden = _strike_beside_hidden(places, placed, layout)
            if hidden is None:
                return None
            if not hidden:
                return placed
        placed |= singles
        for digit in range(layout.side):
            rest = places[digit] & singles
            while rest:
                cell = rest.bit_length() - 1
                places[digit] &= layout.apart[cell]
                rest ^= 1 << cell


def _strike_beside_hidden(places: list[int], placed: int, layout: _Layout) -> int | None:
    """Strike other digits where one has no other cell left in a unit; return these cells, or None if one has no cell at all."""
    hidden = 0
    for digit in range(layout.side):
        for unit in layout.units:
            spot = places[digit] & unit
            if not spot:
                return None
            if not spot & (spot - 1) and not spot & placed:
                places[:] = [held & ~spot for held in places]
                places[digit] |= spot
                hidden |= spot
    return hidden


def _count_digits(places: Sequence[int], most: int) -> list[int]:
    """Return the cells with at least 1, 2, ..., `most` digits left."""
    at_least = [0] * most
    for held in places:
        for fewer in range(most - 1, 0, -1):
            at_least[fewer] |= at_least[fewer - 1] & held
        at_least[0] |= held
    return at_least
