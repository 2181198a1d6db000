"""The kinds of puzzles, sudoku and maze: their text form, their tokens as the HRM authors encode them, and their rules.

Token 0 is padding and never occurs, since all puzzles of a dataset have one size. The tokens from 1 on are the characters of
the published files (arXiv 2506.21734).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from augment.canvas import Tokens
from augment.dihedral import DIHEDRALS, apply_dihedral
from augment.grid import MAX_SIDE
from augment.sudoku import are_solutions, extends

WALL, FREE, START, GOAL, PATH = 1, 2, 3, 4, 5
"""The published tokens of Maze-Hard, "# SGo"; 0 is its padding."""
BLANK = np.uint8(1)
"""The token of a blank in a sudoku; that of digit d is d + 1."""
KindName = Literal["sudoku", "maze"]
Booleans = npt.NDArray[np.bool_]
PUZZLE_TASK = "puzzle"
"""The id of the one task that all puzzles are to the networks."""
UNKNOWN = "?"
"""The character of a predicted token that no puzzle has."""


@dataclass(frozen=True)
class PuzzleKind:
    """The text form and the rules of puzzles of one kind. Tokens are (N, S, S) uint8."""

    name: KindName
    alphabet: str
    """The character of token 1, 2 and so on."""
    synonyms: Mapping[str, str]
    """Other characters that are read, and the characters that they stand for."""
    sides: tuple[int, ...]
    """Cells on each side that a puzzle may have."""
    most_views: int | None
    """Different views of a puzzle besides itself; None for no limit."""
    question_rule: str
    """What a question must be, beginning with a verb."""
    answer_rule: str
    """What an answer must be, beginning with a verb."""
    keeps_rule: Callable[[Tokens], Booleans]
    """(N,) which questions keep the rule."""
    solves: Callable[[Tokens, Tokens], Booleans]
    """(N,) which questions, given first, are solved by the answer beside them."""

    @property
    def vocabulary(self) -> int:
        """The number of tokens, padding included."""
        return len(self.alphabet) + 1

    def symbols(self, side: int) -> str:
        """Return the characters that may occur in a puzzle of `side`: a small sudoku has fewer digits."""
        return self.alphabet[: side + 1] if self.name == "sudoku" else self.alphabet

    def read(self, texts: Sequence[str], side: int) -> Tokens:
        """Return the tokens of texts of side * side characters each, row by row; 0 for a foreign character. Read-only."""
        symbols = self.symbols(side)
        table = bytearray(256)
        for number, symbol in enumerate(symbols, 1):
            table[ord(symbol)] = number
        for symbol, meant in self.synonyms.items():
            table[ord(symbol)] = symbols.index(meant) + 1
        cells = "".join(texts).encode("latin-1", "replace").translate(table)  # one byte a character; "?" is foreign
        return np.frombuffer(cells, dtype=np.uint8).reshape(len(texts), side, side)

    def to_texts(self, tokens: npt.NDArray[np.integer]) -> list[str]:
        """Return the texts of puzzles, (N, S, S) tokens 0..255, row by row; `UNKNOWN` for tokens without a character."""
        count, side, _ = tokens.shape
        table = (UNKNOWN + self.symbols(side)).ljust(256, UNKNOWN).encode()
        characters = tokens.astype(np.uint8).tobytes().translate(table).decode()
        area = side * side
        return [characters[start : start + area] for start in range(0, count * area, area)]

    def text_fault(self, text: str, side: int | None) -> str | None:
        """Return what is wrong with the length or the characters of `text`, or None. `side` is None if any will do."""
        if side is None or len(text) != side * side:
            sides = self.sides if side is None else (side,)
            expected = " or ".join(str(each * each) for each in sides)
            if len(sides) > 2:
                expected = f"a square, {sides[0] ** 2} to {sides[-1] ** 2}"
            return f"has {len(text)} characters, expected {expected}"
        allowed = {*self.symbols(side), *self.synonyms}
        for place, character in enumerate(text, 1):
            if character not in allowed:
                return f"has {character!a} as character {place}, expected only {self.symbols(side)!r}"
        return None


def turn(tokens: Tokens, dihedrals: npt.NDArray[np.integer]) -> Tokens:
    """Return squares (N, S, S), each seen through its dihedral 0..7 of `dihedrals` (N,) (`augment.dihedral`)."""
    count, side, _ = tokens.shape
    places = np.arange(side * side).reshape(side, side)
    sources = np.stack([apply_dihedral(places, dihedral).ravel() for dihedral in range(DIHEDRALS)])  # (8, S * S)
    return np.take_along_axis(tokens.reshape(count, side * side), sources[dihedrals], axis=1).reshape(tokens.shape)


PUZZLE_KINDS: Mapping[str, PuzzleKind] = {
    "sudoku": PuzzleKind(
        name="sudoku",
        alphabet=".123456789",
        synonyms={"0": "."},
        sides=(4, 9),
        most_views=None,
        question_rule="have digits and blanks",
        answer_rule="be a solution: every digit once in each row, column and box, with the clues of the question",
        keeps_rule=lambda questions: np.ones(len(questions), dtype=bool),
        solves=lambda questions, answers: are_solutions(answers - BLANK) & extends(questions - BLANK, answers - BLANK),
    ),
    "maze": PuzzleKind(
        name="maze",
        alphabet="# SGo",
        synonyms={},
        sides=tuple(range(2, MAX_SIDE + 1)),
        most_views=DIHEDRALS - 1,
        question_rule="have exactly one S, exactly one G and no o",
        answer_rule="be the question with some of its free cells turned into o",
        keeps_rule=lambda questions: (
            (np.count_nonzero(questions == START, axis=(1, 2)) == 1)
            & (np.count_nonzero(questions == GOAL, axis=(1, 2)) == 1)
            & ~(questions == PATH).any(axis=(1, 2))
        ),
        solves=lambda questions, answers: ((answers == questions) | ((questions == FREE) & (answers == PATH))).all(axis=(1, 2)),
    ),
}
"""By name. Vocabularies of 11 and 6; a sudoku of 4 x 4 has the vocabulary of the large ones."""
