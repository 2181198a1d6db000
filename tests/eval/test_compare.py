"""Submissions side by side: who solves what alone, and what all could solve together."""

from dataclasses import replace

import pytest

from eval.compare import compare, describe_change, format_comparison
from eval.provenance import Audited, Basis, Provenance, Scored
from tests.grids import cell

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
    assert lines[4].split() == ["votes", "of", "2", "pooled", "66.67%", "75.00%", "66.67%", "66.67%"]
    assert lines[5].startswith("any of them") and "66.67%" in lines[5]
    assert "solved only by x: 1 output (b test 1)" in lines
    assert "solved by all: 1 output" in lines
    assert "solved by none, left to a further run: 1 output (c)" in lines
    assert lines[-1] == "the pooled votes rest on those of 2 of these"


def test_what_a_submission_leaves_out_is_told() -> None:
    less = {task: entries for task, entries in FIRST.items() if task != "b"}
    lines = format_comparison(compare({"x": FIRST, "y": less}, SOLUTIONS), "s", SOLUTIONS).splitlines()
    assert "y: no attempt for 2 outputs, unsolved" in lines
    assert not any(line.startswith("x: no attempt") for line in lines)


def test_a_test_input_has_other_attempts_where_either_differs() -> None:
    other = {**FIRST, "a": [(cell(1), cell(5))]}
    assert describe_change(other, FIRST, {}) == "other attempts for 1 of 4 test inputs"


def test_the_text_and_the_json_say_what_each_submission_rests_on() -> None:
    basis = Basis(("step 5, trained on abababababab",), 8, 16, "ab" * 32, Audited(2, "drop", 4, 0))
    scored = Scored(3, 4, "cd" * 32, "made up")
    found = compare({"x": FIRST, "y": SECOND}, SOLUTIONS)
    found = replace(found, provenance={"x": Provenance("", basis, scored=scored), "y": Provenance(scored=scored)})
    lines = format_comparison(found, "s", SOLUTIONS).splitlines()
    of_x, of_y = (lines[lines.index(f"{name} rests on:") + 1 :][:6] for name in ("x", "y"))
    assert [line.split("  ")[0] for line in of_x] == [line.split("  ")[0] for line in of_y]
    assert "single checkpoint: step 5" in of_x[0] and "unknown" in of_y[0]
    assert "8 to 16 views" in of_x[1] and "unknown" in of_y[1]
    assert "cdcdcdcdcdcd; dataset abababababab" in of_x[2] and "cdcdcdcdcdcd; dataset unknown" in of_y[2]
    assert "3 tasks, 4 test outputs: made up" in of_x[3] and of_x[3] == of_y[3]
    assert "not readable" in of_x[4] and "unknown" in of_y[4]
    assert "2 training pairs that equal a scored test left out; 4 test outputs checked" in of_x[5] and "unknown" in of_y[5]
    values = found.to_json()["provenance"]
    assert values["x"]["views_most"] == 16 and values["y"]["views_most"] == "unknown"
    assert values["x"]["audit"]["leaks"] == 2 and values["y"]["audit"] == "unknown"
