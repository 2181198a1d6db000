"""Files of puzzles: CSV with a header, a question and its answer a line, as Sudoku-Extreme and Maze-Hard are published.

Under `puzzles`. A file is read in blocks of lines, each checked as one array; only bad lines are looked at one by one. What
comes from outside never raises anything but ValueError, with one line that names the file and the lines.
"""

import csv
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from augment.canvas import Tokens
from eval.files import require_file
from eval.formatting import show_name, show_path
from pipeline.data.puzzles.kinds import Booleans, PuzzleKind
from pipeline.system.progress_bar import Progress

ROWS_AT_ONCE = 1 << 12

MOST_BYTES = 1 << 32
"""Of a file; that of all puzzles of Sudoku-Extreme is a fifth of it."""

MOST_LINE_CHARACTERS = 1 << 18
"""A longer line is taken for several, none of which is a puzzle."""

FAULTS_SHOWN = 3
"""Bad lines that a message describes; it counts the others."""


def read_puzzle_file(path: Path, kind: PuzzleKind, with_answers: bool = True) -> tuple[Tokens, Tokens | None]:
    """Return questions and answers of a file, (N, S, S) tokens each, in its order.

    There are no answers where none of the lines has one, or when they are not asked for: then they are left unread.
    Empty lines are skipped. Raises ValueError where a line is wrong or there is no puzzle.
    """
    where = show_path(path)
    if require_file(path) > MOST_BYTES:
        raise ValueError(f"{where}: too large: {MOST_BYTES:,} bytes are read at most")
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        reader = csv.reader(_lines(file), strict=True)
        try:
            header = next(filter(None, reader), None)
            if header is None:
                raise ValueError(f"{where}: is empty, expected a header that names question and answer")
            table = _Table(where, kind, header, reader.line_num, with_answers)
            line = reader.line_num + 1
            with Progress(f"reading {where}", unit="puzzles") as progress:
                while rows := list(islice(reader, ROWS_AT_ONCE)):
                    table.add(_Block(rows, line, reader.line_num))
                    line = reader.line_num + 1
                    progress.add(len(rows))
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: {_describe_encoding(path, error)}") from error
        except csv.Error as error:
            raise ValueError(f"{where}: not CSV, as line {reader.line_num} shows: {error}") from error
    return table.finish()


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file, one that is longer than any can be in pieces."""
    return iter(lambda: file.readline(MOST_LINE_CHARACTERS), "")


def _describe_encoding(path: Path, error: UnicodeDecodeError) -> str:
    """Return which line of a file is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_CHARACTERS), b""), 1):
            try:
                line.decode()
            except UnicodeDecodeError as fault:
                return f"line {number}: not UTF-8: {fault.reason} at byte {fault.start}"
    return f"not UTF-8: {error.reason}"


@dataclass(frozen=True)
class _Block:
    """Neighboring rows of a file, empty ones included."""

    rows: list[list[str]]
    first_line: int
    last_line: int

    def lines(self) -> Sequence[int]:
        """Return the line on which each row begins."""
        if self.last_line - self.first_line + 1 == len(self.rows):
            return range(self.first_line, self.last_line + 1)
        heights = [1 + sum(field.count("\n") for field in row) for row in self.rows]  # quoted fields may hold line ends
        return (self.first_line + np.cumsum([0, *heights[:-1]])).tolist()


class _Table:
    """What has been read of a file: tokens of the rows that are right, and what is wrong with the others."""

    def __init__(self, where: str, kind: PuzzleKind, header: list[str], line: int, with_answers: bool) -> None:
        for name in ("question", "answer"):
            if header.count(name) != 1:
                found = ", ".join(map(show_name, header[:6]))
                what = f"the header must name question and answer, each once, got {found}"
                raise ValueError(f"{where}: line {line}: {what}")
        self.where = where
        self.kind = kind
        self.with_answers = with_answers
        self.fields = len(header)
        self.question, self.answer = header.index("question"), header.index("answer")
        self.side: int | None = None
        self.questions: list[Tokens] = []
        self.answers: list[Tokens] = []
        self.answered = 0
        self.wrong = _Faults(where)
        self.unanswered = _Faults(where)

    def add(self, block: _Block) -> None:
        """Add rows; the first with a possible length says what all must have."""
        rows = block.rows
        fields = _lengths(rows)
        whole = fields == self.fields
        complete = rows if whole.all() else [row for row in rows if len(row) == self.fields]
        questions = [row[self.question] for row in complete]
        answers = [row[self.answer] if self.with_answers else "" for row in complete]
        if self.side is None:
            self.side = next(filter(None, map(self.kind.side_of, questions)), None)
        area = -1 if self.side is None else self.side * self.side
        answer_lengths = _lengths(answers)
        fits = (_lengths(questions) == area) & ((answer_lengths == area) | (answer_lengths == 0))
        right = np.zeros(len(rows), dtype=bool)
        if self.side is not None:
            if not fits.all():
                questions, answers = (list(compress(texts, fits)) for texts in (questions, answers))
            right[np.flatnonzero(whole)[fits]] = self._add_texts(questions, answers, self.side)
        for i in self.wrong.count_all(np.flatnonzero(~right & (fields > 0))):
            self.wrong.describe(block.lines()[i], self._fault(rows[i]))
        if self.with_answers:
            for i in self.unanswered.count_all(np.flatnonzero(whole)[answer_lengths == 0]):
                self.unanswered.describe(block.lines()[i], "has no answer, and other lines have one")

    def finish(self) -> tuple[Tokens, Tokens | None]:
        """Return questions and answers. Raises ValueError if a line was wrong, only some have an answer, or there is none."""
        self.wrong.raise_if_any()
        if self.answered:
            self.unanswered.raise_if_any()
        if not self.questions:
            raise ValueError(f"{self.where}: has a header and no puzzles")
        return np.concatenate(self.questions), np.concatenate(self.answers) if self.answered else None

    def _add_texts(self, questions: list[str], answers: list[str], side: int) -> Booleans:
        """Add texts of the right lengths and return which of them are right. (N,)"""
        asked = self.kind.read(questions, side)
        right = (asked > 0).all(axis=(1, 2)) & self.kind.keeps_rule(asked)
        self.questions.append(asked)
        has_answer = np.array(list(map(bool, answers)), dtype=bool)
        if has_answer.any():
            solved = self.kind.read(list(filter(None, answers)), side)
            right[has_answer] &= (solved > 0).all(axis=(1, 2)) & self.kind.solves(asked[has_answer], solved)
            self.answers.append(solved)
            self.answered += len(solved)
        return right

    def _fault(self, row: list[str]) -> str:
        """Return what is wrong with a row that is not right."""
        if len(row) != self.fields:
            return f"expected {self.fields} fields, got {len(row)}"
        question, answer = row[self.question], row[self.answer] if self.with_answers else ""
        fault = self.kind.text_fault(question, self.side)
        if fault:
            return f"question {fault}"
        assert self.side is not None, "without a side, every question is a fault"
        if not self.kind.keeps_rule(self.kind.read([question], self.side))[0]:
            return f"question must {self.kind.question_rule}"
        fault = self.kind.text_fault(answer, self.side)
        return f"answer {fault}" if fault else f"answer must {self.kind.answer_rule}"


def _lengths(items: Sequence[Sized]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, items), dtype=np.int64, count=len(items))


class _Faults:
    """The first bad lines of a file and the number of all."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.shown: list[str] = []
        self.count = 0

    def count_all(self, found: npt.NDArray[np.int64]) -> list[int]:
        """Count what was found and return the first of it, as many as are still to be described."""
        self.count += len(found)
        return found[: FAULTS_SHOWN - len(self.shown)].tolist()

    def describe(self, line: int, what: str) -> None:
        """Keep what is wrong with a line, to be shown."""
        self.shown.append(f"line {line}: {what}")

    def raise_if_any(self) -> None:
        """Raise ValueError, of one line, if anything was counted."""
        if self.count:
            more = f"; and {self.count - len(self.shown)} more bad lines" if self.count > len(self.shown) else ""
            raise ValueError(f"{self.where}: {'; '.join(self.shown)}{more}")
