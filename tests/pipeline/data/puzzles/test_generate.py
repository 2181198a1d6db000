"""Sudokus and mazes that are generated: rightly answered, repeatable, and parted so that no view crosses over."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from augment.sudoku import are_solutions, extends
from pipeline.data.puzzles import generate
from pipeline.data.puzzles.generate import Cells, Part, generate_mazes, generate_sudoku
from pipeline.data.puzzles.kinds import FREE, GOAL, PATH, START, WALL
from pipeline.data.puzzles.sources import load_puzzles
from pipeline.data.puzzles.sudoku_solver import count_solutions
from tests.augment.test_sudoku import least_view

PARTS: tuple[tuple[int, Part], ...] = ((24, "all"), (24, "train"), (12, "test"))


def keys(puzzles: Cells) -> list[bytes]:
    return [puzzle.tobytes() for puzzle in puzzles]


def dihedral_views(maze: Cells) -> set[bytes]:
    return {np.rot90(flipped, turns).tobytes() for flipped in (maze, maze.T) for turns in range(4)}


def count_walks(maze: Cells) -> tuple[int | None, int]:
    """Shortest paths by powers of the adjacency matrix: the first power that joins start and goal counts them. Those counts are
    small and exact, however large the others grow.
    """
    open_cells = np.argwhere((maze != WALL) & (maze != 0))
    adjacent = (np.abs(open_cells[:, None] - open_cells[None]).sum(axis=2) == 1).astype(float)
    tokens = maze[tuple(open_cells.T)]
    walks = (tokens == START).astype(float)
    for steps in range(1, len(open_cells)):
        walks = adjacent @ walks
        if count := walks[tokens == GOAL][0]:
            return steps, int(count)
    return None, 0


@pytest.mark.parametrize(("side", "clues"), [(4, 4), (9, 28)])
def test_sudokus_have_the_clues_wished_for_and_one_solution(side: int, clues: int) -> None:
    questions, answers = generate_sudoku(6, side, clues, seed=1, part="all")
    assert questions.shape == answers.shape == (6, side, side)
    assert questions.dtype == answers.dtype == np.uint8
    assert ((questions > 0).sum(axis=(1, 2)) == clues).all()
    assert are_solutions(answers).all()
    assert extends(questions, answers).all()
    assert [count_solutions(question) for question in questions] == [1] * 6
    assert len({*keys(questions)}) == 6


@pytest.mark.parametrize("side", [7, 8, 30])
def test_mazes_have_one_shortest_path_and_it_is_marked(side: int) -> None:
    questions, answers = generate_mazes(4, side, seed=1, part="all")
    assert questions.shape == answers.shape == (4, side, side)
    assert questions.dtype == answers.dtype == np.uint8
    assert len({*keys(questions)}) == 4
    for question, answer in zip(questions, answers, strict=True):
        steps, count = count_walks(question)
        assert count == 1
        assert {*question.flat} == {WALL, FREE, START, GOAL}
        assert (answer == PATH).sum() == steps - 1 >= side
        assert (question[answer == PATH] == FREE).all()
        assert np.array_equal(np.where(answer == PATH, FREE, answer), question)
        only_path = np.where(answer == FREE, WALL, answer)
        assert count_walks(only_path) == (steps, 1)


@pytest.mark.parametrize("side", [9, 10])
def test_mazes_are_walled_in_and_have_no_lonely_rooms(side: int) -> None:
    for question in generate_mazes(5, side, seed=2, part="all")[0]:
        outside = np.ones((side, side), dtype=bool)
        outside[1:8, 1:8] = False
        assert (question[outside] == WALL).all()
        assert (question[1:8:2, 1:8:2] != WALL).all()
        start = tuple(np.argwhere(question == START)[0])
        for room in np.argwhere(question == FREE):
            other = np.where(question == WALL, WALL, FREE).astype(np.uint8)
            other[start], other[tuple(room)] = START, GOAL
            assert count_walks(other)[1] > 0


def test_no_sudoku_of_train_is_a_view_of_one_of_test() -> None:
    train = {least_view(board) for board in generate_sudoku(15, 4, 6, seed=0, part="train")[0]}
    test = {least_view(board) for board in generate_sudoku(15, 4, 6, seed=1, part="test")[0]}
    assert len(train) > 8 < len(test)
    assert not train & test


def test_no_maze_of_train_is_a_view_of_one_of_test() -> None:
    train, _ = generate_mazes(80, 7, seed=0, part="train")
    test, _ = generate_mazes(80, 7, seed=1, part="test")
    families = {min(dihedral_views(maze)) for maze in train}
    assert len(families) < 80  # so few mazes exist that views of one another do occur
    assert not families & {min(dihedral_views(maze)) for maze in test}


def test_parts_of_a_seed_share_its_puzzles_out() -> None:
    for everything, train, test in (
        [generate_sudoku(count, 4, 6, 3, part)[0] for count, part in PARTS],
        [generate_mazes(count, 9, 3, part)[0] for count, part in PARTS],
    ):
        in_train = [key for key in keys(everything) if key in {*keys(train)}]
        in_test = [key for key in keys(everything) if key in {*keys(test)}]
        assert len(in_train) + len(in_test) == 24
        assert in_train == keys(train)[: len(in_train)]
        assert in_test == keys(test)[: len(in_test)]
        assert 2 < len(in_test) < 12


def test_a_longer_wish_begins_with_the_shorter_one_and_seeds_differ() -> None:
    for make in (
        lambda count, seed: generate_sudoku(count, 9, 35, seed, "all"),
        lambda count, seed: generate_mazes(count, 9, seed, "all"),
    ):
        longer, shorter, other = make(4, 0), make(2, 0), make(4, 1)
        assert all(np.array_equal(some[:2], few) for some, few in zip(longer, shorter, strict=True))
        assert not {*keys(longer[0])} & {*keys(other[0])}
        assert make(0, 0)[0].shape == (0, 9, 9)


@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [
        ("sudoku:generated:side=4,count=3", "745982d55bb7", "7ae73157061e"),
        ("sudoku:generated:count=3", "aa69d4b5e300", "6900435428b3"),
        ("maze:generated:side=7,count=3", "0850d128477b", "75ae78602236"),
        ("maze:generated:count=3", "424c61d07215", "bbce324d3c56"),
    ],
)
def test_a_published_name_of_generated_puzzles_keeps_its_puzzles(spec: str, train: str, test: str) -> None:
    found = [load_puzzles(spec, part) for part in ("train", "test")]
    texts = ["\n".join([*puzzles.question_texts(), *puzzles.answer_texts()]) for puzzles in found]
    assert [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts] == [train, test]


def test_puzzles_with_few_clues_are_not_those_with_many_less_some() -> None:
    (_, few), (_, many) = (generate_sudoku(3, 9, clues, 0, "all") for clues in (36, 37))
    assert not {*keys(few)} & {*keys(many)}


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_FIRST_ATTEMPTS", 3)
    monkeypatch.setattr(generate, "_BLOCK_ATTEMPTS", 5)
    alone = generate_sudoku(8, 4, 6, 0, "train"), generate_mazes(8, 9, 0, "train")
    together = generate_sudoku(8, 4, 6, 0, "train", jobs=2), generate_mazes(8, 9, 0, "train", jobs=2)
    assert all(np.array_equal(a, b) for one, two in zip(alone, together, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("generate", "arguments", "message"),
    [
        (generate_sudoku, (6, 12), "side of 4 or 9, got 6"),
        (generate_sudoku, (4, 3), r"side 4 has 4\.\.15 clues, got 3"),
        (generate_sudoku, (4, 16), r"side 4 has 4\.\.15 clues, got 16"),
        (generate_sudoku, (9, 16), r"side 9 has 17\.\.80 clues, got 16"),
        (generate_mazes, (6,), r"7\.\.30, got 6"),
        (generate_mazes, (31,), r"7\.\.30, got 31"),
    ],
)
def test_puzzles_that_cannot_be_are_refused(generate: Callable[..., object], arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(1, *arguments, 0, "all")


def test_a_hopeless_wish_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PATIENCE_ATTEMPTS", 4)
    with pytest.raises(ValueError, match="found 0 of 1 puzzles of 'all', then none in 4 attempts in a row"):
        generate_sudoku(1, 9, 17, 0, "all")


def test_more_puzzles_than_there_are_is_a_hopeless_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one board there are sixteen questions with one blank."""
    answer = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], dtype=np.uint8)
    monkeypatch.setattr(generate, "fill_board", lambda side, rng: answer)
    monkeypatch.setattr(generate, "PATIENCE_ATTEMPTS", 200)
    assert len({*keys(generate_sudoku(16, 4, 15, 0, "all")[0])}) == 16
    with pytest.raises(ValueError, match="found 16 of 17 puzzles of 'all', then none in 200 attempts in a row"):
        generate_sudoku(17, 4, 15, 0, "all")
