"""Draws one task as a figure. matplotlib is imported only then, and without pyplot, which has global state."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from augment.grid import Grid
from augment.task import Solutions, Task
from eval.explain import wrong_cells
from eval.formatting import size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from eval.figure import Picture


PALETTE = (
    "#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00", "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25",
)  # fmt: skip
_INK, _QUIET, _RIGHT, _WRONG, _LINE = "#1A1A1A", "#6B6B6B", "#1E7A34", "#B3261E", "#5A5A5A"

# All lengths are inches. A picture is _PAGE wide at most, unless a single test input with its attempts needs more.
_PAGE = 12.0
_CELL_SMALLEST, _CELL_LARGEST = 0.08, 0.24
_MARGIN, _GAP, _ARROW_GAP, _GROUP_GAP = 0.35, 0.3, 0.5, 0.7
_LABEL, _HEADING, _BELOW_ROW = 0.4, 0.34, 0.3
_CHARACTER = 0.075  # mean width of a character of a label


@dataclass(frozen=True, eq=False)
class Panel:
    """One grid with the two lines above it and the gap to its right, in a picture or in a terminal."""

    title: str
    grid: Grid | None
    """None draws an empty frame: a missing attempt."""
    note: str = ""
    wrong: npt.NDArray[np.bool_] | None = None
    """(H, W), the cells to mark."""
    arrow: bool = False
    ink: str = _QUIET
    """Color of note and frame in a picture."""
    gap_after: float = _GAP
    """Inches in a picture."""

    def cells(self) -> tuple[int, int]:
        return (3, 3) if self.grid is None else (self.grid.shape[0], self.grid.shape[1])

    def width(self, cell: float) -> float:
        return max(self.cells()[1] * cell, _CHARACTER * max(len(self.title), len(self.note)))


@dataclass(frozen=True)
class _Section:
    """Rows of panels in columns that line up."""

    heading: str
    rows: list[list[Panel]]

    def column_widths(self, cell: float) -> list[float]:
        columns = max(map(len, self.rows))
        return [max(row[i].width(cell) for row in self.rows if i < len(row)) for i in range(columns)]

    def width(self, cell: float) -> float:
        longest = max(self.rows, key=len)
        return sum(self.column_widths(cell)) + sum(panel.gap_after for panel in longest[:-1])

    def row_heights(self, cell: float) -> list[float]:
        return [_LABEL + max(panel.cells()[0] for panel in row) * cell + _BELOW_ROW for row in self.rows]


def draw_task(
    task: Task,
    attempts: Sequence[Sequence[Grid | None]],
    solutions: Solutions,
    notes: Sequence[Sequence[str]] = (),
    title: str = "",
) -> "Picture":
    """Draw `task`.

    `attempts` gives, per test input, the attempts in order, None where one is missing; it may be shorter than the test
    inputs. `solutions` may lack the task: then nothing is called right or wrong. All grids are (H, W) uint8 in the
    original frame, and all cells of a picture have the same size. `notes` has a few words for each attempt, such as its
    votes; `title` replaces "Task ID".
    """
    from eval.figure import Picture  # noqa: PLC0415 - only drawing needs matplotlib

    sections, cell = _lay_out(task, attempts, solutions.get(task.id), notes)
    width = 2 * _MARGIN + max(section.width(cell) for section in sections)
    height = 2 * _MARGIN + _HEADING + sum(_HEADING + sum(section.row_heights(cell)) for section in sections) - _BELOW_ROW
    figure = Picture(figsize=(width, height), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # y grows downwards, as the rows of a grid do
    axes.text(_MARGIN, _MARGIN, title or f"Task {task.id}", size=14, weight="bold", color=_INK, va="top", parse_math=False)
    top = _MARGIN + _HEADING
    for section in sections:
        axes.text(_MARGIN, top + 0.05, section.heading, size=11, weight="bold", color=_INK, va="top")
        top += _HEADING
        for row, row_height in zip(section.rows, section.row_heights(cell), strict=True):
            _draw_row(axes, row, section.column_widths(cell), top, cell)
            top += row_height
    return figure


def demonstrations(task: Task) -> list[list[Panel]]:
    """Return a panel for the input and the output of each demonstration."""
    return [
        [
            Panel(f"input {i}", pair.input, size_text(pair.input), arrow=True, gap_after=_ARROW_GAP),
            Panel(f"output {i}", pair.output, size_text(pair.output), gap_after=_GROUP_GAP),
        ]
        for i, pair in enumerate(task.train, start=1)
    ]


def _lay_out(
    task: Task, attempts: Sequence[Sequence[Grid | None]], outputs: Sequence[Grid] | None, notes: Sequence[Sequence[str]]
) -> tuple[list[_Section], float]:
    """Return the sections of the picture and the side of a cell in inches."""
    pairs = demonstrations(task)
    most = max(map(len, attempts), default=0)
    tests = []
    for i, grid in enumerate(task.test):
        given = attempts[i] if i < len(attempts) else ()
        padded = [*given, *[None] * (most - len(given))]  # so that columns line up
        noted = [*(notes[i] if i < len(notes) else ()), *[""] * most]
        output = None if outputs is None else outputs[i]
        row = [Panel(f"test input {i + 1}", grid, size_text(grid), arrow=most > 0, gap_after=_ARROW_GAP)]
        for number, (attempt, note) in enumerate(zip(padded, noted, strict=False), start=1):  # there are more notes
            row.append(_attempt(f"attempt {number}" + (f", {note}" if note else ""), attempt, output))
        tests.append(row if output is None else [*row, Panel(f"test output {i + 1}", output, size_text(output))])
    room = _PAGE - 2 * _MARGIN
    sections = [_Section(heading, rows) for heading, rows in (("Demonstrations", pairs), ("Test", tests)) if rows]
    sides = np.linspace(_CELL_LARGEST, _CELL_SMALLEST, 33).tolist()
    cell = next((side for side in sides if all(section.width(side) <= room for section in sections)), _CELL_SMALLEST)
    if pairs:
        pair_width = sections[0].width(cell) + _GROUP_GAP
        in_a_row = max(1, int((room + _GROUP_GAP) / pair_width))
        rows = [list(chain(*pairs[i : i + in_a_row])) for i in range(0, len(pairs), in_a_row)]
        sections[0] = _Section("Demonstrations", rows)
    return sections, cell


def _attempt(title: str, attempt: Grid | None, output: Grid | None) -> Panel:
    """Return the panel of an attempt: its note, its color and its marked cells show what is wrong."""
    if attempt is None:
        return Panel(title, None, "missing", ink=_WRONG)
    if output is None:
        return Panel(title, attempt, f"{size_text(attempt)}, truth unknown")
    wrong = wrong_cells(attempt, output)
    if wrong is None:
        return Panel(title, attempt, f"WRONG size: {size_text(attempt)}, not {size_text(output)}", ink=_WRONG)
    if not wrong.any():
        return Panel(title, attempt, "RIGHT", ink=_RIGHT)
    return Panel(title, attempt, f"WRONG: {wrong.sum()} of {wrong.size} cells", wrong, ink=_WRONG)


def _draw_row(axes: "Axes", row: Sequence[Panel], widths: Sequence[float], top: float, cell: float) -> None:
    left = _MARGIN
    grid_top = top + _LABEL
    for i, (panel, width) in enumerate(zip(row, widths, strict=False)):  # the last row may have fewer panels
        axes.text(left, top, panel.title, size=9, weight="bold", color=_INK, va="top")
        axes.text(left, top + 0.17, panel.note, size=9, color=panel.ink, va="top")
        _draw_grid(axes, panel, left, grid_top, cell)
        left += width
        if panel.arrow:
            tail, tip = left + 0.12, left + panel.gap_after - 0.12
            middle = grid_top + min(panel.cells()[0], row[i + 1].cells()[0]) * cell / 2
            style = {"arrowstyle": "-|>", "color": _QUIET, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=(tip, middle), xytext=(tail, middle), arrowprops=style)
        left += panel.gap_after


def _draw_grid(axes: "Axes", panel: Panel, left: float, top: float, cell: float) -> None:
    from matplotlib.collections import LineCollection  # noqa: PLC0415
    from matplotlib.colors import to_rgb  # noqa: PLC0415
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    height, width = panel.cells()
    right, bottom = left + width * cell, top + height * cell
    if panel.grid is None:
        axes.add_patch(Rectangle((left, top), width * cell, height * cell, fill=False, edgecolor=panel.ink, linestyle="--"))
        return
    palette = np.array([to_rgb(color) for color in PALETTE])  # (10, 3)
    axes.imshow(palette[panel.grid], extent=(left, right, bottom, top), interpolation="none", aspect="auto", zorder=1)
    columns = left + cell * np.arange(1, width)
    rows = top + cell * np.arange(1, height)
    lines = [((x, top), (x, bottom)) for x in columns] + [((left, y), (right, y)) for y in rows]
    axes.add_collection(LineCollection(lines, colors=_LINE, linewidths=min(0.6, 4 * cell), zorder=2))
    frame = 1.0 if panel.ink == _QUIET else 2.2
    axes.add_patch(Rectangle((left, top), width * cell, height * cell, fill=False, edgecolor=panel.ink, lw=frame, zorder=4))
    if panel.wrong is not None:
        crosses = []
        for i, j in np.argwhere(panel.wrong):
            x, y, inset = left + j * cell, top + i * cell, 0.28 * cell
            low_x, high_x, low_y, high_y = x + inset, x + cell - inset, y + inset, y + cell - inset
            crosses += [((low_x, low_y), (high_x, high_y)), ((low_x, high_y), (high_x, low_y))]
        # black on white, so that a cross shows on each of the ten colors
        axes.add_collection(LineCollection(crosses, colors="white", linewidths=14 * cell, capstyle="round", zorder=3))
        axes.add_collection(LineCollection(crosses, colors="black", linewidths=6 * cell, capstyle="round", zorder=3.5))
