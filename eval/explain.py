"""Explains in one line what is wrong with an attempt. Rows and columns count from 1, at the top left."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from augment.dihedral import apply_dihedral
from augment.grid import Grid
from eval.formatting import plural, size_text

COLOR_NAMES = ("black", "blue", "red", "green", "yellow", "gray", "magenta", "orange", "sky", "maroon")

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
    if wrong is not None:
        return _explain_cells(attempt, truth, wrong)
    height, width = (min(sides) for sides in zip(attempt.shape, truth.shape, strict=True))
    agree = int((attempt[:height, :width] == truth[:height, :width]).sum())
    both = "the cell that both have" if height * width == 1 else f"the {height * width} cells that both have"
    shared = f"{agree} of {both} at the top left {'agrees' if agree == 1 else 'agree'}"
    return f"wrong size: {size_text(attempt)}, the truth is {size_text(truth)}; {shared}{_explain_colors(attempt, truth)}"


def _explain_cells(attempt: Grid, truth: Grid, wrong: npt.NDArray[np.bool_]) -> str:
    count = int(wrong.sum())
    renamed = sorted(set(zip(truth.ravel().tolist(), attempt.ravel().tolist(), strict=True)))  # (true color, color given)
    one_to_one = len({true for true, _ in renamed}) == len(renamed) == len({given for _, given in renamed})
    if one_to_one and count > _CELLS_NAMED:
        pairs = " and ".join(f"{_color(got)} where {_color(wanted)} belongs" for wanted, got in renamed if wanted != got)
        return f"the shapes are right, the colors are not: {pairs} ({count} of {wrong.size} cells)"
    where = np.argwhere(wrong)
    head = f"{count} of {plural(wrong.size, 'cell')} {'is' if count == 1 else 'are'} wrong"
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


def _explain_colors(attempt: Grid, truth: Grid) -> str:
    given, wanted = set(attempt.ravel().tolist()), set(truth.ravel().tolist())
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    text = f"; {_colors(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""
    return text + (f"; {_colors(extra)} should not be there" if extra else "")


def _colors(colors: Sequence[int]) -> str:
    *first, last = map(_color, colors)
    return f"{', '.join(first)} and {last}" if first else last


def _color(color: int) -> str:
    return f"{COLOR_NAMES[color]} ({color})"


def _range(noun: str, first: int, last: int) -> str:
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"
