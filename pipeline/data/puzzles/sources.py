"""Where puzzles come from: a source is named by a short text and gives questions, with their answers where they are known.

First stage of the flow for puzzles, as `sources` is for tasks: puzzles -> puzzlestore. Files are read by `puzzlefiles`. What
comes from outside never raises anything but ValueError and FileNotFoundError, with one line. Nothing is written.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from augment.canvas import Tokens
from eval.formatting import show_name, show_path
from pipeline.data.puzzles.csv_files import read_puzzle_file
from pipeline.data.puzzles.generate import generate_mazes, generate_sudoku
from pipeline.data.puzzles.kinds import PUZZLE_KINDS, KindName, PuzzleKind

PUZZLES_HELP = """\
or, all of one kind and size, a source of puzzles:
  sudoku:FILE.csv                   Sudoku-Extreme: the columns question (digits, blanks as . or 0) and answer, 81
                                    characters each, or 16 for boards of 4 x 4; other columns are not read
  maze:FILE.csv                     Maze-Hard: the columns question (# wall, space, S start, G goal) and answer (with
                                    the path marked o), 900 characters each, or another square
  sudoku:generated[:KEY=N,...]      made up: side 4 or 9 (the default), clues (6 or 30), count (1000), seed (0)
  maze:generated[:KEY=N,...]        made up: side (15), count (1000), seed (0)
                                    to train on and to be solved, the same text gives different puzzles
"""

Part = Literal["train", "test"]
"""What puzzles are for: to train on, or to be solved."""

GENERATED = "generated"

DEFAULT_CLUES = {4: 6, 9: 30}

_SETTINGS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "sudoku": {"side": 9, "clues": 0, "count": 1000, "seed": 0},
        "maze": {"side": 15, "count": 1000, "seed": 0},
    }
)
"""What can be said about generated puzzles, and what holds where nothing is said; 0 clues are `DEFAULT_CLUES`."""


@dataclass(frozen=True, eq=False)
class Puzzles:
    """The puzzles that a source gave, all of one kind and size."""

    kind: KindName
    questions: Tokens
    """(N, S, S) uint8 tokens, see `PUZZLE_KINDS`."""
    answers: Tokens | None
    """(N, S, S) uint8 tokens; None where they are not known."""
    name: str
    """The source as it was asked for, such as `sudoku:test.csv`."""

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


def load_puzzles(
    spec: str, part: Part, with_answers: bool = True, limit: int | None = None, seed: int = 0, jobs: int = 1
) -> Puzzles:
    """Return the puzzles of a source (`PUZZLES_HELP` describes them), in its order.

    A generated source has different puzzles in each `part`; a file has the same. Without answers, those of a file are left
    unread. A `limit` is so many of the puzzles, drawn without replacement from `seed` and the part, as the published training
    sets of 1,000 are; all of a file is read and checked nevertheless. `jobs` are processes for puzzles that have to be made.
    Raises ValueError (unknown source, bad data, a limit over the number) or FileNotFoundError: one line.
    """
    if part not in get_args(Part):
        raise ValueError(f"the part must be {' or '.join(get_args(Part))}, got {part!r}")
    name, _, rest = spec.partition(":")
    if name not in PUZZLE_KINDS or not rest:
        expected = ", ".join(f"{kind}:FILE.csv, {kind}:{GENERATED}[:KEY=N,...]" for kind in PUZZLE_KINDS)
        raise ValueError(f"unknown source {show_name(spec)}: expected one of {expected}")
    kind = PUZZLE_KINDS[name]
    head, _, settings = rest.partition(":")
    if head == GENERATED:
        questions, answers = _generate(spec, kind.name, settings if rest != head else None, part, jobs)
        puzzles = Puzzles(kind.name, questions, answers if with_answers else None, spec)
    else:
        puzzles = Puzzles(kind.name, *_read(spec, rest, kind, with_answers), spec)
    return puzzles if limit is None else _draw(puzzles, limit, np.random.default_rng([seed, part == "test"]))


def _draw(puzzles: Puzzles, limit: int, rng: np.random.Generator) -> Puzzles:
    """Return `limit` of the puzzles, in their order. Raises ValueError if there are not so many."""
    if not 1 <= limit <= len(puzzles):
        raise ValueError(
            f"{show_name(puzzles.name)}: has {len(puzzles)} puzzles, so the limit must be 1..{len(puzzles)}, got {limit}"
        )
    chosen = np.sort(rng.choice(len(puzzles), size=limit, replace=False))
    answers = None if puzzles.answers is None else puzzles.answers[chosen]
    return replace(puzzles, questions=puzzles.questions[chosen], answers=answers)


def _read(spec: str, rest: str, kind: PuzzleKind, with_answers: bool) -> tuple[Tokens, Tokens | None]:
    try:
        path = Path(rest).expanduser()
    except RuntimeError:  # no such user: the folder is really called ~name
        path = Path(rest)
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{show_path(path)}: no such file")
        return read_puzzle_file(path, kind, with_answers)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise ValueError(f"{show_path(error.filename or spec)}: cannot be read: {what}") from error


@lru_cache(maxsize=8)
def _generate(spec: str, kind: KindName, text: str | None, part: Part, jobs: int) -> tuple[Tokens, Tokens]:
    """Return tokens of questions and answers (N, S, S) that are made up. Raises ValueError, which names the source.

    They are kept: a run asks for them when it opens, builds and scores, and making them takes seconds.
    """
    settings = _parse_settings(spec, kind, text)
    side, count, seed = settings["side"], settings["count"], settings["seed"]
    try:
        if kind == "maze":
            return generate_mazes(count, side, seed, part, jobs)
        if side not in PUZZLE_KINDS[kind].sides:
            raise ValueError(f"side must be {' or '.join(map(str, PUZZLE_KINDS[kind].sides))}, got {side}")
        clues = settings["clues"] or DEFAULT_CLUES[side]
        questions, answers = generate_sudoku(count, side, clues, seed, part, jobs)
    except ValueError as error:
        raise ValueError(f"{show_name(spec)}: {error}") from error
    return questions + np.uint8(1), answers + np.uint8(1)


def _parse_settings(spec: str, kind: KindName, text: str | None) -> dict[str, int]:
    settings = dict(_SETTINGS[kind])
    names = ", ".join(settings)
    said = set()
    for item in [] if text is None else text.split(","):
        key, _, value = item.partition("=")
        if key not in settings:
            raise ValueError(f"{show_name(spec)}: unknown setting {show_name(key)}: expected {names}")
        if key in said:
            raise ValueError(f"{show_name(spec)}: {key} is given twice")
        least = 0 if key == "seed" else 1
        if not re.fullmatch(r"[0-9]{1,18}", value) or int(value) < least:
            raise ValueError(f"{show_name(spec)}: {key} must be a number from {least} on, got {show_name(value)}")
        said.add(key)
        settings[key] = int(value)
    return settings
