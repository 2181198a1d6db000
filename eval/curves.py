"""Accuracy against training time, one line a run, as a picture: a file, or a figure that a notebook shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.figure import Picture


@dataclass(frozen=True)
class CurvePoint:
    """One checkpoint of one run."""

    name: str
    """What was trained; runs of one name are its seeds."""
    run: str
    step: int
    seconds: float
    """Of training."""
    exact: float
    """Share of puzzles with every cell right, 0..1."""
    cells: float
    """Share of cells that are right, 0..1."""
    halting: float | None
    """Mean halting probability."""


def draw_curves(points: Sequence[CurvePoint], path: Path | None = None) -> "Picture":
    """Draw the exact accuracy of all runs against their training time in minutes, one color a name.

    Writes the PNG `path` if it is given; returns the figure, which a notebook shows.
    """
    from eval.figure import Picture  # noqa: PLC0415  (slow to import)

    names = list(dict.fromkeys(point.name for point in points))
    figure = Picture(figsize=(7, 4.2), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        runs = list(dict.fromkeys(point.run for point in points if point.name == name))
        for run in runs:
            line = [point for point in points if point.run == run]
            minutes, exact = [point.seconds / 60 for point in line], [100 * point.exact for point in line]
            label = f"{name} ({len(runs)} seed{'s' if len(runs) > 1 else ''})" if run == runs[0] else None
            axes.plot(minutes, exact, color=f"C{number}", linewidth=1.4, marker=".", label=label)
    axes.set(xlabel="minutes of training", ylabel="puzzles solved, %", ylim=(-2, 102))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    if path is not None:
        figure.savefig(path)
    return figure
