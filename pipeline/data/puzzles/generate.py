"""Generators of sudokus and mazes with checked answers: stand-ins for Sudoku-Extreme and Maze-Hard.

Attempt i of a seed gives the same result in every process, so the number of processes changes nothing, and all parts of a seed
go through the same attempts. A hash of what all views of a puzzle share puts it into "train" or "test", so no puzzle of one
part is a view of one of the other, whatever the seeds.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from itertools import count as count_up
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from augment.dihedral import DIHEDRALS, apply_dihedral
from augment.errors import InputError
from augment.sudoku import box_side, symmetry_invariants
from pipeline.data.puzzles.kinds import FREE, GOAL, PATH, START, WALL
from pipeline.data.puzzles.sudoku_solver import count_solutions, fill_board, remove_clues
from pipeline.system.progress_bar import Progress

Cells = npt.NDArray[np.uint8]
"""A maze (H, W) or many puzzles (N, H, W)."""
Part = Literal["train", "test", "all"]
TEST_SHARE = 0.25
"""The approximate share of puzzles, with all their views, in "test"."""
FEWEST_CLUES = {4: 4, 9: 17}
"""By side: no Sudoku with fewer clues has a unique solution (McGuire, Tugemann and Civario, 2012)."""
MAZE_SIDES = (7, 30)
ROOMS_PER_OPENING = 48
"""Rooms for each additional opening, without which a maze would be a tree."""
PATIENCE_ATTEMPTS = 1000
"""Attempts in a row without a new puzzle after which generation fails."""
_FIRST_ATTEMPTS = 64
"""Of every generation, made without further processes, which start no sooner."""
_BLOCK_ATTEMPTS = 256


class _Puzzle(NamedTuple):
    question: Cells
    answer: Cells
    family: bytes
    """What all views of the question share."""


def generate_sudoku(count: int, side: int, clues: int, seed: int, part: Part, jobs: int = 1) -> tuple[Cells, Cells]:
    """Return `count` distinct Sudokus of `part` with `clues` clues and a unique solution: questions, answers.

    Both are (count, side, side) uint8: 0 blank, 1..side digits. `jobs` processes work on them, as joblib counts them.
    Raises InputError unless `side` is 4 or 9 and such puzzles exist, and when too few of them are found.
    """
    box_side(side)
    if not FEWEST_CLUES[side] <= clues < side * side:
        raise InputError(f"a Sudoku of side {side} has {FEWEST_CLUES[side]}..{side * side - 1} clues, got {clues}")
    return _collect(partial(_attempt_sudoku, side, clues, seed), side, count, part, jobs)


def generate_mazes(count: int, side: int, seed: int, part: Part, jobs: int = 1) -> tuple[Cells, Cells]:
    """Return `count` distinct mazes of `part` in which one path is the shortest: questions, answers.

    Both are (count, side, side) uint8 with the tokens above. Answers mark the cells between start and goal, at least `side` of
    them, and equal the questions elsewhere. Walls surround the mazes, and where `side` is even they are two thick below and
    on the right. Of the smallest sides, 7 and 8, there are only about a thousand mazes. `jobs` and errors are those of
    `generate_sudoku`; sides are 7..30.
    """
    if not MAZE_SIDES[0] <= side <= MAZE_SIDES[1]:
        raise InputError(f"a maze has a side of {MAZE_SIDES[0]}..{MAZE_SIDES[1]}, got {side}")
    return _collect(partial(_attempt_maze, side, seed), side, count, part, jobs)


def _collect(attempt: Callable[[int], _Puzzle | None], side: int, count: int, part: Part, jobs: int) -> tuple[Cells, Cells]:
    """Return questions and answers of the first `count` distinct puzzles of `part` that attempts 0, 1, ... give."""
    found: dict[bytes, _Puzzle] = {}
    attempts: Iterator[_Puzzle | None] = map(attempt, count_up())
    if jobs != 1:
        blocks = (range(start, start + _BLOCK_ATTEMPTS) for start in count_up(_FIRST_ATTEMPTS, _BLOCK_ATTEMPTS))
        many = chain.from_iterable(Parallel(n_jobs=jobs)(delayed(attempt)(i) for i in block) for block in blocks)
        attempts = chain(map(attempt, range(_FIRST_ATTEMPTS)), many)
    failures = 0
    with Progress("making puzzles", count, "puzzles") as progress:
        while len(found) < count:
            puzzle = next(attempts)
            failures += 1
            if puzzle is not None and puzzle.question.tobytes() not in found:
                is_test = hashlib.blake2b(puzzle.family).digest()[0] < 256 * TEST_SHARE
                if part in ("all", "test" if is_test else "train"):
                    found[puzzle.question.tobytes()] = puzzle
                    failures = 0
                    progress.add()
            if failures >= PATIENCE_ATTEMPTS:
                fault = f"found {len(found)} of {count} puzzles of {part!r}, then none in {failures} attempts in a row"
                raise InputError(fault)
    tokens = [(puzzle.question, puzzle.answer) for puzzle in found.values()]
    questions, answers = np.array(tokens, dtype=np.uint8).reshape(count, 2, side, side).swapaxes(0, 1)
    return questions, answers


def _attempt_generator(seed: int, side: int, clues: int, attempt: int) -> np.random.Generator:
    """Return the generator of an attempt. It depends on the clues too: few clues must not be a part of many."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, side, clues, attempt]))


def _attempt_sudoku(side: int, clues: int, seed: int, attempt: int) -> _Puzzle | None:
    """Fill a grid and blank its cells while the solution stays unique; None if that gets stuck above `clues`."""
    rng = _attempt_generator(seed, side, clues, attempt)
    answer = fill_board(side, rng)
    question = remove_clues(answer, clues, rng)
    if question is None:
        return None
    assert count_solutions(question) == 1, "a puzzle lost its unique solution"
    return _Puzzle(question, answer, symmetry_invariants(question[None]).astype("<u8").tobytes())


def _attempt_maze(side: int, seed: int, attempt: int) -> _Puzzle | None:
    """Carve a maze and draw a start, then a goal far away with one shortest path; None if no goal is far enough."""
    rng = _attempt_generator(seed, side, 0, attempt)
    question = _carve_maze(side, rng)
    rooms = [y * side + x for y in range(1, side - 1, 2) for x in range(1, side - 1, 2)]
    start = int(rng.choice(rooms))
    steps, ways = _flood(question, start)
    longest = max(steps.values())
    far = [room for room in rooms if ways[room] == 1 and steps[room] > side and 4 * steps[room] >= 3 * longest]
    if not far:
        return None
    goal = int(rng.choice(far))
    question.flat[[start, goal]] = START, GOAL
    answer = question.copy()
    cell = goal
    while steps[cell] > 1:
        cell = next(near for near in (cell - side, cell - 1, cell + 1, cell + side) if steps.get(near) == steps[cell] - 1)
        answer.flat[cell] = PATH
    return _Puzzle(question, answer, min(apply_dihedral(question, dihedral).tobytes() for dihedral in range(DIHEDRALS)))


def _carve_maze(side: int, rng: np.random.Generator) -> Cells:
    """Return a maze (side, side) of rooms on odd rows and columns: a random depth-first tree, and a few walls opened."""
    maze = np.full((side, side), WALL, dtype=np.uint8)
    end = (side - 1) // 2 * 2  # rooms are on 1, 3, ..., end - 1
    maze[1:end:2, 1:end:2] = FREE
    unvisited = set(np.flatnonzero(maze == FREE).tolist())
    turns = rng.permuted(np.tile([-2 * side, -2, 2, 2 * side], (side * side, 1)), axis=1).tolist()
    trail = [int(rng.choice(sorted(unvisited)))]
    while trail:
        cell = trail[-1]
        unvisited.discard(cell)
        if not turns[cell]:
            trail.pop()
            continue
        turn = turns[cell].pop()
        if cell + turn in unvisited:
            maze.flat[cell + turn // 2] = FREE
            trail.append(cell + turn)
    inner = np.argwhere(maze[:end, :end] == WALL)
    between = inner[(inner.min(axis=1) > 0) & (inner.sum(axis=1) % 2 == 1)]
    opened = rng.permutation(between)[: max(1, (end // 2) ** 2 // ROOMS_PER_OPENING)]
    maze[opened[:, 0], opened[:, 1]] = FREE
    return maze


def _flood(maze: Cells, start: int) -> tuple[dict[int, int], dict[int, int]]:
    """Return, by flat cell, the steps from `start` and in how many ways so few lead there; `maze` has walls all round."""
    width = maze.shape[1]
    passable = (maze > WALL).ravel().tolist()
    steps, ways = {start: 0}, {start: 1}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for near in (cell - width, cell - 1, cell + 1, cell + width):
            if passable[near] and near not in steps:
                steps[near], ways[near] = steps[cell] + 1, 0
                queue.append(near)
            if steps.get(near) == steps[cell] + 1:
                ways[near] += ways[cell]
    return steps, ways
