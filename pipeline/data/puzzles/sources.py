"""Loaders of puzzles: a source such as `sudoku:FILE.csv` in, questions and known answers out. Bad input raises InputError."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from augment.canvas import Tokens
from augment.errors import InputError
from eval.files import expand
from eval.formatting import show_name
from pipeline.data.puzzles.csv_files import read_puzzle_file
from pipeline.data.puzzles.generate import generate_mazes, generate_sudoku
from pipeline.data.puzzles.kinds import BLANK, PUZZLE_KINDS, KindName

PUZZLES_HELP = """\
or a source of puzzles; all of a run are of one kind and size:
  sudoku:FILE.csv                   Sudoku-Extreme: the columns question (digits, blanks as . or 0; also puzzle, quizzes)
                                    and answer (solution, solutions; may be missing), 81 characters each, or 16 for
                                    boards of 4 x 4; other columns are not read
  maze:FILE.csv                     Maze-Hard: the columns question (# wall, space, S start, G goal) and answer (with
                                    the path marked o), 900 characters each, or another square
  sudoku:generated[:KEY=N,...]      made up: side 4 or 9 (the default), clues (6 or 30), count (1000), seed (0)
  maze:generated[:KEY=N,...]        made up: side (15), count (1000), seed (0)
                                    (the same text names other puzzles behind --train-source than behind --source)
"""

Part = Literal["train", "test"]
"""Whether puzzles are to train on, or to be solved."""
GENERATED = "generated"
DEFAULT_CLUES = {4: 6, 9: 30}
_SETTINGS: Mapping[str, Mapping[str, int]] = {
    "sudoku": {"side": 9, "clues": 0, "count": 1000, "seed": 0},
    "maze": {"side": 15, "count": 1000, "seed": 0},
}
"""The settings of generated puzzles and their defaults; 0 clues are `DEFAULT_CLUES`."""


@dataclass(frozen=True, eq=False)
class Puzzles:
    """The puzzles of a source, all of one kind and size."""

    kind: KindName
    questions: Tokens
    """(N, S, S) uint8 tokens, see `PUZZLE_KINDS`."""
    answers: Tokens | None
    """(N, S, S) uint8 tokens; None where they are not known."""
    name: str
    """The text that names the source, such as `sudoku:test.csv`."""

    def __len__(self) -> int:
        return len(self.questions)

    def question_texts(self) -> list[str]:
        """Return the questions as they are published: cells row by row."""
        return PUZZLE_KINDS[self.kind].to_texts(self.questions)

    def answer_texts(self) -> list[str] | None:
        """Return the answers as they are published, or None where they are not known."""
        return None if self.answers is None else PUZZLE_KINDS[self.kind].to_texts(self.answers)


def is_puzzle_source(spec: str) -> bool:
    """Return whether `spec` names a source of puzzles rather than of tasks."""
    kind, colon, _ = spec.partition(":")
    return bool(colon) and kind in PUZZLE_KINDS


def answers_of(sources: Iterable[Puzzles]) -> dict[str, str]:
    """Return the answers that are known, by question. Raises InputError where a question has two."""
    answers: dict[str, str] = {}
    for puzzles in sources:
        for question, answer in zip(puzzles.question_texts(), puzzles.answer_texts() or (), strict=False):
            if answers.setdefault(question, answer) != answer:
                raise InputError(f"{puzzles.name}: two answers to one question, {show_name(question)}")
    return answers


def load_puzzles(
    spec: str, part: Part, with_answers: bool = True, limit: int | None = None, seed: int = 0, jobs: int = 1
) -> Puzzles:
    """Return the puzzles of a source (`PUZZLES_HELP` describes them), in its order.

    A generated source has different puzzles in each `part`; a file has the same. Answers that are not wanted are not read.
    `limit` puzzles are drawn without replacement from `seed` and the part, as the published training sets of 1,000 are; all of
    a file is read and checked nevertheless. `jobs` is the number of processes that generate puzzles.
    Raises InputError (unknown source, bad data, a limit over the number) or FileNotFoundError: one line.
    """
    name, _, rest = spec.partition(":")
    if name not in PUZZLE_KINDS or not rest:
        expected = ", ".join(f"{kind}:FILE.csv, {kind}:{GENERATED}[:KEY=N,...]" for kind in PUZZLE_KINDS)
        raise InputError(f"unknown source {show_name(spec)}: expected one of {expected}")
    kind = PUZZLE_KINDS[name]
    head, _, settings = rest.partition(":")
    if head == GENERATED:
        questions, known = _generate(spec, kind.name, settings if rest != head else None, part, jobs)
        answers = known if with_answers else None
    else:
        questions, answers = read_puzzle_file(expand(rest), kind, with_answers)
    if limit is not None:
        count = len(questions)
        if not 1 <= limit <= count:
            raise InputError(f"{show_name(spec)}: has {count} puzzles, so the limit must be 1..{count}, got {limit}")
        chosen = np.sort(np.random.default_rng([seed, part == "test"]).choice(count, size=limit, replace=False))
        questions, answers = questions[chosen], None if answers is None else answers[chosen]
    return Puzzles(kind.name, questions, answers, spec)


@lru_cache(maxsize=8)
def _generate(spec: str, kind: KindName, text: str | None, part: Part, jobs: int) -> tuple[Tokens, Tokens]:
    """Return generated questions and answers, cached: a run loads them when it starts, builds and scores. Raises InputError."""
    try:
        settings = _parse_settings(kind, text)
        side, count, seed = settings["side"], settings["count"], settings["seed"]
        if kind == "maze":
            return generate_mazes(count, side, seed, part, jobs)
        if side not in PUZZLE_KINDS[kind].sides:
            raise InputError(f"side must be {' or '.join(map(str, PUZZLE_KINDS[kind].sides))}, got {side}")
        questions, answers = generate_sudoku(count, side, settings["clues"] or DEFAULT_CLUES[side], seed, part, jobs)
    except ValueError as error:
        raise InputError(f"{show_name(spec)}: {error}") from error
    return questions + BLANK, answers + BLANK


def _parse_settings(kind: KindName, text: str | None) -> dict[str, int]:
    settings = dict(_SETTINGS[kind])
    given = set()
    for item in [] if text is None else text.split(","):
        key, _, value = item.partition("=")
        if key not in settings:
            raise InputError(f"unknown setting {show_name(key)}: expected {', '.join(settings)}")
        if key in given:
            raise InputError(f"{key} is given twice")
        least = 0 if key == "seed" else 1
        if not re.fullmatch(r"[0-9]{1,18}", value) or int(value) < least:
            raise InputError(f"{key} must be a number from {least} on, got {show_name(value)}")
        given.add(key)
        settings[key] = int(value)
    return settings
