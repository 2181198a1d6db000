"""One id, several tasks: they stay apart; one task in several sources stays one."""

from dataclasses import replace
from itertools import permutations

import pytest

from augment.task import Pair, Task
from pipeline.config import BuildConfig
from pipeline.data.build import build
from pipeline.data.same_ids import tell_apart
from pipeline.data.sources import Source
from tests.grids import row


def task_of(color: int, task_id: str = "1") -> Task:
    train = tuple(Pair(row(*[color] * side), row(*[color] * (side + 1))) for side in (1, 2))
    return Task(task_id, train, (row(*[color] * 4),))


def source_of(name: str, *tasks: Task, solved: bool = False) -> Source:
    return Source(name, tasks, {task.id: (row(0, 0),) for task in tasks} if solved else {})


def ids(sources: list[Source]) -> list[list[str]]:
    return [[task.id for task in source.tasks] for source in sources]


def test_two_folders_of_numbered_tasks_stay_apart_whatever_their_order(caplog: pytest.LogCaptureFixture) -> None:
    solved = source_of("json:a/mine", task_of(1))
    others = [
        source_of("json:b/theirs", task_of(2), solved=True),
        source_of("json:c/theirs", task_of(3)),
        source_of("rearc:z", task_of(4)),
    ]
    sources, trained = tell_apart([solved], others)
    assert ids(sources) == [["1"]]
    assert sorted(ids(trained)) == [["1"], ["json:theirs (2)/1"], ["json:theirs/1"]]
    assert {task for source in trained for task in source.solutions} <= {"json:theirs/1", "json:theirs (2)/1"}
    assert "2 tasks with the id of another, but no pair in common with it, kept apart: 'json:theirs (2)/1'" in caplog.text
    built = [build([solved], list(order), BuildConfig(0), leakage="allow") for order in permutations(others)]
    assert {dataset.task_ids for dataset in built} == {("1", "json:theirs (2)/1", "json:theirs/1")}
    assert len({dataset.data_hash for dataset in built}) == 1
    dropped = build([solved], others, BuildConfig(0), leakage="drop")  # what makes pairs of a scored task
    assert [task.train[0].input.tolist() for task in dropped.tasks_to_solve()] == [[[1]]]


def test_what_shares_a_pair_or_a_test_input_is_one_task(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one, other = task_of(1), task_of(2)
    both = Task("1", (one.train[0], other.train[1]), (row(7),))
    asked = Task("1", (Pair(row(8), row(9)),), one.test)
    train = [source_of(name, task) for name, task in (("json:a", one), ("json:b", other), ("json:c", both), ("json:d", asked))]
    assert ids(tell_apart([], [*train, source_of("rearc:z", task_of(5))])[1]) == [["1"]] * 5
    assert "1 task in several sources, which have pairs in common, merged" in caplog.text
    assert ids(tell_apart([], train[:2])[1]) == [["1"], ["json:b/1"]]


SHARED, JOINING = (Pair(row(color), row(color, color)) for color in (1, 2))


@pytest.mark.parametrize(
    "last",
    [Task("1", (JOINING,), ()), Task("1", (Pair(row(5), row(6)),), (JOINING.input,))],
    ids=["has its pair", "asks for an input that it shows"],
)
def test_tasks_that_have_nothing_in_common_but_a_third_are_one_task(last: Task) -> None:
    tasks = {"json:a": Task("1", (SHARED,), ()), "json:b": Task("1", (SHARED, JOINING), ()), "json:c": last}
    assert ids(tell_apart([], [source_of(name, task) for name, task in tasks.items()])[1]) == [["1"]] * 3


@pytest.mark.parametrize("names", [("json:a", "json:b"), ("json:b", "json:a")])
def test_an_input_that_one_shows_and_the_other_asks_for_makes_them_one_task_in_either_order(names: tuple[str, str]) -> None:
    shows, asks = Task("1", (Pair(row(1, 1, 1, 1), row(0, 0)),), (row(7),)), task_of(1)
    sources = [source_of(name, task) for name, task in zip(names, (shows, asks), strict=True)]
    assert ids(tell_apart([], sources)[1]) == [["1"], ["1"]]


def test_what_is_one_task_does_not_depend_on_the_answers() -> None:
    solved, shown = task_of(1), Task("1", (Pair(row(1, 1, 1, 1), row(0, 0)), Pair(row(5), row(6))), (row(7),))
    lesson = Task("1", (Pair(row(3), row(0, 0)),), (row(8),))  # its output only is that of the test
    for answers in (True, False):
        sources, trained = tell_apart([source_of("json:a", solved, solved=answers)], [source_of("json:b", shown)])
        assert ids([*sources, *trained]) == [["1"], ["1"]]
        sources, trained = tell_apart([source_of("json:a", solved, solved=answers)], [source_of("json:c", lesson)])
        assert ids([*sources, *trained]) == [["1"], ["json:c/1"]]


def test_an_input_that_two_tasks_show_does_not_make_them_one() -> None:
    blank = row(0, 0, 0)
    one, other = (Task("1", (Pair(blank, row(color)),), (row(color, color),)) for color in (1, 2))
    assert ids(tell_apart([], [source_of("json:a", one), source_of("json:b", other)])[1]) == [["1"], ["json:b/1"]]


def test_a_task_to_solve_keeps_its_id_and_its_view_of_the_answer_is_still_a_leak() -> None:
    solved = source_of("json:z", task_of(1), solved=True)
    shown = Task("1", (Pair(row(1, 1, 1, 1), row(0, 0)),), (row(6),))
    sources, trained = tell_apart([solved], [source_of("arc1:training", replace(task_of(3)), task_of(4, "json:z/1"))])
    assert ids(sources) == [["1"]]
    assert ids(trained) == [["arc1:training/1", "json:z/1"]]
    assert ids(tell_apart([solved, source_of("json:y", task_of(2))], [])[0]) == [["1"], ["1"]]
    with pytest.raises(ValueError, match="1 training pair shows the answer to a scored test"):
        build([solved], [source_of("json:b", shown)], BuildConfig(0))
