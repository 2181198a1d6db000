"""Why an attempt was missed, in one line that a person can check on the grids.

Beside the score, which says only right or wrong: takes an attempt and the test output, both in one frame, gives words.
Rows and columns count from 1, at the top left.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from augment.dihedral import apply_dihedral
from augment.grid import Grid

COLOR_NAMES = ("black", "blue", "red", "green", "yellow", "gray", "magenta", "orange", "sky", "maroon")
"""What people call the colors 0..9."""

_SYMMETRIES = {
    1: "turned a quarter counterclockwise",
    2: "turned by half",
    3: "turned a quarter clockwise",
    4: "flipped left to right",
    5: "flipped upside down",
    6: "transposed",
    7: "flipped across the other diagonal",
}

_CELLS_NAMED = 3


def wrong_cells(attempt: Grid | None, truth: Grid) -> npt.NDArray[np.bool_] | None:
    """Return which cells of `attempt` are wrong, (H, W), or None where it is missing or has another size than `truth`."""
    return None if attempt is None or attempt.shape != truth.shape else attempt != truth


def explain(attempt: Grid | None, truth: Grid) -> str:
    """Return "right", or in one line what is wrong with `attempt`; both are (H, W) uint8 in the same frame."""
    if attempt is None:
        return "there is no attempt"
    wrong = wrong_cells(attempt, truth)
    if wrong is not None and not wrong.any():
        return "right"
    for dihedral, words in _SYMMETRIES.items():
        if np.array_equal(apply_dihedral(truth, dihedral), attempt):
            return f"it is the truth {words}"
    return _explain_size(attempt, truth) if wrong is None else _explain_cells(attempt, truth, wrong)


def _explain_size(attempt: Grid, truth: Grid) -> str:
    height, width = (min(sides) for sides in zip(attempt.shape, truth.shape, strict=True))
    agree = int((attempt[:height, :width] == truth[:height, :width]).sum())
    both = "the cell that both have" if height * width == 1 else f"the {height * width} cells that both have"
    shared = f"{agree} of {both} at the top left {'agrees' if agree == 1 else 'agree'}"
    return f"wrong size: {_size(attempt)}, the truth is {_size(truth)}; {shared}{_explain_colors(attempt, truth)}"


def _explain_cells(attempt: Grid, truth: Grid, wrong: npt.NDArray[np.bool_]) -> str:
    count = int(wrong.sum())
    swapped = _renamed_colors(attempt, truth, wrong)
    if swapped and count > _CELLS_NAMED:
        pairs = " and ".join(f"{_color(got)} where {_color(wanted)} belongs" for wanted, got in swapped)
        return f"the shapes are right, the colors are not: {pairs} ({count} of {wrong.size} cells)"
    where = np.argwhere(wrong)
    cells_in_all = "1 cell" if wrong.size == 1 else f"{wrong.size} cells"
    head = f"{count} of {cells_in_all} {'is' if count == 1 else 'are'} wrong"
    if count <= _CELLS_NAMED:
        cells = [
            f"row {row + 1}, column {column + 1} is {_color(attempt[row, column])}, should be {_color(truth[row, column])}"
            for row, column in where.tolist()
        ]
        return f"{head}: {'; '.join(cells)}"
    (top, left), (bottom, right) = (where.min(axis=0) + 1).tolist(), (where.max(axis=0) + 1).tolist()
    whole = (top, left, bottom, right) == (1, 1, *wrong.shape)
    place = "all over the grid" if whole else f"{_range('row', top, bottom)}, {_range('column', left, right)}"
    return f"{head}, {'' if whole else 'within '}{place}{_explain_colors(attempt, truth)}"


def _renamed_colors(attempt: Grid, truth: Grid, wrong: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (true color, color given) where the attempt is the truth with some colors renamed one to one; else nothing."""
    pairs = sorted(set(zip(truth.ravel().tolist(), attempt.ravel().tolist(), strict=True)))
    one_to_one = len({true for true, _ in pairs}) == len(pairs) == len({given for _, given in pairs})
    return [(true, given) for true, given in pairs if true != given] if one_to_one and wrong.any() else []


def _explain_colors(attempt: Grid, truth: Grid) -> str:
    given, wanted = set(attempt.ravel().tolist()), set(truth.ravel().tolist())
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    text = f"; {_colors(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""
    return text + (f"; {_colors(extra)} should not be there" if extra else "")


def _colors(colors: Sequence[int]) -> str:
    return _join(map(_color, colors))


def _color(color: int) -> str:
    return f"{COLOR_NAMES[color]} ({color})"


def _join(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _range(noun: str, first: int, last: int) -> str:
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"


def _size(grid: Grid) -> str:
    return f"{grid.shape[0]} x {grid.shape[1]}"
