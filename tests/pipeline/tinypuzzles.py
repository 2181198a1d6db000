"""Puzzles that are small, quick to make and as different as one wants."""

from pathlib import Path
from typing import Any

import numpy as np

from augment.sudoku import draw_symmetries
from pipeline.data.dataset import PuzzleDataset
from pipeline.data.puzzles.build import build_puzzles
from pipeline.data.puzzles.kinds import BLANK, FREE, GOAL, PATH, START, WALL, KindName
from pipeline.data.puzzles.sources import Puzzles


def tiny_puzzles(
    kind: KindName = "sudoku", count: int = 6, seed: int = 0, side: int | None = None, name: str = "made"
) -> Puzzles:
    """Sudokus that are views of one board with some cells blank, or mazes without walls but for a few off the path."""
    rng = np.random.default_rng(seed)
    if kind == "sudoku":
        side = side or 4
        box = {4: 2, 9: 3}[side]
        row, column = np.divmod(np.arange(side * side).reshape(side, side), side)
        board = ((row % box) * box + row // box + column) % side + 1
        boards = np.broadcast_to(board.astype(np.uint8), (count, side, side))
        answers = draw_symmetries(seed, np.arange(count), np.ones(count, np.int64), side).apply(boards) + np.uint8(1)
        return Puzzles(kind, np.where(rng.random(answers.shape) < 0.6, BLANK, answers), answers, name)
    side = side or 5
    questions = np.where(rng.random((count, side, side)) < 0.5, WALL, FREE).astype(np.uint8)
    questions[:, 0] = FREE  # the path is along the first row
    questions[:, 0, 0], questions[:, 0, -1] = START, GOAL
    answers = questions.copy()
    answers[:, 0, 1:-1] = PATH
    return Puzzles(kind, questions, answers, name)


def tiny_puzzle_dataset(kind: KindName = "sudoku", augmentations: int = 5, **made: Any) -> PuzzleDataset:
    """The dataset that trains on six tiny puzzles and asks for six others; `made` goes to `tiny_puzzles`."""
    return build_puzzles([tiny_puzzles(kind, seed=99, **made)], [tiny_puzzles(kind, **made)], augmentations, 3, "allow")


def write_csv(path: Path, puzzles: Puzzles, with_answers: bool = True) -> Path:
    """Write puzzles as they are published and return the path."""
    answers = (puzzles.answer_texts() if with_answers else None) or [""] * len(puzzles)
    rows = [
        f"book{i},{question},{answer},{i}"
        for i, (question, answer) in enumerate(zip(puzzles.question_texts(), answers, strict=True))
    ]
    path.write_text("\n".join(["source,question,answer,rating", *rows, ""]), encoding="utf-8")
    return path
