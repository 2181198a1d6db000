"""Plots of training: loss and accuracy against time, and the accuracy of several runs. PNG files or notebook figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from augment.errors import InputError
from eval.figure import Picture


@dataclass(frozen=True)
class CurvePoint:
    """One checkpoint of one run."""

    name: str
    """What was trained; runs of one name are its seeds."""
    run: str
    step: int
    seconds: float
    processor_seconds: float
    """Of all processes; 0 where it is not known."""
    exact: float
    """Share of puzzles with every cell right, 0..1; of ARC tasks pass@2, mean over tasks."""
    cells: float | None = None
    """Share of cells that are right, 0..1; None for ARC tasks."""
    halting: float | None = None
    shortest_path: float | None = None
    """Share of mazes with any shortest path, 0..1; None for others."""
    pass_at_1: float | None = None
    """Mean over tasks; None for puzzles."""

    @property
    def rates(self) -> str:
        """What is solved, in words."""
        if self.pass_at_1 is not None:
            return f"pass@1 {self.pass_at_1:.1%}, pass@2 {self.exact:.1%}, mean over tasks"
        paths = "" if self.shortest_path is None else f" {self.shortest_path:.1%} any shortest path,"
        return f"{self.exact:.1%} exact,{paths} {self.cells:.1%} of cells"


def draw_training(metrics: Sequence[Mapping[str, object]]) -> Picture:
    """Draw loss and share of training pairs right against minutes. Raises InputError where no line of `metrics` has both."""
    fields = ("seconds", "loss", "exact")
    rows = [[line.get(field) for field in fields] for line in metrics]
    points = [[float(value) for value in row if isinstance(value, (int, float))] for row in rows]
    points = [point for point in points if len(point) == len(fields)]
    if not points:
        raise InputError("no line of metrics has seconds, loss and exact")
    seconds, loss, exact = zip(*points, strict=True)
    minutes = [second / 60 for second in seconds]
    figure = Picture(figsize=(9, 3), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    left.plot(minutes, loss, color="C0", linewidth=1.6, marker="." if len(points) == 1 else "")
    left.set(xlabel="minutes of training", ylabel="loss", ylim=(0, None))
    right.plot(minutes, [100 * share for share in exact], color="C2", linewidth=1.6, marker="." if len(points) == 1 else "")
    right.set(xlabel="minutes of training", ylabel="training pairs right, %", ylim=(-2, 102))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def draw_curves(points: Sequence[CurvePoint]) -> Picture:
    """Draw what all runs solve against their training time in minutes, one color a name."""
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
    axes.set(xlabel="minutes of training", ylabel="solved, %", ylim=(-2, 102))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
