"""Submissions side by side: who solves what alone, and what all could solve together."""

import numpy as np
import pytest

from augment.grid import Grid
from eval.compare import compare, format_comparison


def cell(color: int) -> Grid:
    return np.array([[color]], np.uint8)


SOLUTIONS = {"a": (cell(1),), "b": (cell(2), cell(3)), "c": (cell(4),)}
FIRST = {"a": [(cell(1), cell(0))], "b": [(cell(2), cell(0)), (cell(0), cell(0))], "c": [(cell(0), cell(0))]}
SECOND = {"a": [(cell(0), cell(1))], "b": [(cell(0), cell(0)), (cell(0), cell(3))], "c": [(cell(0), None)]}


def test_each_alone_all_together_and_none() -> None:
    found = compare({"x": FIRST, "y": SECOND}, SOLUTIONS)
    assert found.alone == {"x": (("b", 0),), "y": (("b", 1),)}
    assert found.by_all == (("a", 0),)
    assert found.by_none == (("c", 0),)
    assert found.scores["x"].mean_over_tasks.pass_at_2 == pytest.approx(0.5)
    assert found.union.pass_at_2 == pytest.approx(2 / 3)
    assert found.union.pass_at_1 == pytest.approx(0.5)


def test_the_text_has_a_row_for_each_the_union_and_the_pooled_votes() -> None:
    pooled = {**FIRST, "b": [(cell(2), cell(0)), (cell(3), cell(0))]}
    lines = format_comparison(compare({"x": FIRST, "y": SECOND}, SOLUTIONS, pooled, 2), "s", SOLUTIONS).splitlines()
    assert lines[0] == "s: 3 tasks, 4 test outputs"
    assert lines[2].split() == ["x", "50.00%", "50.00%", "33.33%", "50.00%"]
    assert lines[4].split()[:5] == ["votes", "of", "2", "pooled", "66.67%"]
    assert lines[5].startswith("any of them") and "66.67%" in lines[5]
    assert "solved by x alone: 1 output (b test 1)" in lines
    assert lines[-1] == "solved by all: 1 output; by none: 1 output (c)"


def test_a_comparison_becomes_plain_json() -> None:
    values = compare({"x": FIRST}, SOLUTIONS).to_json()
    assert values["alone"] == {"x": [["a", 0], ["b", 0]]}
    assert values["pooled"] is None
