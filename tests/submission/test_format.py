"""A submission is written complete or not at all; any file is read or refused in one line."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.grid import grid_key
from augment.task import Pair, Task
from submission.format import (
    check_submission,
    fallback_attempts,
    fill_submission,
    list_notes,
    list_problems,
    read_partial_submission,
    read_submission,
    write_submission,
)
from tests.grids import grid
from tests.pipeline.tiny import refusal

A, B, C = grid([1, 2]), grid([3], [4]), grid([9])
TASKS = [
    Task("b", (Pair(A, B), Pair(A, B), Pair(A, C)), (A, C)),
    Task("a", (Pair(A, A + 1),), (A,)),
]
GOOD = {"b": [(A, B), (B, C)], "a": [(C, A)]}


def plain(submission):
    return {t: [[g if g is None else g.tolist() for g in attempts] for attempts in e] for t, e in submission.items()}


def document(submission=GOOD):
    return {t: [{"attempt_1": x.tolist(), "attempt_2": y.tolist()} for x, y in entries] for t, entries in submission.items()}


def written(tmp_path, content):
    path = tmp_path / "submission.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize(
    ("task", "test_index", "expected"),
    [
        (TASKS[0], 1, [C, B, grid([0], [0]), grid([1], [1])]),  # the most frequent output, and its size
        (Task("t", (Pair(A, A + 1), Pair(B, B + 1)), (C,)), 0, [C, A + 1, grid([0]), grid([1])]),  # sizes are kept
        (Task("t", (Pair(A, B), Pair(A, C), Pair(B, C)), (A,)), 0, [A, C, grid([0]), grid([1])]),  # not the first output
        (Task("t", (), (grid([0, 0]),)), 0, [grid([0, 0]), grid([1, 1])]),
    ],
)
def test_fallbacks_are_input_most_frequent_output_zeros_and_ones_of_the_likely_size(task, test_index, expected):
    assert [g.tolist() for g in fallback_attempts(task, test_index)] == [g.tolist() for g in expected]


grids = st.sampled_from([A, B, C, grid([0]), grid([1]), grid([0, 0])])


@given(st.lists(st.tuples(grids, grids), max_size=4), grids)
def test_there_are_always_two_different_fallbacks(pairs, test_input):
    attempts = fallback_attempts(Task("t", tuple(Pair(*pair) for pair in pairs), (test_input,)), 0)
    assert len({grid_key(attempt) for attempt in attempts}) == len(attempts) >= 2
    assert np.array_equal(attempts[0], test_input)


def test_filling_keeps_predictions_in_place_and_lists_the_fallbacks():
    filled = fill_submission(TASKS, {"b": [(), (B, A)], "a": [(C,)]})
    first, second = filled.submission["b"][1]
    assert (first.tolist(), second.tolist()) == (B.tolist(), A.tolist())
    assert filled.submission["a"][0][0].tolist() == C.tolist() != filled.submission["a"][0][1].tolist()
    assert (filled.without_prediction, filled.with_one_prediction) == ((("b", 0),), (("a", 0),))
    nothing = fill_submission(TASKS, {})
    assert nothing.without_prediction == (("b", 0), ("b", 1), ("a", 0))
    assert [first.tolist() for first, _ in nothing.submission["b"]] == [A.tolist(), C.tolist()]
    only_the_input = fill_submission(TASKS, {"a": [(A,)]}).submission
    assert plain(only_the_input)["a"] == [[A.tolist(), (A + 1).tolist()]]
    assert refusal(lambda: fill_submission(TASKS, {"b": [(A, B)]})) == "task b: 2 test inputs, predictions for 1"


def test_what_is_written_is_read_back_in_the_order_of_the_challenges(tmp_path):
    path = tmp_path / "submission.json"
    write_submission(path, dict(reversed(GOOD.items())), TASKS)
    assert json.loads(path.read_text()) == document()
    assert list(json.loads(path.read_text())) == ["b", "a"]
    assert plain(read_submission(path)) == plain(GOOD)
    check_submission(path, TASKS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": GOOD["b"]}, ["task 'a': missing"]),
        ({**GOOD, "a": [(A,)]}, ["task 'a', test input 0, attempt_2: missing"]),
        ({**GOOD, "a": [(A, None)]}, ["task 'a', test input 0, attempt_2", "got NoneType"]),
        ({**GOOD, "a": [(A, A + 8)]}, ["attempt_2", "a color is an int 0..9, got 10"]),
        ({**GOOD, "a": [(A.astype(float), A)]}, ["attempt_1", "got 1.0"]),
        ({"a": [(A, A + 8)]}, ["attempt_2", "(and 1 more)"]),
    ],
)
def test_an_incomplete_submission_is_refused_and_the_old_file_stays(tmp_path, change, words):
    path = written(tmp_path, b"old")
    message = refusal(lambda: write_submission(path, change, TASKS))
    assert all(word in message for word in [str(path), *words]), message
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def entry(first=((1,),), second=((2,),), **more):
    return {"attempt_1": first, "attempt_2": second, **more}


BAD_FILES = [
    (b'{"a": ', "not JSON"),
    ([], "expected an object, got a list"),
    ({"a": 3}, "task 'a': expected a list with one entry a test input, got a number"),
    ({"a": [3]}, "task 'a', test input 0: expected an object with attempt_1 and attempt_2, got a number"),
    ({"a": [entry(), entry([[1, 2], [3]])]}, "task 'a', test input 1, attempt_1: not a rectangle"),
    ({"a": [entry(second=[[10]])]}, "task 'a', test input 0, attempt_2: row 0, cell 0: a color is an int 0..9, got 10"),
    ({"a": [entry(grid=[[1]])]}, "task 'a', test input 0: unknown key 'grid'"),
    ({"x\ny": 3, "z": 3}, "task 'x\\ny': expected a list with one entry a test input, got a number (and 1 more)"),
    (b'{"a": [], "a": []}', "a appears twice"),
]


@pytest.mark.parametrize("read", [read_submission, read_partial_submission])
@pytest.mark.parametrize(("content", "words"), BAD_FILES)
def test_a_bad_file_is_refused_by_name_and_place(tmp_path, content, words, read):
    path = written(tmp_path, content)
    message = refusal(lambda: read(path))
    assert message.startswith(f"{path}: ") and words in message, message


MISSING = [
    ({"attempt_2": [[2]]}, "attempt_1: missing"),
    (entry(None), "attempt_1: expected a grid"),
    (entry([]), "attempt_1: a grid has 1 to 30 rows, got 0"),
    (entry([[], []]), "attempt_1: a row has 1 to 30 cells, got 0"),
]


@pytest.mark.parametrize(("first_missing", "words"), MISSING)
def test_a_missing_attempt_is_refused_unless_allowed_and_then_keeps_its_place(tmp_path, first_missing, words):
    path = written(tmp_path, {"a": [first_missing]})
    assert f"task 'a', test input 0, {words}" in refusal(lambda: read_submission(path))
    assert plain(read_partial_submission(path)) == {"a": [[None, [[2]]]]}


@pytest.mark.parametrize("read", [read_submission, read_partial_submission])
def test_files_of_other_systems_are_read_and_what_is_unusual_is_said(tmp_path, caplog, read):
    caplog.set_level("INFO")
    one, two = [[1]], [[2, 2]]
    entry = {"attempt_1": {"answer": one, "metadata": {"model": "x"}, "correct": True}, "attempt_2": {"answer": two}}
    document = {"a": entry, "b": [entry | {"attempt_3": one, "attempt_12": two}, {"attempt_1": two, "attempt_2": one}]}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    plain = {task: [[grid.tolist() for grid in attempts] for attempts in entries] for task, entries in read(path).items()}
    assert plain == {"a": [[one, two]], "b": [[one, two], [two, one]]}
    assert f"{path}: 1 tasks have an object in place of a list of one" in caplog.text
    assert f"{path}: more than two attempts for 1 test input; the first two count" in caplog.text
    (tmp_path / "results").mkdir()
    for task, content in document.items():
        (tmp_path / "results" / f"{task}.json").write_text(json.dumps(content))
    (tmp_path / "results" / "results.json").write_text(json.dumps({"score": 1.0}))
    again = {
        task: [[grid.tolist() for grid in attempts] for attempts in entries]
        for task, entries in read(tmp_path / "results").items()
    }
    assert again == plain
    assert "results of 2 tasks, without ['results']" in caplog.text


def test_tests_that_were_not_tried_are_missing_and_a_folder_without_results_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([None, {"attempt_1": {"answer": [[1]]}, "attempt_2": None}]))
    first, second = read_partial_submission(tmp_path)["a"]
    assert first == (None, None)
    assert (second[0].tolist(), second[1]) == ([[1]], None)
    with pytest.raises(ValueError, match=r"task 'a', test input 0, attempt_1: missing"):
        read_submission(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no file \{task id\}.json in it has attempt_1"):
        read_submission(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": document()["a"]}, "task 'b': missing"),
        ({"a": [{"attempt_1": [[1]]}], "z": []}, "attempt_2: missing (and 2 more)"),
        ([], "expected an object, got a list"),
    ],
)
def test_checking_reports_the_first_problem_and_counts_the_others(tmp_path, change, words):
    message = refusal(lambda: check_submission(written(tmp_path, change), TASKS))
    assert message.endswith(words) or (words in message and "more)" not in message), message


def test_all_problems_of_a_file_are_listed(tmp_path):
    path = written(tmp_path, {"a": [entry([[1.0]], "[[1 2]]"), entry([[-1]], attempt_3=[])], "c": []})
    assert list_problems(path, TASKS) == [
        "task 'a', test input 0, attempt_1: row 0, cell 0: a color is an int 0..9, got 1.0",
        "task 'a', test input 0, attempt_2: expected a grid (a list of rows), got str",
        "task 'a', test input 1: unknown key 'attempt_3'",
        "task 'a', test input 1, attempt_1: row 0, cell 0: a color is an int 0..9, got -1",
        "task 'b': missing",
        "task 'a': expected one entry for each of 1 test inputs, got 2",
        "task 'c': not a task of the challenges",
    ]


def test_only_a_file_beyond_any_submission_is_too_large(tmp_path):
    full = np.full((30, 30), 9, np.uint8)
    tasks = [Task("a", (), (full, full))]
    largest = written(tmp_path, json.dumps(document({"a": [(full, full)] * 2}), indent=4).encode())
    assert list_problems(largest, tasks) == []
    problem = list_problems(written(tmp_path, largest.read_bytes() + b" " * 200_000), tasks)
    assert len(problem) == 1 and "at most 196,608" in problem[0]


def test_another_name_another_order_and_equal_attempts_are_notes_and_no_problems(tmp_path):
    path = written(tmp_path, document())
    assert (list_problems(path, TASKS), list_notes(path, TASKS)) == ([], [])
    path = written(tmp_path, dict(reversed(document({**GOOD, "a": [(A, A)]}).items()))).rename(tmp_path / "other.json")
    check_submission(path, TASKS)
    assert list_problems(path, TASKS) == []
    named, order, equal = list_notes(path, TASKS)
    assert "other.json" in named and "order" in order and equal.endswith("wasted: 1")
