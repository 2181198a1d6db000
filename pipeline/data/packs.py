"""Packs: canvases of many views laid end to end, made when they are drawn.

Between the store and the networks. Nothing is kept: the tokens of a pack are computed from the store's grids, the transform and
the shift of each sequence, all sequences at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from augment.canvas import EOS, FIRST_COLOR, PAD, Tokens
from augment.grid import COLORS, MAX_SIDE
from augment.sudoku import draw_symmetries
from augment.transform import decode_transforms
from pipeline.data.puzzles.build import PuzzleStore
from pipeline.data.puzzles.kinds import turn
from pipeline.data.store import Store

Integers = npt.NDArray[np.int64]

Canvas = Literal["fitted", "full"]

Examples = Literal["pairs", "tests"]
"""Training pairs, which have labels, or test inputs, which have none."""

IGNORED = -100

_TRANSPOSES = np.array([False, True, False, True, False, False, True, True])


@dataclass(frozen=True)
class Samples:
    """Which sequences a pack holds, one entry each; enough to make them again."""

    example: Integers
    """(B,) training pair, or test input, of the store."""
    transform: Integers
    """(B,) position in the store's list of transforms; of puzzles, the number of the view, 0 as it is."""
    shift: Integers
    """(B, 2) rows and columns by which the grids are moved on the full canvas."""

    def __len__(self) -> int:
        return len(self.example)

    def __getitem__(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> "Samples":
        return Samples(*(getattr(self, field.name)[index] for field in fields(self)))

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(*(np.concatenate((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)))


@dataclass(frozen=True)
class Pack:
    """The tokens of B sequences with C cells in all, sequences of one canvas shape side by side."""

    inputs: Integers
    """(C,) tokens: 0 padding, 1 border, 2..11 colors."""
    labels: Integers | None
    """(C,) tokens, -100 where padding; None for test inputs."""
    shapes: Integers
    """(B, 2) canvas height and width."""
    offsets: Integers
    """(B, 2) row and column of the canvas's first cell on the full canvas."""
    task: Integers
    """(B,) task in the store."""
    transform: Integers
    """(B,) position in the store's list of transforms."""
    dihedral: Integers
    """(B,)"""
    colors: Integers
    """(B, 10)"""


class Packs(ABC):
    """Draws samples of a dataset and makes packs of them: what training and prediction ask for."""

    def __init__(self, memory_tokens: int) -> None:
        self.memory_tokens = memory_tokens

    @abstractmethod
    def tokens(self, samples: Samples) -> Integers:
        """Return the number of tokens of each sequence, memory tokens included. (B,)"""

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw `count` training samples. Raises ValueError where there is nothing to train on."""

    @abstractmethod
    def plain(self) -> Samples:
        """Return every example once, as it is: seen through the identity and not shifted."""

    @abstractmethod
    def order(self, samples: Samples) -> Integers:
        """Return the order that puts sequences of one canvas shape side by side, shorter ones first. (B,)"""

    @abstractmethod
    def make(self, samples: Samples) -> Pack:
        """Make the pack of `samples`, which must be in `order`."""

    def fill(self, room_tokens: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw samples until they reach `room_tokens` tokens; none where there is no room.

        The sequence that reaches the budget is kept, so that long ones are drawn as often as short ones.
        """
        drawn, filled = [], 0
        smallest = self.memory_tokens + 1
        while filled < room_tokens:
            block = self.draw(min(4096, max(16, room_tokens // (16 * smallest))), rng, shift_probability)
            ends = filled + self.tokens(block).cumsum()
            block = block[: int(np.searchsorted(ends, room_tokens)) + 1]
            drawn.append(block)
            filled = int(ends[len(block) - 1])
        return sum(drawn[1:], drawn[0]) if drawn else self.draw(0, rng, shift_probability)


class PackMaker(Packs):
    """Draws samples of a store of tasks and makes packs of them.

    `examples` is "pairs" (training pairs, with labels) or "tests" (test inputs, without).
    """

    def __init__(self, store: Store, canvas: Canvas, memory_tokens: int, examples: Examples = "pairs") -> None:
        if canvas not in ("fitted", "full"):
            raise ValueError(f"canvas must be fitted or full, got {canvas!r}")
        super().__init__(memory_tokens)
        self.store = store
        self.canvas = canvas
        pairs = examples == "pairs"
        self.task = (store.pair_task if pairs else store.test_task).astype(np.int64)
        self.input = (store.pair_input if pairs else store.test_input).astype(np.int64)
        self.output = store.pair_output.astype(np.int64) if pairs else None
        fitted = (store.pair_canvas if pairs else store.test_canvas).astype(np.int64)
        self.box = fitted if canvas == "fitted" else self._boxes()
        self.shape = fitted if canvas == "fitted" else np.full_like(fitted, MAX_SIDE)

    def _boxes(self) -> Integers:
        """Return what has to stay on a full canvas when it is shifted: the sizes that hold both grids. (P, 2)"""
        sizes = np.stack((self.store.grid_height, self.store.grid_width), axis=1).astype(np.int64)
        return sizes[self.input] if self.output is None else np.maximum(sizes[self.input], sizes[self.output])

    def tokens(self, samples: Samples) -> Integers:
        """Return the number of tokens of each sequence, memory tokens included. (B,)"""
        return self.shape[samples.example].prod(axis=1) + self.memory_tokens

    def draw(self, count: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw `count` training samples: a task, then one of its transforms and one of its pairs, all uniformly.

        Raises ValueError where there are no pairs.
        """
        store = self.store
        trained = np.flatnonzero(np.diff(store.pair_start))
        if not len(trained):
            raise ValueError("the dataset has no training pairs")
        task = trained[rng.integers(len(trained), size=count)]
        pair = store.pair_start[task] + _below(rng, np.diff(store.pair_start)[task])
        transform = store.transform_start[task] + _below(rng, np.diff(store.transform_start)[task])
        dihedral, _ = decode_transforms(store.transforms[transform])
        room = MAX_SIDE - self._transposed(self.box[pair], dihedral) + 1
        shifted = rng.random(count) < shift_probability
        shift = np.stack((_below(rng, room[:, 0]), _below(rng, room[:, 1])), axis=1) * shifted[:, None]
        return Samples(pair, transform, shift)

    def plain(self) -> Samples:
        """Return every example once, seen through the identity and not shifted."""
        identity = self.store.transform_start[self.task].astype(np.int64)
        return Samples(np.arange(len(self.task)), identity, np.zeros((len(self.task), 2), np.int64))

    def order(self, samples: Samples) -> Integers:
        """Return the order that puts sequences of one canvas shape side by side, shorter ones first. (B,)"""
        shapes = self._shapes(samples)
        return np.lexsort((shapes[:, 1], shapes[:, 0], shapes.prod(axis=1)))

    def make(self, samples: Samples) -> Pack:
        """Make the pack of `samples`, which must be in `order`."""
        shapes = self._shapes(samples)
        codes = self.store.transforms[samples.transform]
        dihedral, colors = (part.astype(np.int64) for part in decode_transforms(codes))
        on_canvas = samples.shift if self.canvas == "full" else np.zeros_like(samples.shift)
        areas = shapes.prod(axis=1)
        sequence = np.repeat(np.arange(len(samples)), areas)
        cell = np.arange(len(sequence)) - (np.cumsum(areas) - areas)[sequence]
        row, column = np.divmod(cell, shapes[sequence, 1])
        place = _Place(sequence, row - on_canvas[sequence, 0], column - on_canvas[sequence, 1])
        inputs = self._paint(self.input[samples.example], dihedral, colors, place)
        labels = None
        if self.output is not None:
            labels = self._paint(self.output[samples.example], dihedral, colors, place)
            labels[labels == PAD] = IGNORED
        offsets = np.zeros_like(samples.shift) if self.canvas == "full" else samples.shift
        return Pack(inputs, labels, shapes, offsets, self.task[samples.example], samples.transform, dihedral, colors)

    def _shapes(self, samples: Samples) -> Integers:
        dihedral, _ = decode_transforms(self.store.transforms[samples.transform])
        return self._transposed(self.shape[samples.example], dihedral)

    @staticmethod
    def _transposed(shapes: Integers, dihedral: npt.NDArray[np.uint8]) -> Integers:
        return np.where(_TRANSPOSES[dihedral][:, None], shapes[:, ::-1], shapes)

    def _paint(self, grid: Integers, dihedral: Integers, colors: Integers, place: "_Place") -> Integers:
        """Return the token of every cell of the pack: `grid` (B,) of the store, seen through the transforms."""
        store = self.store
        height, width = store.grid_height[grid].astype(np.int64), store.grid_width[grid].astype(np.int64)
        first, per_row, per_column = _walk(height, width, dihedral)
        transposed = _TRANSPOSES[dihedral]
        seen_height, seen_width = np.where(transposed, width, height), np.where(transposed, height, width)
        sequence, row, column = place.sequence, place.row, place.column
        row_end, column_end = seen_height[sequence], seen_width[sequence]
        on_row, on_column = (row >= 0) & (row < row_end), (column >= 0) & (column < column_end)
        inside = on_row & on_column
        source = (store.grid_start[grid] + first)[sequence] + per_row[sequence] * row + per_column[sequence] * column
        color = colors[sequence[inside], store.cells[source[inside]]]
        border = (on_row & (column == column_end)) | (on_column & (row == row_end))
        tokens = np.where(border, EOS, PAD)
        tokens[inside] = color + FIRST_COLOR
        return tokens


@dataclass(frozen=True)
class _Place:
    """Where each cell of a pack lies: its sequence, and its row and column relative to the grid's first cell."""

    sequence: Integers
    row: Integers
    column: Integers


def _walk(height: Integers, width: Integers, dihedral: Integers) -> tuple[Integers, Integers, Integers]:
    """Return how a view walks through its row-major grid: first cell, step per row and per column of the view. (B,) each."""
    last_row, last_column, zero, one = (height - 1) * width, width - 1, np.zeros_like(width), np.ones_like(width)
    first = np.choose(dihedral, (zero, last_column, last_row + last_column, last_row,
                                 last_column, last_row, zero, last_row + last_column))  # fmt: skip
    per_row = np.choose(dihedral, (width, -one, -width, one, width, -width, one, -one))
    per_column = np.choose(dihedral, (one, width, -one, -width, -one, one, width, -width))
    return first, per_row, per_column


def _below(rng: np.random.Generator, bound: Integers) -> Integers:
    """Draw an integer in 0..bound-1 for each bound, from one uniform each."""
    return np.minimum((rng.random(len(bound)) * bound).astype(np.int64), bound - 1)


def step_generator(seed: int, step: int, pack: int, purpose: int = 0) -> np.random.Generator:
    """Return the generator of one pack of one step: a function of its arguments alone, whatever was drawn before."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, purpose, pack, step]))


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
