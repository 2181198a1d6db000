"""Grids as text, in the colors of a terminal or as digits.

As many panels stand side by side as fit the width. A cell is two columns wide and so about square; where that is too wide, half
blocks put two rows on a line.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, TextIO

import numpy as np

from augment.grid import Grid
from eval.draw import PALETTE, Panel, demonstrations
from eval.explain import wrong_cells
from eval.formatting import size_text
from eval.results import TaskResult, TestResult

When = Literal["auto", "always", "never"]
_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_GAP, _ARROW, _GROUP_GAP = 2, 4, 5
_RGB = tuple(tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in PALETTE)
_NEAREST_256 = (16, 32, 203, 41, 220, 248, 199, 208, 117, 88)
"""The colors of a 256-color terminal that are nearest to the palette."""


@dataclass(frozen=True)
class Look:
    """What the terminal can show."""

    colors: Literal["truecolor", "256", "none"] = "none"
    width: int = 80
    unicode: bool = False
    """Whether blocks, frames and arrows can be written."""


def look_of(stream: TextIO, when: When = "auto", environ: Mapping[str, str] = os.environ) -> Look:
    """Return how to draw on `stream`: no colors if it is no terminal, TERM is dumb or NO_COLOR set; COLUMNS sets the width."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    width = shutil.get_terminal_size().columns
    plain = bool(environ.get("NO_COLOR")) or environ.get("TERM", "") == "dumb" or not stream.isatty()
    if when == "never" or (when == "auto" and plain):
        return Look("none", width, encoding.startswith("utf"))
    exact = environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") or (when == "always" and not stream.isatty())
    return Look("truecolor" if exact else "256", width, encoding.startswith("utf"))


Line = tuple[str, int]
"""Text and the columns that it takes, which escape codes do not."""


def draw_panels(groups: Sequence[Sequence[Panel]], look: Look) -> list[str]:
    """Return the lines of `groups` of panels: rows are filled with groups, and a group stays on one row if it fits."""
    blocks = [[_draw_panel(panel, look, half=False) for panel in group] for group in groups]
    if look.colors != "none" and look.unicode:  # half blocks, where a pair or a panel is too wide
        widths = [[lines[0][1] for lines in group] for group in blocks]
        pairs = [sum(group) + _ARROW for group in widths if len(group) == 2]
        if max([*pairs, *(width for group in widths for width in group)], default=0) > look.width:
            blocks = [[_draw_panel(panel, look, half=True) for panel in group] for group in groups]
    rows: list[list[tuple[list[Line], int, bool]]] = [[]]
    for group, drawn in zip(groups, blocks, strict=True):
        parts = [(lines, _ARROW if panel.arrow else _GAP, panel.arrow) for panel, lines in zip(group, drawn, strict=True)]
        if rows[-1] and _row_width([*rows[-1], *parts]) > look.width:
            rows.append([])
        for lines, gap, arrow in parts:
            if rows[-1] and _row_width([*rows[-1], (lines, 0, False)]) > look.width:
                rows.append([])
            rows[-1].append((lines, gap, arrow))
        lines, _, _ = rows[-1][-1]
        rows[-1][-1] = (lines, _GROUP_GAP, False)
    return [line for row in rows if row for line in (*_join_row(row, look), "")][:-1]


def heading(text: str, look: Look) -> str:
    """Return `text` as a heading."""
    return text if look.colors == "none" else f"{_BOLD}{text}{_RESET}"


def _row_width(parts: Sequence[tuple[list[Line], int, bool]]) -> int:
    return sum(lines[0][1] + gap for lines, gap, _ in parts[:-1]) + parts[-1][0][0][1]


def _join_row(parts: Sequence[tuple[list[Line], int, bool]], look: Look) -> Iterator[str]:
    height = max(len(lines) for lines, _, _ in parts)
    arrow = "→" if look.unicode else "->"
    for i in range(height):
        text = ""
        for number, (lines, gap, leads_on) in enumerate(parts):
            text += lines[i][0] if i < len(lines) else " " * lines[0][1]
            if number < len(parts) - 1:
                here = leads_on and i == 2 + (min(len(lines), len(parts[number + 1][0])) - 2) // 2
                text += arrow.center(gap) if here else " " * gap
        yield text.rstrip()


def _draw_panel(panel: Panel, look: Look, half: bool) -> list[Line]:
    """Return title, note and the framed grid, all lines of one width."""
    cells = _draw_cells(panel, look, half)
    inner = cells[0][1]
    horizontal, sides, corners = ("─", "│", "┌┐└┘") if look.unicode else ("-", "|", "++++")
    dim, reset = ("", "") if look.colors == "none" else (_DIM, _RESET)
    bar = horizontal * inner
    framed = [
        (f"{dim}{corners[0]}{bar}{corners[1]}{reset}", inner + 2),
        *((f"{dim}{sides}{reset}{text}{dim}{sides}{reset}", inner + 2) for text, _ in cells),
        (f"{dim}{corners[2]}{bar}{corners[3]}{reset}", inner + 2),
    ]
    lines = [(heading(panel.title, look), len(panel.title)), (panel.note, len(panel.note)), *framed]
    width = max(columns for _, columns in lines)
    return [(text + " " * (width - columns), width) for text, columns in lines]


def _draw_cells(panel: Panel, look: Look, half: bool) -> list[Line]:
    grid = panel.grid
    if grid is None:
        return [("none", 4)]
    wrong = np.zeros(grid.shape, bool) if panel.wrong is None else panel.wrong
    rows, width = grid.tolist(), grid.shape[1]
    pairs = [list(zip(row, marked, strict=True)) for row, marked in zip(rows, wrong.tolist(), strict=True)]
    if look.colors == "none":
        return [("".join(f"{'*' if mark else ' '}{cell}" for cell, mark in row) + " ", 2 * width + 1) for row in pairs]
    if not half:
        return [(_wide_row(row, look), 2 * width) for row in pairs]
    drawn = []
    for top, bottom in zip_longest(rows[::2], rows[1::2], fillvalue=[None] * width):  # two cells in a column
        text = ""
        for upper, lower in zip(top, bottom, strict=True):
            text += _code(upper, look, 38) + ("\x1b[49m" if lower is None else _code(lower, look, 48)) + "▀"
        drawn.append((text + _RESET, width))
    return drawn


def _wide_row(row: Sequence[tuple[int, bool]], look: Look) -> str:
    """Return two columns for each cell, with a cross in those that are marked."""
    text, before = "", None
    for cell, mark in row:
        if cell != before:
            text += _code(cell, look, 48)
            before = cell
        red, green, blue = _RGB[cell]
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
        ink = 16 if light else 231  # black or white, whichever shows on the color
        text += f"\x1b[1;38;5;{ink}m><" if mark else "  "
    return text + _RESET


def _code(cell: int, look: Look, ground: int) -> str:
    """Return the escape code that sets the color of a cell as foreground (38) or background (48)."""
    if look.colors == "256":
        return f"\x1b[{ground};5;{_NEAREST_256[cell]}m"
    red, green, blue = _RGB[cell]
    return f"\x1b[{ground};2;{red};{green};{blue}m"


def draw_text(result: TaskResult, title: str, look: Look) -> list[str]:
    """Return the lines that show a task and the result of each of its test inputs."""
    lines = [heading(title, look), "", *draw_panels(demonstrations(result.task), look)]
    for number, (grid, test) in enumerate(zip(result.task.test, result.tests, strict=True), start=1):
        lines += ["", *draw_panels([[panel] for panel in _test_panels(number, grid, test)], look)]
        lines += [f"  {reason}" for reason in test.reasons()]
    return lines


def _test_panels(number: int, grid: Grid, test: TestResult) -> list[Panel]:
    panels = [Panel(f"test input {number}", grid, size_text(grid))]
    for i, (attempt, count) in enumerate(zip(test.attempts, test.wrong_cells, strict=True), start=1):
        if attempt.grid is None:
            panels.append(Panel(f"attempt {i}", None, "missing"))
        elif test.truth is None:
            panels.append(Panel(f"attempt {i}", attempt.grid, size_text(attempt.grid)))
        else:
            note = "WRONG SIZE" if count is None else f"{count} WRONG" if count else "RIGHT"
            panels.append(Panel(f"attempt {i}", attempt.grid, note, wrong_cells(attempt.grid, test.truth)))
    if test.truth is not None:
        panels.append(Panel("truth", test.truth, size_text(test.truth)))
    return panels
