"""What became of a test input, in words and panels."""

import numpy as np

from augment.task import Pair, Task
from augment.transform import Transform
from eval.terminal import Look, draw_text
from eval.verdict import Attempt, Verdict

TRUTH = np.array([[1, 2], [3, 4]], np.uint8)
NEAR = np.array([[1, 2], [3, 0]], np.uint8)
LARGE = np.zeros((3, 3), np.uint8)
MISSED = Verdict((Attempt(LARGE, 5), Attempt(NEAR, 3)), TRUTH, 10, 1, 4)
TASK = Task("t1", (Pair(TRUTH, NEAR), Pair(NEAR, TRUTH)), (LARGE,))


def test_the_summary_names_the_attempt_that_is_right_or_the_closest() -> None:
    assert MISSED.summary().startswith("attempt 2: 1 of 4 cells is wrong: row 2, column 2")
    assert not MISSED.solved
    assert MISSED.cells_off == 1
    right = Verdict((Attempt(NEAR), Attempt(TRUTH)), TRUTH)
    assert (right.solved, right.summary()) == (True, "right by attempt 2")
    assert Verdict((Attempt(NEAR),)).summary() == "the truth is not known"
    assert Verdict((), TRUTH).summary() == "there is no attempt"
    assert Verdict((Attempt(LARGE),), TRUTH).cells_off == float("inf")


def test_reasons_tell_votes_and_how_near_the_truth_came() -> None:
    first, second, near = MISSED.reasons()
    assert first.startswith("attempt 1 (5 of 10 votes): wrong size: 3 x 3, the truth is 2 x 2")
    assert second.startswith("attempt 2 (3 of 10 votes): 1 of 4 cells is wrong")
    assert near == "the truth got 1 of 10 votes, place 4"
    assert Verdict((Attempt(NEAR, 0),), TRUTH, 7).reasons() == [
        "attempt 1 (a fallback, no votes): 1 of 4 cells is wrong: row 2, column 2 is black (0), should be yellow (4)",
        "none of the 7 views gave the truth",
    ]
    assert Verdict((Attempt(TRUTH, 7),), TRUTH, 7, 7, 1).reasons() == ["attempt 1 (7 of 7 votes): right"]


def test_a_view_shows_every_grid_in_its_frame_and_misses_stay_what_they_are() -> None:
    view = MISSED.seen_through(Transform.parse("1.213456789"))
    assert view.truth is not None
    assert view.truth.tolist() == [[1, 4], [2, 3]]
    assert view.cells_off == MISSED.cells_off


def test_the_text_has_demonstrations_tests_attempts_truth_and_reasons() -> None:
    lines = draw_text(TASK, [MISSED], "Task t1", Look("none", 100))
    text = "\n".join(lines)
    assert lines[0] == "Task t1"
    for words in ("input 1", "output 2", "test input 1", "attempt 1", "WRONG SIZE", "attempt 2", "1 WRONG", "truth"):
        assert words in text
    assert "| 3*0 |" in text
    assert lines[-1] == "  the truth got 1 of 10 votes, place 4"
