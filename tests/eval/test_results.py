"""What a report says of a task follows from its grids and votes."""

import pytest

from eval.results import TaskEntry, count_wrong
from tests.eval.report.examples import CLOSE, FAR, FATES, SMALL, TRUTH, both, entry


@pytest.mark.parametrize(
    ("task_id", "verdict", "tags"),
    [
        ("first", "solved by attempt 1", {"solved", "first"}),
        ("second", "solved by attempt 2", {"solved", "second"}),
        ("near", "missed by 1 of 6 cells", {"unsolved"}),
        ("far", "missed by 6 of 6 cells", {"unsolved"}),
        ("size", "wrong size", {"unsolved", "size"}),
        ("part", "1 of 2 solved, missed by 1 of 6 cells", {"unsolved", "part", "first"}),
        ("apart", "missed by 6 of 6 cells", {"unsolved", "disagree"}),
        ("lone", "missed by 6 of 6 cells", {"unsolved", "fallback"}),
        ("secret", "output not known", set()),
    ],
)
def test_every_fate_has_its_verdict_and_its_filters(task_id: str, verdict: str, tags: set[str]) -> None:
    assert FATES[task_id].verdict() == verdict
    assert set(FATES[task_id].tags) == tags


def test_a_task_of_several_test_inputs_is_missed_by_the_cells_of_all() -> None:
    assert both(entry("t", (CLOSE, 3), (FAR, 2)), entry("", (FAR, 3), (CLOSE, 2))).missed_by == 2
    assert both(entry("t", (CLOSE, 3), (FAR, 2)), entry("", (SMALL, 3), (SMALL, 2))).missed_by is None
    assert both(entry("t", (TRUTH, 3), (FAR, 2)), entry("", (FAR, 3), (TRUTH, 2))).verdict() == "solved by attempt 1 and 2"


def test_a_task_is_known_only_with_all_its_outputs() -> None:
    half = both(entry("t", (TRUTH, 3), (FAR, 2)), entry("", (FAR, 3), (CLOSE, 2), truth=None))
    assert (half.known, half.missed_by, half.verdict()) == (False, None, "output not known")
    assert "solved" not in half.tags


def test_cells_are_wrong_only_where_sizes_agree() -> None:
    assert (count_wrong(TRUTH, TRUTH), count_wrong(CLOSE, TRUTH), count_wrong(SMALL, TRUTH)) == (0, 1, None)
    assert count_wrong(None, TRUTH) is None
    assert count_wrong(TRUTH, None) is None


def margin(task: TaskEntry) -> float | None:
    return None if task.margin is None else round(task.margin, 6)


def test_the_margin_is_that_of_the_test_input_that_is_least_clear() -> None:
    assert margin(entry("t", (FAR, 8), (SMALL, 1))) == 0.7
    assert margin(both(entry("t", (FAR, 8), (SMALL, 1)), entry("", (FAR, 3), (SMALL, 2)))) == 0.1
    assert margin(entry("t", (FAR, None), (SMALL, None), views=None)) is None
    assert margin(entry("t", (FAR, 0), (SMALL, 0), views=0)) is None


@pytest.mark.parametrize(
    ("first", "views", "disagrees"),
    [(24, 100, True), (25, 100, False), (1, 3, True), (2, 3, False), (1, 1, False), (0, 0, False), (None, None, False)],
)
def test_views_disagree_under_a_quarter_or_when_each_is_alone(first: int | None, views: int | None, disagrees: bool) -> None:
    assert entry("t", (FAR, first), (SMALL, 0), views=views).tests[0].disagrees is disagrees
