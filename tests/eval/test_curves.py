"""Curves are drawn one line a run and one color a name, minutes across and percent up."""

import pytest

from eval.curves import CurvePoint, draw_curves, draw_training


def curve(name: str, seed: int, *points: tuple[float, float]) -> list[CurvePoint]:
    """Points of a run from its seconds and exact accuracies."""
    return [
        CurvePoint(name, f"{name}-{seed}", 10 * number, seconds, 2 * seconds, exact, cells=0.5)
        for number, (seconds, exact) in enumerate(points, 1)
    ]


POINTS = [
    *curve("mixer", 0, (60, 0.1), (120, 0.4), (180, 0.75)),
    *curve("attention", 0, (30, 0.0), (90, 0.2)),
    *curve("mixer", 1, (60, 0.2), (120, 0.5)),
]


def test_every_run_is_a_line_in_minutes_and_percent_and_seeds_share_color_and_label() -> None:
    axes = draw_curves(POINTS).axes[0]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
    assert drawn == [([1, 2, 3], [10, 40, 75]), ([1, 2], [20, 50]), ([0.5, 1.5], [0, 20])]
    mixer, other_seed, attention = (line.get_color() for line in axes.get_lines())
    assert mixer == other_seed != attention
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mixer (2 seeds)", "attention (1 seed)"]
    assert axes.get_xlim()[0] == 0
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 100


def test_training_is_drawn_in_minutes_and_percent_from_the_lines_that_have_both() -> None:
    first, last = {"seconds": 30.0, "loss": 2.0, "exact": 0.0}, {"seconds": 90, "loss": 1, "exact": 0.5}
    picture = draw_training([first, {"seconds": 60, "loss": None}, last])
    loss, exact = (axes.get_lines()[0] for axes in picture.axes)
    assert (list(loss.get_xdata()), list(loss.get_ydata())) == ([0.5, 1.5], [2.0, 1.0])
    assert list(exact.get_ydata()) == [0.0, 50.0]
    with pytest.raises(ValueError, match="no line of metrics has"):
        draw_training([{"seconds": 1.0}])


def test_rates_are_those_of_tasks_of_mazes_or_of_sudokus() -> None:
    of_tasks = CurvePoint("n", "r", 1, 1.0, 1.0, 0.5, pass_at_1=0.25)
    assert of_tasks.rates == "pass@1 25.0%, pass@2 50.0%, mean over tasks"
    of_mazes = CurvePoint("n", "r", 1, 1.0, 1.0, 0.5, cells=0.75, shortest_path=0.625)
    assert of_mazes.rates == "50.0% exact, 62.5% any shortest path, 75.0% of cells"
    assert POINTS[0].rates == "10.0% exact, 50.0% of cells"
