"""The result of a task follows from its grids and votes, in the words of `show` and of the report."""

import numpy as np
import pytest

from augment.task import Pair, Task
from augment.transform import Transform
from eval.results import Attempt, TaskResult, TestResult
from eval.terminal import Look, draw_text
from tests.eval.report.examples import CLOSE, FAR, FATES, SMALL, TRUTH, both, entry

WHOLE = np.array([[1, 2], [3, 4]], np.uint8)
NEAR = np.array([[1, 2], [3, 0]], np.uint8)
LARGE = np.zeros((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("task_id", "verdict", "tags"),
    [
        ("first", "solved by attempt 1", {"solved", "first"}),
        ("second", "solved by attempt 2", {"solved", "second"}),
        ("near", "missed by 1 of 6 cells", {"unsolved"}),
        ("far", "missed by 6 of 6 cells", {"unsolved"}),
        ("size", "wrong size", {"unsolved", "size"}),
        ("none", "no attempt", {"unsolved"}),
        ("part", "1 of 2 solved, missed by 1 of 6 cells", {"unsolved", "part", "first"}),
        ("apart", "missed by 6 of 6 cells", {"unsolved", "disagree"}),
        ("lone", "missed by 6 of 6 cells", {"unsolved", "fallback"}),
        ("secret", "output not known", set()),
    ],
)
def test_every_fate_has_its_verdict_and_its_filters(task_id: str, verdict: str, tags: set[str]) -> None:
    result = entry("none", (None, None), (None, None), views=None) if task_id == "none" else FATES[task_id]
    assert result.summary() == verdict
    assert set(result.tags) == tags


def test_a_task_of_several_test_inputs_is_missed_by_the_cells_of_all() -> None:
    assert both(entry("t", (CLOSE, 3), (FAR, 2)), entry("", (FAR, 3), (CLOSE, 2))).missed_by == 2
    assert both(entry("t", (CLOSE, 3), (FAR, 2)), entry("", (SMALL, 3), (SMALL, 2))).missed_by is None
    assert both(entry("t", (TRUTH, 3), (FAR, 2)), entry("", (FAR, 3), (TRUTH, 2))).summary() == "solved by attempt 1 and 2"


def test_a_task_is_known_only_with_all_its_outputs() -> None:
    half = both(entry("t", (TRUTH, 3), (FAR, 2)), entry("", (FAR, 3), (CLOSE, 2), truth=None))
    assert (half.known, half.missed_by, half.summary()) == (False, None, "output not known")
    assert "solved" not in half.tags


def test_the_margin_is_that_of_the_test_input_that_is_least_clear() -> None:
    assert entry("t", (FAR, 8), (SMALL, 1)).margin == pytest.approx(0.7)
    assert both(entry("t", (FAR, 8), (SMALL, 1)), entry("", (FAR, 3), (SMALL, 2))).margin == pytest.approx(0.1)
    assert entry("t", (FAR, None), (SMALL, None), views=None).margin is None
    assert entry("t", (FAR, 0), (SMALL, 0), views=0).margin is None


@pytest.mark.parametrize(
    ("first", "views", "disagrees"),
    [(24, 100, True), (25, 100, False), (1, 3, True), (2, 3, False), (1, 1, False), (0, 0, False), (None, None, False)],
)
def test_views_disagree_under_a_quarter_or_when_each_is_alone(first: int | None, views: int | None, disagrees: bool) -> None:
    assert entry("t", (FAR, first), (SMALL, 0), views=views).tests[0].disagrees is disagrees


MISSED = TestResult((Attempt(LARGE, 5), Attempt(NEAR, 3)), 10, 3, WHOLE, 4, truth_votes=1)


def test_the_summary_names_the_attempt_that_is_right_or_the_closest() -> None:
    assert MISSED.summary().startswith("attempt 2: 1 of 4 cells is wrong: row 2, column 2")
    assert (MISSED.solved, MISSED.missed_by) == (False, 1)
    right = TestResult((Attempt(NEAR), Attempt(WHOLE)), truth=WHOLE)
    assert (right.solved, right.summary()) == (True, "right by attempt 2")
    assert TestResult((Attempt(NEAR),)).summary() == "the truth is not known"
    assert TestResult(truth=WHOLE).summary() == "there is no attempt"
    assert TestResult((Attempt(LARGE),), truth=WHOLE).missed_by is None


def test_reasons_give_votes_and_the_rank_of_the_truth() -> None:
    first, second, near = MISSED.reasons()
    assert first.startswith("attempt 1 (5 of 10 votes): wrong size: 3 x 3, the truth is 2 x 2")
    assert second.startswith("attempt 2 (3 of 10 votes): 1 of 4 cells is wrong")
    assert near == "the truth got 1 of 10 votes, place 4"
    assert TestResult((Attempt(NEAR, 0),), 7, truth=WHOLE, truth_rank=0).reasons() == [
        "attempt 1 (a fallback, no votes): 1 of 4 cells is wrong: row 2, column 2 is black (0), should be yellow (4)",
        "none of the 7 views gave the truth",
    ]
    solved = TestResult((Attempt(WHOLE, 7),), 7, truth=WHOLE, truth_rank=1, truth_votes=7)
    assert solved.reasons() == ["attempt 1 (7 of 7 votes): right"]


def test_a_view_shows_every_grid_in_its_frame_and_misses_stay_what_they_are() -> None:
    view = MISSED.seen_through(Transform.parse("1.213456789"))
    assert view.truth is not None and view.truth.tolist() == [[1, 4], [2, 3]]
    assert view.missed_by == MISSED.missed_by


def test_the_text_has_demonstrations_tests_attempts_truth_and_reasons() -> None:
    task = Task("t1", (Pair(WHOLE, NEAR), Pair(NEAR, WHOLE)), (LARGE,))
    lines = draw_text(TaskResult(task, (MISSED,)), "Task t1", Look("none", 100))
    text = "\n".join(lines)
    assert lines[0] == "Task t1"
    for words in ("input 1", "output 2", "test input 1", "attempt 1", "WRONG SIZE", "attempt 2", "1 WRONG", "truth"):
        assert words in text
    assert "| 3*0 |" in text
    assert lines[-1] == "  the truth got 1 of 10 votes, place 4"
