"""CSV files of puzzles: a question and its answer per line, checked in blocks. InputError names the file and the lines."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from augment.canvas import Tokens
from augment.errors import InputError
from eval.files import require_file
from eval.formatting import show_name, show_path
from pipeline.data.puzzles.kinds import PuzzleKind
from pipeline.system.progress_bar import Progress

ROWS_AT_ONCE = 1 << 12
MOST_BYTES = 1 << 32
"""Largest file. All puzzles of Sudoku-Extreme have a fifth of it."""
MOST_LINE_BYTES = 1 << 18
"""A longer line is read as several, none of which is a puzzle."""
QUESTIONS, ANSWERS = ("question", "puzzle", "quizzes", "quiz"), ("answer", "solution", "solutions")
"""Names of the columns in a header, in any case; the first of them that is there counts."""
FAULTS_SHOWN = 3
"""Bad lines after which reading stops."""


def read_puzzle_file(path: Path, kind: PuzzleKind, with_answers: bool = True) -> tuple[Tokens, Tokens | None]:
    """Return questions and answers of a file, (N, S, S) tokens each, in its order.

    There are no answers where no line has one, or where they are not wanted: then they are not read. Empty lines are skipped.
    Raises FileNotFoundError, and InputError where a line is wrong or there is no puzzle.
    """
    where = show_path(path)
    if require_file(path) > MOST_BYTES:
        raise InputError(f"{where}: too large: {MOST_BYTES:,} bytes are read at most")
    try:
        with path.open("rb") as file, Progress(f"reading {where}", unit="puzzles") as progress:
            return _read(file, kind, with_answers, progress)
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or type(error).__name__}") from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _read(file: BinaryIO, kind: PuzzleKind, with_answers: bool, progress: Progress) -> tuple[Tokens, Tokens | None]:
    reader = csv.reader(_decode_lines(file), strict=True)
    rows = ((reader.line_num, row) for row in reader if row)
    questions, answers, faults = list[Tokens](), list[Tokens](), list[str]()
    try:
        line, header = next(rows, (0, []))
        if not header:
            raise InputError("is empty, expected a header that names question and answer")
        question, answer = (_find_column(header, names) for names in (QUESTIONS, ANSWERS))
        if question is None:
            found = ", ".join(map(show_name, header[:6]))
            raise InputError(f"line {line}: the header must name one column {' or '.join(QUESTIONS)}, got {found}")
        checker = _Checker(kind, len(header), question, answer if with_answers else None)
        while block := list(islice(rows, ROWS_AT_ONCE)):
            if tokens := checker.read([row for _, row in block]):
                questions.append(tokens[0])
                answers += tokens[1:]
            else:
                found_faults = ((line, checker.fault(row)) for line, row in block)
                faults += [f"line {line}: {fault}" for line, fault in found_faults if fault]
                if len(faults) >= FAULTS_SHOWN:
                    raise InputError(f"{'; '.join(faults[:FAULTS_SHOWN])}; reading stopped here")
            progress.add(len(block))
    except csv.Error as error:
        raise InputError(f"not CSV, as line {reader.line_num} shows: {error}") from error
    if faults:
        raise InputError("; ".join(faults))
    if not questions:
        raise InputError("has a header and no puzzles")
    return np.concatenate(questions), np.concatenate(answers) if answers else None


def _find_column(header: list[str], names: tuple[str, ...]) -> int | None:
    """Return the place of the first of `names` that the header has, None for none. Raises InputError where it has it twice."""
    present = [name.strip().lower() for name in header]
    name = next((name for name in names if name in present), None)
    if name is not None and present.count(name) > 1:
        raise InputError(f"the header has {name} twice")
    return None if name is None else present.index(name)


def _decode_lines(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"line {number}: not UTF-8: {error.reason} at byte {error.start}") from error


@dataclass
class _Checker:
    """Checks rows. The first good row determines the side of all puzzles, and whether they have answers."""

    kind: PuzzleKind
    fields: int
    question: int
    answer: int | None
    """The column; None if answers are not read."""
    side: int | None = None
    answered: bool = False

    def read(self, rows: list[list[str]]) -> list[Tokens]:
        """Return the tokens of the questions, and of the answers if there are any; nothing where any row is wrong."""
        if self.fault(rows[0]) or self.side is None or {len(row) for row in rows} != {self.fields}:
            return []
        area = self.side * self.side
        questions = [row[self.question] for row in rows]
        answers = [] if self.answer is None else [row[self.answer] for row in rows]
        if {len(text) for text in questions} != {area} or {len(text) for text in answers} - {area if self.answered else 0}:
            return []
        tokens = [self.kind.read(texts, self.side) for texts in ([questions, answers] if self.answered else [questions])]
        right = self.kind.keeps_rule(tokens[0]).all() and all((each > 0).all() for each in tokens)
        return tokens if right and (not self.answered or self.kind.solves(*tokens).all()) else []

    def fault(self, row: list[str]) -> str | None:
        """Return what is wrong with a row, or None."""
        if len(row) != self.fields:
            return f"expected {self.fields} fields, got {len(row)}"
        question, answer = row[self.question], "" if self.answer is None else row[self.answer]
        side = self.side or next((side for side in self.kind.sides if side * side == len(question)), None)
        fault = self.kind.text_fault(question, side)
        if fault or side is None:
            return f"question {fault}"
        tokens, answer_fault = self.kind.read([question], side), self.kind.text_fault(answer, side)
        found = None
        if not self.kind.keeps_rule(tokens)[0]:
            found = f"question must {self.kind.question_rule}"
        elif self.side and self.answered != bool(answer):
            found = "has no answer, and other lines have one" if self.answered else "has an answer, and other lines have none"
        elif answer and answer_fault:
            found = f"answer {answer_fault}"
        elif answer and not self.kind.solves(tokens, self.kind.read([answer], side))[0]:
            found = f"answer must {self.kind.answer_rule}"
        else:
            self.side, self.answered = side, bool(answer)
        return found
