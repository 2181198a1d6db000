"""Packs of puzzles: views of many puzzles laid end to end, made when they are drawn.

Between the puzzle store and the networks, as `pack` is for tasks. All puzzles of a store have one size and fill their canvas,
so there is no border, no padding and no shift. Nothing is kept: a view is computed from the puzzle and its number.
"""

from collections.abc import Callable

import numpy as np

from augment.canvas import Tokens
from augment.grid import COLORS
from augment.sudoku import draw_symmetries
from pipeline.data.pack import Examples, Integers, Pack, Packs, Samples
from pipeline.data.puzzlekind import turn
from pipeline.data.puzzlestore import PuzzleStore


class PuzzlePackMaker(Packs):
    """Draws samples of a store of puzzles and makes packs of them.

    `examples` is "pairs" (training puzzles, with labels in every cell) or "tests" (test questions, without). Of a sample,
    `transform` is the number of the view: 0 is the puzzle as it is, of a maze the others are dihedrals, of a sudoku symmetries
    that follow from the seed of the store, the puzzle and the number. To the networks there is one task and one transform.
    """

    def __init__(self, store: PuzzleStore, memory_tokens: int, examples: Examples = "pairs") -> None:
        super().__init__(memory_tokens)
        self.store = store
        self.questions = store.questions if examples == "pairs" else store.test_questions
        self.answers = store.answers if examples == "pairs" else None
        self.side: int = self.questions.shape[1]

    def tokens(self, samples: Samples) -> Integers:
        """Return the number of tokens of each sequence, memory tokens included. (B,)"""
        return np.full(len(samples), self.side * self.side + self.memory_tokens)

    def draw(self, count: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw `count` samples: a puzzle and one of its views, both uniformly. Nothing is shifted.

        Raises ValueError where there are no puzzles.
        """
        if not len(self.questions):
            raise ValueError("the dataset has no puzzles to draw")
        example = rng.integers(len(self.questions), size=count)
        view = rng.integers(self.store.augmentations + 1, size=count)
        return Samples(example, view, np.zeros((count, 2), np.int64))

    def plain(self) -> Samples:
        """Return every puzzle once, as it is."""
        count = len(self.questions)
        return Samples(np.arange(count), np.zeros(count, np.int64), np.zeros((count, 2), np.int64))

    def order(self, samples: Samples) -> Integers:
        """Return the order in which they are: all canvases have one shape. (B,)"""
        return np.arange(len(samples))

    def make(self, samples: Samples) -> Pack:
        """Make the pack of `samples`: views of questions, and of answers where the examples are pairs."""
        count, example = len(samples), samples.example
        see = self._views(samples)
        none = np.zeros(count, np.int64)
        return Pack(
            inputs=see(self.questions[example]).astype(np.int64).ravel(),
            labels=None if self.answers is None else see(self.answers[example]).astype(np.int64).ravel(),
            shapes=np.full((count, 2), self.side),
            offsets=np.zeros((count, 2), np.int64),
            task=none,
            transform=none,
            dihedral=none,
            colors=np.tile(np.arange(COLORS), (count, 1)),
        )

    def _views(self, samples: Samples) -> Callable[[Tokens], Tokens]:
        """Return what shows tokens (B, S, S) as the views of `samples`."""
        if self.store.kind == "maze":
            return lambda tokens: turn(tokens, samples.transform)
        symmetries = draw_symmetries(self.store.seed, samples.example, samples.transform, self.side)
        blank = np.uint8(1)  # the token of digit d is d + 1
        return lambda tokens: symmetries.apply(tokens - blank) + blank
