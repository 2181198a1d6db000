"""Leaks are found by content, through every transform, and nothing else is taken for one."""

from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augment.grid import Grid
from augment.task import Pair, Task
from augment.transform import Transform
from pipeline.data.leakage import audit_sources, canonical_key, pair_key
from pipeline.data.sources import Source
from tests.augment.strategies import grids, transforms
from tests.grids import grid

tiny_pairs = st.builds(Pair, grids(max_side=2, colors=4), grids(max_side=2, colors=4))


ANSWER = Pair(grid([1, 2, 0], [0, 3, 3]), grid([5, 0], [0, 1]))
OTHER = Pair(grid([1, 1]), grid([2]))
TURN = Transform(1, (0, 9, 8, 7, 6, 5, 4, 3, 2, 1))
QUESTION = Task("question", (OTHER,), (ANSWER.input,))
SCORED = Source("json:/data/scored.json", (QUESTION,), {"question": (ANSWER.output,)})


def view(pair: Pair, transform: Transform = TURN) -> Pair:
    return Pair(transform.apply(pair.input), transform.apply(pair.output))


def demonstrate(*pairs: Pair, task_id: str = "lesson", test: tuple[Grid, ...] = ()) -> Source:
    return Source("json:/other/train.json", (Task(task_id, pairs, test),), {})


@settings(max_examples=40)
@given(st.builds(Pair, grids(), grids()), transforms())
def test_every_view_of_a_pair_has_its_key(pair: Pair, transform: Transform) -> None:
    assert canonical_key(view(pair, transform)) == canonical_key(pair)


@settings(max_examples=40)
@given(tiny_pairs, tiny_pairs)
@example(Pair(grid([0, 1]), grid([0])), Pair(grid([1, 0]), grid([1])))
@example(Pair(grid([1, 2]), grid([1])), Pair(grid([1, 2]), grid([3])))
@example(Pair(grid([1, 0]), grid([0, 1])), Pair(grid([1, 0]), grid([1, 0])))
def test_pairs_with_one_key_are_views_of_each_other(first: Pair, second: Pair) -> None:
    views = {
        pair_key(view(first, Transform(dihedral, (0, *images, 4, 5, 6, 7, 8, 9))))
        for dihedral in range(8)
        for images in permutations((1, 2, 3))
    }
    assert (canonical_key(first) == canonical_key(second)) == (pair_key(second) in views)


def test_a_view_of_an_answer_under_another_id_is_a_leak() -> None:
    audit = audit_sources([SCORED], [demonstrate(OTHER, view(ANSWER))])
    expected = "json:train.json lesson demonstration 1 is json:scored.json question test 0"
    assert [str(leak) for leak in audit.leaks] == [expected]
    assert pair_key(audit.leaks[0].pair) == pair_key(view(ANSWER))
    assert (audit.given, audit.checked, audit.unchecked) == ((), 1, 0)


def test_a_test_that_is_trained_on_is_a_leak() -> None:
    train = Source("json:train.json", (Task("lesson", (OTHER,), (ANSWER.input,)),), {"lesson": (ANSWER.output,)})
    (leak,) = audit_sources([SCORED], [train]).leaks
    assert (leak.trained.part, leak.trained.index) == ("test", 0)


@pytest.mark.parametrize(
    "pair",
    [
        Pair(ANSWER.input, grid([5, 0], [0, 2])),
        Pair(ANSWER.input, TURN.apply(ANSWER.output)),
        Pair(ANSWER.output, ANSWER.input),
        Pair(grid([0, 2, 1], [1, 3, 3]), grid([5, 1], [1, 0])),
    ],
    ids=["other output", "output turned alone", "sides swapped", "colors 0 and 1 swapped"],
)
def test_a_pair_that_no_transform_turns_into_the_answer_is_no_leak(pair: Pair) -> None:
    assert audit_sources([SCORED], [demonstrate(pair)]).leaks == ()


def test_a_test_without_a_known_output_is_neither_trained_nor_checked() -> None:
    hidden = Source("hidden", SCORED.tasks, {})
    audit = audit_sources([hidden], [demonstrate(view(ANSWER), test=(ANSWER.input,))])
    assert (audit.leaks, audit.checked, audit.unchecked) == ((), 0, 1)


def test_a_demonstration_of_the_task_itself_is_given_and_another_view_of_it_is_a_leak() -> None:
    source = Source("scored", (Task("question", (OTHER, view(ANSWER)), QUESTION.test),), SCORED.solutions)
    audit = audit_sources([source], [demonstrate(view(ANSWER), ANSWER, task_id="question")])
    given = ["scored question demonstration 1", "json:train.json question demonstration 0"]
    assert [str(leak.trained) for leak in audit.given] == given
    assert [str(leak.trained) for leak in audit.leaks] == ["json:train.json question demonstration 1"]


def test_a_demonstration_of_another_scored_task_is_a_leak() -> None:
    source = Source("scored", (QUESTION, Task("twin", (view(ANSWER),), (OTHER.input,))), SCORED.solutions)
    audit = audit_sources([source], [])
    assert [(leak.trained.task, leak.scored.task) for leak in audit.leaks] == [("twin", "question")]
    assert (audit.checked, audit.unchecked) == (1, 1)


@pytest.mark.parametrize("known", [True, False])
def test_generated_pairs_of_a_task_with_tests_show_its_rule_whatever_the_file_is_called(known: bool) -> None:
    other, later = Pair(grid([4, 4]), grid([5, 5, 5])), Pair(grid([6, 6, 6]), grid([7]))
    asked = (QUESTION, Task("later", (later,), (OTHER.input,)))
    scored = Source(SCORED.name, asked, SCORED.solutions if known else {})
    generated = {"question": (other,), "renamed": (other, view(OTHER)), "another": (other,), "renamed too": (view(later),)}
    tasks = tuple(Task(name, pairs, ()) for name, pairs in generated.items())
    audit = audit_sources([scored], [Source("rearc:/data/re_arc.zip", tasks, {}), demonstrate(other, task_id="question")])
    assert [str(leak) for leak in audit.leaks] == [
        "rearc:re_arc.zip question generator makes pairs of json:scored.json question test 0",
        "rearc:re_arc.zip renamed generator makes pairs of json:scored.json question test 0",
        "rearc:re_arc.zip 'renamed too' generator makes pairs of json:scored.json later test 0",
    ]
    shown = Source(SCORED.name, (Task("question", (OTHER,), ()),), {})  # a task that is not asked
    assert audit_sources([shown], [Source("rearc:/data/re_arc.zip", tasks, {})]).leaks == ()
