"""The solver against a naive one, boards that are filled, and clues that are removed."""

from functools import cache
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from augment.sudoku import Board, are_solutions, extends
from pipeline.data.puzzles.sudoku_solver import count_solutions, fill_board, remove_clues

SEVENTEEN = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"
"""A published puzzle with as few clues as there can be."""
INKALA = "800000000003600000070090200050007000000045700000100030001000068008500010090000400"
"""A published puzzle that is hard to search."""
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def board(text: str) -> Board:
    return np.array([*text], dtype=np.uint8).reshape(9, 9)


@cache
def all_solutions_of_four() -> np.ndarray:
    orders = np.array(list(permutations(range(1, 5))), dtype=np.uint8)
    begun = np.array([(orders[0], *rows) for rows in product(orders, repeat=3)])
    labels = np.insert(orders, 0, 0, axis=1)
    return np.concatenate([label[begun[are_solutions(begun)]] for label in labels])


def naive_count(question: Board) -> int:
    answers = all_solutions_of_four()
    return int(extends(np.tile(question, (len(answers), 1, 1)), answers).sum())


@settings(max_examples=30)
@given(arrays(np.uint8, (4, 4), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4])))
def test_solutions_of_any_board_of_side_four_are_counted(question: Board) -> None:
    expected = naive_count(question)
    assert count_solutions(question, limit=1000) == expected
    assert count_solutions(question) == min(2, expected)


@settings(max_examples=30)
@given(st.integers(0, 287), st.sets(st.integers(0, 15)))
def test_solutions_of_puzzles_of_side_four_are_counted(number: int, blanks: set[int]) -> None:
    question = all_solutions_of_four()[number].copy()
    question.flat[list(blanks)] = 0
    assert count_solutions(question, limit=1000) == naive_count(question) > 0


@pytest.mark.parametrize("puzzle", [SEVENTEEN, INKALA])
def test_published_puzzles_have_one_solution(puzzle: str) -> None:
    assert count_solutions(board(puzzle)) == 1


def test_solutions_are_counted_up_to_the_limit() -> None:
    empty = np.zeros((9, 9), dtype=np.uint8)
    assert [count_solutions(empty, limit) for limit in (1, 2, 50)] == [1, 2, 50]


def test_two_digits_that_can_change_places_give_two_solutions() -> None:
    question = board(SOLVED)
    assert count_solutions(question) == 1
    question[np.ix_([0, 3], [3, 4])] = 0  # 6 7 above 7 6
    assert count_solutions(question, limit=9) == 2


def test_clues_that_contradict_each_other_have_no_solution() -> None:
    question = np.zeros((9, 9), dtype=np.uint8)
    question[0, [0, 8]] = 5
    assert count_solutions(question) == 0
    stuck = np.zeros((9, 9), dtype=np.uint8)
    stuck[0, :8], stuck[3, 8] = range(1, 9), 9
    assert count_solutions(stuck) == 0


@pytest.mark.parametrize("side", [4, 9])
def test_filled_boards_are_solutions_and_depend_on_the_generator_alone(side: int) -> None:
    boards = [fill_board(side, np.random.default_rng(seed)) for seed in range(8)]
    assert are_solutions(np.stack(boards)).all()
    assert len({filled.tobytes() for filled in boards}) > 5
    assert np.array_equal(fill_board(side, np.random.default_rng(3)), boards[3])


def test_removing_clues_keeps_the_only_solution() -> None:
    rng = np.random.default_rng(0)
    for clues in (60, 34, 30):
        answer = fill_board(9, rng)
        question = remove_clues(answer, clues, rng)
        assert (question > 0).sum() == clues
        assert extends(question[None], answer[None]).all()
        assert count_solutions(question) == 1


def test_clues_are_removed_until_each_is_needed() -> None:
    answer = all_solutions_of_four()[100]
    fewest = set()
    for seed in range(60):
        clues, question = next(
            (clues, question)
            for clues in range(4, 16)
            if (question := remove_clues(answer, clues, np.random.default_rng(seed))) is not None
        )
        fewest.add(clues)
        for cell in np.flatnonzero(question):
            fewer = question.copy()
            fewer.flat[cell] = 0
            assert naive_count(fewer) > 1
    assert fewest <= {4, 5, 6}  # no board of side four needs more
    assert len(fewest) > 1
    assert remove_clues(answer, 3, np.random.default_rng(0)) is None


def test_boards_of_other_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="side of 4 or 9, got 6"):
        count_solutions(np.zeros((6, 6), dtype=np.uint8))
    with pytest.raises(ValueError, match="got 16"):
        fill_board(16, np.random.default_rng(0))
