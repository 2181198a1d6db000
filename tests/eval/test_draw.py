"""A picture shows every grid in the official colors and says in words what is right and wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from augment.task import Pair, Task
from eval.draw import PALETTE, draw_task
from tests.grids import grid

ALL_COLORS = np.arange(10, dtype=np.uint8).reshape(2, 5)
TASK = Task("0a1b$x_$", tuple(Pair(ALL_COLORS, ALL_COLORS.T.copy()) for _ in range(5)), (ALL_COLORS, ALL_COLORS))
SOLUTIONS = {TASK.id: (grid([1, 2], [3, 4]), grid([5]))}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_right_wrong_missing_and_wrong_size_are_said_in_words():
    attempts = [[grid([1, 2], [3, 4]), grid([1, 2], [0, 0])], [grid([5, 5])]]
    drawn = set(texts(draw_task(TASK, attempts, SOLUTIONS, notes=[["31 of 76 votes"]])))
    assert {"RIGHT", "WRONG: 2 of 4 cells", "WRONG size: 1 x 2, not 1 x 1", "missing"} <= drawn
    assert {f"Task {TASK.id}", "test input 2", "attempt 2", "test output 2", "output 5", "attempt 1, 31 of 76 votes"} <= drawn
    assert "Task x of runs/a" in texts(draw_task(TASK, attempts, SOLUTIONS, title="Task x of runs/a"))


def test_without_solutions_nothing_is_called_right_or_wrong():
    drawn = texts(draw_task(TASK, [[grid([1]), None]], {}))
    assert not any(text.upper().startswith(("RIGHT", "WRONG", "TEST OUTPUT")) for text in drawn)
    assert "1 x 1, truth unknown" in drawn


@pytest.mark.parametrize("attempts", [[], [[]], [[grid([1])], []]])
def test_test_inputs_without_attempts_are_drawn(attempts):
    drawn = texts(draw_task(TASK, attempts, SOLUTIONS))
    assert drawn.count("test output 1") == drawn.count("test output 2") == 1


def test_the_picture_is_a_png_with_every_official_color_in_a_file_and_in_a_notebook(tmp_path):
    path, figure = tmp_path / "task.png", draw_task(TASK, [], {})
    figure.leave(path)
    assert path.read_bytes() == figure._repr_png_()
    pixels = np.round(image.imread(path)[..., :3] * 255).astype(np.uint32)  # (H, W, 3)
    present = {f"#{color:06X}" for color in np.unique(pixels @ np.array([1 << 16, 1 << 8, 1], np.uint32)).tolist()}
    assert set(PALETTE) <= present


def test_the_largest_and_the_smallest_grids_fit_one_page():
    large, small = np.zeros((30, 30), np.uint8), grid([1])
    task = Task("large", tuple(Pair(large, small) for _ in range(4)), (large,))
    assert draw_task(task, [[large, large]], {"large": (large,)}).get_figwidth() <= 12.5


def test_matplotlib_is_imported_when_drawing_and_pyplot_never():
    code = (
        "import sys, numpy as np; from augment.task import Task; from eval.draw import draw_task\n"
        "assert 'matplotlib' not in sys.modules\n"
        "draw_task(Task('t', (), (np.zeros((1, 1), np.uint8),)), [], {})._repr_png_()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
