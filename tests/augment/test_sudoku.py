"""Symmetries of Sudoku boards: what they do, how they are drawn, and what they leave alone."""

from functools import cache
from itertools import combinations, permutations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from augment.sudoku import (
    Boards,
    SudokuSymmetries,
    are_solutions,
    box_side,
    draw_symmetries,
    extends,
    symmetry_invariants,
)

SIDES = (4, 9)
SYMMETRIES_OF_FOUR = 3072
"""2 transpositions, 2 * 2 * 2 orders of rows and as many of columns, 4! digits."""


def drawn(count: int, side: int, seed: int = 0) -> SudokuSymmetries:
    """Views 1, 2, ... of one puzzle."""
    return draw_symmetries(seed, np.zeros(count, dtype=np.int64), np.arange(1, count + 1), side)


def solutions(side: int, count: int) -> Boards:
    """Views of one pattern that is known to be a solution."""
    box = box_side(side)
    row, column = np.indices((side, side))
    pattern = ((row * box + row // box + column) % side + 1).astype(np.uint8)
    return drawn(count, side).apply(np.tile(pattern, (count, 1, 1)))


def puzzles(side: int, count: int, clues: int) -> Boards:
    """Solutions of which random cells are left; most have more than one solution, which does not matter here."""
    rng = np.random.default_rng(clues)
    hidden = rng.random((count, side * side)).argsort(axis=1) >= clues
    return np.where(hidden.reshape(count, side, side), 0, solutions(side, count)).astype(np.uint8)


def as_table(symmetries: SudokuSymmetries) -> npt.NDArray[np.int64]:
    parts = (symmetries.transpose[:, None], symmetries.rows, symmetries.columns, symmetries.digits)
    return np.concatenate([part.astype(np.int64) for part in parts], axis=1)


def chi_square(values: npt.NDArray[np.int64], kinds: int) -> float:
    """By how many standard deviations `values` 0..kinds-1 are less even than chance has them."""
    counts = np.bincount(values, minlength=kinds)
    assert len(counts) == kinds
    expected = len(values) / kinds
    return float((((counts - expected) ** 2).sum() / expected - (kinds - 1)) / np.sqrt(2 * (kinds - 1)))


@cache
def all_symmetries_of_four() -> SudokuSymmetries:
    lines = [order for order in permutations(range(4)) if order[0] // 2 == order[1] // 2]
    digits = [(0, *order) for order in permutations(range(1, 5))]
    transpose, rows, columns, labels = zip(*product((False, True), lines, lines, digits), strict=True)
    return SudokuSymmetries(np.array(transpose), *(np.array(part, dtype=np.uint8) for part in (rows, columns, labels)))


def least_view(board: Boards) -> bytes:
    """The first of all 3,072 views of a board of side 4, in the order of their bytes."""
    views = all_symmetries_of_four().apply(np.tile(board, (SYMMETRIES_OF_FOUR, 1, 1)))
    return min(view.tobytes() for view in views)


@pytest.mark.parametrize("side", SIDES)
def test_views_are_what_one_cell_after_the_other_gives(side: int) -> None:
    boards = np.random.default_rng(1).integers(0, side + 1, (20, side, side), dtype=np.uint8)
    symmetries = drawn(20, side)
    views = symmetries.apply(boards)
    assert views.dtype == np.uint8
    for b, i, j in np.ndindex(views.shape):
        row, column = symmetries.rows[b, i], symmetries.columns[b, j]
        cell = boards[b, column, row] if symmetries.transpose[b] else boards[b, row, column]
        assert views[b, i, j] == symmetries.digits[b, cell]


@pytest.mark.parametrize("side", SIDES)
def test_view_zero_is_the_identity(side: int) -> None:
    identity = draw_symmetries(7, np.arange(5), np.zeros(5, dtype=np.int64), side)
    lines = list(range(side))
    assert as_table(identity).tolist() == [[0, *lines, *lines, *range(side + 1)]] * 5
    assert np.array_equal(identity.apply(solutions(side, 5)), solutions(side, 5))
    assert [str(part.dtype) for part in vars(identity).values()] == ["bool", "uint8", "uint8", "uint8"]


@pytest.mark.parametrize("side", SIDES)
def test_what_is_drawn_depends_on_seed_puzzle_and_view_alone(side: int) -> None:
    numbers, views = np.divmod(np.arange(60), 6)
    table = as_table(draw_symmetries(3, numbers, views, side))
    chosen = np.random.default_rng(0).permutation(60)[:7]
    assert np.array_equal(as_table(draw_symmetries(3, numbers[chosen], views[chosen], side)), table[chosen])
    assert len(as_table(draw_symmetries(3, numbers[:0], views[:0], side))) == 0
    if side == 9:
        assert len(np.unique(table, axis=0)) == 51  # ten identities, and no two others alike
        assert not (as_table(draw_symmetries(4, numbers, views, side)) == table)[views > 0].all(axis=1).any()


def test_what_is_drawn_never_changes() -> None:
    symmetries = draw_symmetries(2**63, np.array([2**40]), np.array([5]), 9)
    transpose, rows, columns = [0], [1, 2, 0, 7, 8, 6, 5, 4, 3], [0, 1, 2, 5, 3, 4, 6, 8, 7]
    digits = [0, 8, 4, 9, 3, 7, 2, 6, 1, 5]
    assert as_table(symmetries).tolist() == [[*transpose, *rows, *columns, *digits]]


@pytest.mark.parametrize("side", SIDES)
def test_lines_stay_beside_the_lines_of_their_block(side: int) -> None:
    box = box_side(side)
    for lines in (drawn(500, side).rows, drawn(500, side).columns):
        assert np.array_equal(np.sort(lines, axis=1), np.tile(np.arange(side), (500, 1)))
        blocks = lines.reshape(500, box, box) // box
        assert (blocks == blocks[:, :, :1]).all()


@pytest.mark.parametrize("fixed", ["puzzle", "view"])
def test_all_symmetries_of_side_four_are_equally_likely(fixed: str) -> None:
    moving, still = np.arange(1, 30_001), np.full(30_000, 3)
    numbers, views = (still, moving) if fixed == "puzzle" else (moving, still)
    symmetries = draw_symmetries(5, numbers, views, 4)
    _, kinds = np.unique(as_table(symmetries) @ 5 ** np.arange(14), return_inverse=True)
    assert abs(chi_square(kinds, SYMMETRIES_OF_FOUR)) < 4


def test_parts_of_symmetries_of_side_nine_are_even_and_independent() -> None:
    table = as_table(drawn(40_000, 9))
    assert len(np.unique(table, axis=0)) == 40_000
    parts = {"transpose": table[:, 0], "row": table[:, 1], "column": table[:, 10], "band": table[:, 4] // 3}
    parts |= {f"digit {digit}": table[:, 19 + digit] - 1 for digit in range(1, 10)}
    kinds = {name: int(part.max()) + 1 for name, part in parts.items()}
    assert kinds == {"transpose": 2, "row": 9, "column": 9, "band": 3} | {f"digit {digit}": 9 for digit in range(1, 10)}
    for name, part in parts.items():
        assert chi_square(part, kinds[name]) < 4, name
    for first, second in combinations(("transpose", "row", "column", "digit 1", "digit 9"), 2):
        if {first, second} != {"digit 1", "digit 9"}:  # these are never equal
            assert chi_square(parts[first] * kinds[second] + parts[second], kinds[first] * kinds[second]) < 4, (first, second)


@pytest.mark.parametrize("side", SIDES)
def test_rows_columns_boxes_and_digits_are_all_looked_at(side: int) -> None:
    answer, box = solutions(side, 1)[0], box_side(side)
    in_row, in_column, latin, blank, above, wrapped = (answer.copy() for _ in range(6))
    in_row[0, :2] = in_row[0, 1::-1]  # breaks columns only
    in_column[:2, 0] = in_column[1::-1, 0]  # breaks rows only
    latin[[0, box]] = latin[[box, 0]]  # breaks boxes only
    blank[1, 1] = 0
    above[answer == side] = side + 1
    wrapped[answer == 1] = 65
    boards = np.stack((answer, in_row, in_column, latin, blank, above, wrapped))
    assert are_solutions(boards).tolist() == [True] + [False] * 6


def test_an_answer_extends_a_question_if_it_keeps_all_clues() -> None:
    answers, questions = np.tile(solutions(9, 1), (3, 1, 1)), np.zeros((3, 9, 9), np.uint8)
    questions[:2, 3, 4] = answers[0, 3, 4], answers[0, 3, 4] % 9 + 1
    assert extends(questions, answers).tolist() == [True, False, True]


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_invariant_is_the_same_for_all_views(side: int, data: st.DataObject, seed: int) -> None:
    boards = data.draw(arrays(np.uint8, (3, side, side), elements=st.integers(0, side)))
    views = drawn(3, side, seed).apply(boards)
    assert np.array_equal(symmetry_invariants(views), symmetry_invariants(boards))
    assert symmetry_invariants(boards[:1].swapaxes(1, 2)) == symmetry_invariants(views[:1])


def test_invariant_separates_random_puzzles() -> None:
    boards = puzzles(9, 5000, 26)
    invariants = symmetry_invariants(boards)
    assert len(np.unique(invariants)) == 5000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augment.sudoku._BLOCK_BOARDS", 999)
        assert np.array_equal(symmetry_invariants(boards), invariants)
    moved, changed = boards.copy(), boards.copy()
    for board, other, question in zip(moved, changed, boards, strict=True):
        (row, column), (to_row, to_column) = np.argwhere(question)[0], np.argwhere(question == 0)[0]
        board[to_row, to_column], board[row, column] = board[row, column], 0
        other[row, column] = question[row, column] % 9 + 1
    for edited in (moved, changed):
        assert (symmetry_invariants(edited) != symmetry_invariants(boards)).mean() > 0.97


@pytest.mark.parametrize("clues", [3, 6, 10])
def test_invariant_tells_nearly_all_families_of_side_four_apart(clues: int) -> None:
    boards = puzzles(4, 150, clues)
    families = [least_view(board) for board in boards]
    invariants = symmetry_invariants(boards).tolist()
    assert len({*families}) == len({*zip(families, invariants, strict=True)})
    assert len({*invariants}) >= 0.99 * len({*families}) > 10


@pytest.mark.parametrize("side", SIDES)
def test_boards_without_blanks_share_their_invariant(side: int) -> None:
    assert len(np.unique(symmetry_invariants(solutions(side, 50)))) == 1
    assert symmetry_invariants(np.zeros((0, side, side), np.uint8)).shape == (0,)


def test_invariant_never_changes() -> None:
    board = np.zeros((1, 4, 4), dtype=np.uint8)
    board[0, 0, 0], board[0, 1, 2] = 1, 2
    assert symmetry_invariants(board).astype("<u8").tobytes().hex() == "7c2bf964d4204bf2"


def test_sides_other_than_four_and_nine_are_refused() -> None:
    with pytest.raises(ValueError, match="side of 4 or 9, got 6"):
        are_solutions(np.zeros((1, 6, 6), dtype=np.uint8))
