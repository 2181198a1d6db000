"""Packs: the tokens of many views laid end to end, without padding between them.

A pack is computed when it is drawn, all sequences at once, from the grids of the dataset and the transform and shift of each
sequence. No tokens are stored.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from augment.canvas import EOS, FIRST_COLOR, IGNORED, PAD
from augment.dihedral import STEPS
from augment.grid import COLORS, MAX_SIDE
from augment.sudoku import draw_symmetries
from augment.transform import decode_transforms
from pipeline.data.dataset import Dataset, PuzzleDataset, TaskDataset
from pipeline.data.puzzles.kinds import BLANK, turn

Integers = npt.NDArray[np.int64]
Canvas = Literal["fitted", "full"]
Examples = Literal["pairs", "tests"]
"""Training pairs, which have labels, or test inputs, which have none."""
LEAST_VIEW, VIEW_SHARE = 16, 1 / 8
"""Whole views have so many samples, or fill so much of a pack, at most: one that is cut where the pack ends loses samples."""
# By dihedral: whether a view swaps rows and columns of its grid, and walks through its rows or columns backwards.
_TRANSPOSES, _VIEW_ROWS_BACKWARDS, _VIEW_COLUMNS_BACKWARDS = np.array(STEPS).T
_ROWS_BACKWARDS = np.where(_TRANSPOSES, _VIEW_COLUMNS_BACKWARDS, _VIEW_ROWS_BACKWARDS)
_COLUMNS_BACKWARDS = np.where(_TRANSPOSES, _VIEW_ROWS_BACKWARDS, _VIEW_COLUMNS_BACKWARDS)


@dataclass(frozen=True)
class Samples:
    """Which sequences a pack holds, one entry each; enough to make them again."""

    example: Integers
    """(B,) training pair, or test input, of the dataset."""
    transform: Integers
    """(B,) position in the dataset's list of transforms; of puzzles, the number of the view, where 0 is the puzzle itself."""
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
    """(B,) task in the dataset."""
    transform: Integers
    """(B,) position in the dataset's list of transforms."""
    dihedral: Integers
    """(B,)"""
    colors: Integers
    """(B, 10)"""


class PackMaker(ABC):
    """Draws samples of a dataset and makes packs of them, for training and prediction."""

    def __init__(self, memory_tokens: int, latents: int = 1) -> None:
        """Prepare packs with `memory_tokens` in every sequence, and a sequence for each of the `latents` of a sample."""
        self.memory_tokens = memory_tokens
        self.latents = latents

    def tokens(self, samples: Samples) -> Integers:
        """Return the number of tokens of each sample, memory tokens included, in the sequences of all its latents. (B,)"""
        return self.latents * (self.cells(samples) + self.memory_tokens)

    def expand(self, samples: Samples) -> Samples:
        """Return every sample once for each of its latents, side by side. (B latents,)"""
        return samples if self.latents == 1 else samples[np.repeat(np.arange(len(samples)), self.latents)]

    @abstractmethod
    def cells(self, samples: Samples) -> Integers:
        """Return the number of cells of the canvas of each sample. (B,)"""

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw `count` training samples. Raises InputError where there is nothing to train on."""

    @abstractmethod
    def plain(self) -> Samples:
        """Return every example once, seen through the identity and not shifted."""

    @abstractmethod
    def order(self, samples: Samples) -> Integers:
        """Return the order that puts sequences of one canvas shape side by side, shorter ones first. (B,)"""

    @abstractmethod
    def make(self, samples: Samples) -> Pack:
        """Make the pack of `samples`, which must be in `order`."""

    def draw_views(self, count: int, rng: np.random.Generator, shift_probability: float, most: int) -> Samples:
        """Draw views of about `count` training samples; return up to `most` of each side by side. A puzzle's view has one."""
        return self.draw(count, rng, shift_probability)

    def fill(self, room_tokens: int, rng: np.random.Generator, shift_probability: float, views: bool = False) -> Samples:
        """Draw samples, or whole `views`, until they reach `room_tokens`.

        The last sample is kept, so that long ones are drawn as often as short ones.
        """
        draw = self.draw
        if views:
            draw = partial(self.draw_views, most=max(LEAST_VIEW, int(VIEW_SHARE * room_tokens / self.mean_tokens)))
        drawn, filled = [], 0
        smallest = self.latents * (self.memory_tokens + 1)
        while filled < room_tokens:
            block = draw(min(4096, max(16, room_tokens // (16 * smallest))), rng, shift_probability)
            drawn.append(self.cut(block, room_tokens - filled))
            filled += int(self.tokens(drawn[-1]).sum())
        return sum(drawn[1:], drawn[0]) if drawn else draw(0, rng, shift_probability)[:0]

    @cached_property
    def mean_tokens(self) -> float:
        """The mean number of tokens of an example, at least 1."""
        tokens = self.tokens(self.plain())
        return max(1.0, tokens.sum() / max(1, len(tokens)))

    def cut(self, samples: Samples, room_tokens: int) -> Samples:
        """Return the first of `samples` that reach `room_tokens`, or all."""
        count = 1 + int(np.searchsorted(self.tokens(samples).cumsum(), room_tokens)) if room_tokens > 0 else 0
        return samples[:count]


class TaskPackMaker(PackMaker):
    """Packs of ARC tasks: of training pairs, with labels, or of test inputs, without."""

    def __init__(
        self, dataset: TaskDataset, canvas: Canvas, memory_tokens: int, examples: Examples = "pairs", latents: int = 1
    ) -> None:
        super().__init__(memory_tokens, latents)
        self.dataset = dataset
        self.canvas = canvas
        pairs = examples == "pairs"
        self.task = (dataset.pair_task if pairs else dataset.test_task).astype(np.int64)
        self.input = (dataset.pair_input if pairs else dataset.test_input).astype(np.int64)
        self.output = dataset.pair_output.astype(np.int64) if pairs else None
        self.shape = self.box = (dataset.pair_canvas if pairs else dataset.test_canvas).astype(np.int64)
        self.weight_ends = np.zeros(0) if dataset.pair_weight is None else dataset.pair_weight.cumsum()
        if canvas == "full":  # the box is what has to stay on the canvas when it is shifted: both grids
            sizes = np.stack((dataset.grid_height, dataset.grid_width), axis=1).astype(np.int64)
            self.box = sizes[self.input] if self.output is None else np.maximum(sizes[self.input], sizes[self.output])
            self.shape = np.full_like(self.shape, MAX_SIDE)

    def cells(self, samples: Samples) -> Integers:
        return self.shape[samples.example].prod(axis=1)

    def draw(self, count: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw a task, one of its pairs and one of its transforms, all uniformly, but for the weights of the dataset."""
        dataset = self.dataset
        trained = self._trained()
        if dataset.pair_weight is None:
            task = trained[rng.integers(len(trained), size=count)]
            pair = dataset.pair_start[task] + _below(rng, np.diff(dataset.pair_start)[task])
        else:
            pair = np.searchsorted(self.weight_ends[:-1], rng.random(count) * self.weight_ends[-1], side="right")
            task = dataset.pair_task[pair].astype(np.int64)
        return self._shift(pair, self._draw_transforms(task, rng), rng, shift_probability)

    def draw_views(self, count: int, rng: np.random.Generator, shift_probability: float, most: int) -> Samples:
        """Draw tasks, a view of each, and return it with all pairs, or a random `most` of them, in random order; at least one.

        A task is drawn in proportion to the weight of its pairs by their number, so that it has as many samples as by `draw`.
        """
        self._trained()
        dataset, pairs = self.dataset, np.diff(self.dataset.pair_start)
        counts = np.minimum(pairs, most)
        weights = dataset.pair_weight if dataset.pair_weight is not None else 1 / pairs[dataset.pair_task]
        of_tasks = np.bincount(dataset.pair_task, weights, len(counts)) / np.maximum(counts, 1)
        views = max(1, round(count * of_tasks.sum() / (of_tasks @ counts)))
        ends = of_tasks.cumsum()
        task = np.searchsorted(ends[:-1], rng.random(views) * ends[-1], side="right")
        view, number = np.repeat(np.arange(views), pairs[task]), count_each(pairs[task])
        pair = (dataset.pair_start[task][view] + number)[np.lexsort((rng.random(len(view)), view))]
        kept = number < most
        return self._shift(pair[kept], self._draw_transforms(task, rng)[view[kept]], rng, shift_probability)

    def _trained(self) -> Integers:
        """Return the tasks that have training pairs. Raises InputError where none has."""
        self.dataset.require_pairs()
        return np.flatnonzero(np.diff(self.dataset.pair_start))

    def _draw_transforms(self, task: Integers, rng: np.random.Generator) -> Integers:
        start = self.dataset.transform_start
        return start[task] + _below(rng, np.diff(start)[task])

    def _shift(self, pair: Integers, transform: Integers, rng: np.random.Generator, probability: float) -> Samples:
        """Return the samples of pairs seen through transforms, each shifted at random with `probability`."""
        dihedral, _ = decode_transforms(self.dataset.transforms[transform])
        room = MAX_SIDE - _transposed(self.box[pair], dihedral) + 1
        shifted = rng.random(len(pair)) < probability
        return Samples(pair, transform, np.stack((_below(rng, room[:, 0]), _below(rng, room[:, 1])), axis=1) * shifted[:, None])

    def plain(self) -> Samples:
        identity = self.dataset.transform_start[self.task].astype(np.int64)
        return Samples(np.arange(len(self.task)), identity, np.zeros((len(self.task), 2), np.int64))

    def views(self, first: int, last: int) -> Samples:
        """Return the views first..last-1 of every example that has so many, none of them shifted, in `order`."""
        start, stop = (bounds[self.task] for bounds in (self.dataset.transform_start[:-1], self.dataset.transform_start[1:]))
        counts = np.clip(stop - start - first, 0, last - first)
        example = np.repeat(np.arange(len(self.task)), counts)
        samples = Samples(example, start[example] + first + count_each(counts), np.zeros((len(example), 2), np.int64))
        return samples[self.order(samples)]

    def order(self, samples: Samples) -> Integers:
        dihedral, _ = decode_transforms(self.dataset.transforms[samples.transform])
        shapes = _transposed(self.shape[samples.example], dihedral)
        return np.lexsort((shapes[:, 1], shapes[:, 0], shapes.prod(axis=1)))

    def make(self, samples: Samples) -> Pack:
        example, still = samples.example, np.zeros_like(samples.shift)
        codes = self.dataset.transforms[samples.transform]
        dihedral, colors = (part.astype(np.int64) for part in decode_transforms(codes))
        shapes = _transposed(self.shape[example], dihedral)
        on_canvas, offsets = (samples.shift, still) if self.canvas == "full" else (still, samples.shift)
        areas = shapes.prod(axis=1)
        sequence = np.repeat(np.arange(len(samples)), areas)
        row, column = np.divmod(count_each(areas), shapes[sequence, 1])
        place = (sequence, row - on_canvas[sequence, 0], column - on_canvas[sequence, 1])
        inputs, labels = self._paint(self.input[example], dihedral, colors, place), None
        if self.output is not None:
            labels = self._paint(self.output[example], dihedral, colors, place)
            labels[labels == PAD] = IGNORED
        return Pack(inputs, labels, shapes, offsets, self.task[example], samples.transform, dihedral, colors)

    def _paint(
        self, grid: Integers, dihedral: Integers, colors: Integers, place: tuple[Integers, Integers, Integers]
    ) -> Integers:
        """Return the token of every cell of the pack, where `grid` (B,) of the dataset is seen through the transforms.

        `place` is the sequence of each cell, and its row and column relative to the first cell of the grid.
        """
        dataset = self.dataset
        height, width = dataset.grid_height[grid].astype(np.int64), dataset.grid_width[grid].astype(np.int64)
        transposed, up, left = _TRANSPOSES[dihedral], _ROWS_BACKWARDS[dihedral], _COLUMNS_BACKWARDS[dihedral]
        first = dataset.grid_start[grid] + up * (height - 1) * width + left * (width - 1)
        down, right = np.where(up, -width, width), np.where(left, -1, 1)
        per_row, per_column = np.where(transposed, (right, down), (down, right))
        seen_height, seen_width = np.where(transposed, (width, height), (height, width))
        sequence, row, column = place
        row_end, column_end = seen_height[sequence], seen_width[sequence]
        on_row, on_column = (row >= 0) & (row < row_end), (column >= 0) & (column < column_end)
        inside = on_row & on_column
        source = first[sequence] + per_row[sequence] * row + per_column[sequence] * column
        color = colors[sequence[inside], dataset.cells[source[inside]]]
        border = (on_row & (column == column_end)) | (on_column & (row == row_end))
        tokens = np.where(border, EOS, PAD)
        tokens[inside] = color + FIRST_COLOR
        return tokens


def _transposed(shapes: Integers, dihedral: npt.NDArray[np.integer]) -> Integers:
    """Return `shapes` (B, 2) as each is seen through its dihedral."""
    return np.where(_TRANSPOSES[dihedral][:, None], shapes[:, ::-1], shapes)


def count_each(counts: Integers) -> Integers:
    """Return 0, 1, 2... up to each of `counts` (K,), end to end."""
    return np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)


def _below(rng: np.random.Generator, bound: Integers) -> Integers:
    """Draw an integer in 0..bound-1 for each bound, from one uniform each."""
    return np.minimum((rng.random(len(bound)) * bound).astype(np.int64), bound - 1)


def step_generator(seed: int, step: int, pack: int, purpose: int = 0) -> np.random.Generator:
    """Return the generator of one pack of one step. It depends on the arguments only, not on what was drawn before."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, purpose, pack, step]))


class PuzzlePackMaker(PackMaker):
    """Packs of puzzles: of training puzzles, with labels in every cell, or of test questions, without.

    View 0 is the puzzle itself. The others are dihedrals of a maze, and symmetries of a sudoku that follow from the seed of the
    dataset, the puzzle and the number of the view. To the networks there is one task and one transform.
    """

    def __init__(self, dataset: PuzzleDataset, memory_tokens: int, examples: Examples = "pairs", latents: int = 1) -> None:
        super().__init__(memory_tokens, latents)
        self.dataset = dataset
        self.questions = dataset.questions if examples == "pairs" else dataset.test_questions
        self.answers = dataset.answers if examples == "pairs" else None
        self.side: int = self.questions.shape[1]

    def cells(self, samples: Samples) -> Integers:
        return np.full(len(samples), self.side * self.side)

    def draw(self, count: int, rng: np.random.Generator, shift_probability: float) -> Samples:
        """Draw a puzzle and one of its views, both uniformly. Nothing is shifted."""
        example = rng.integers(len(self.questions), size=count)
        view = rng.integers(self.dataset.augmentations + 1, size=count)
        return Samples(example, view, np.zeros((count, 2), np.int64))

    def plain(self) -> Samples:
        count = len(self.questions)
        return Samples(np.arange(count), np.zeros(count, np.int64), np.zeros((count, 2), np.int64))

    def order(self, samples: Samples) -> Integers:
        return np.arange(len(samples))

    def make(self, samples: Samples) -> Pack:
        seen = [tokens[samples.example] for tokens in (self.questions, self.answers) if tokens is not None]
        if self.dataset.kind == "maze":
            seen = [turn(tokens, samples.transform) for tokens in seen]
        else:
            symmetries = draw_symmetries(self.dataset.seed, samples.example, samples.transform, self.side)
            seen = [symmetries.apply(tokens - BLANK) + BLANK for tokens in seen]
        inputs, *labels = (tokens.astype(np.int64).ravel() for tokens in seen)
        count, none = len(samples), np.zeros(len(samples), np.int64)
        shapes, offsets = np.full((count, 2), self.side), np.zeros((count, 2), np.int64)
        colors = np.tile(np.arange(COLORS), (count, 1))
        return Pack(inputs, labels[0] if labels else None, shapes, offsets, none, none, none, colors)


def make_pack_maker(
    dataset: Dataset, canvas: Canvas, memory_tokens: int, examples: Examples = "pairs", latents: int = 1
) -> PackMaker:
    """Return the maker of packs for a dataset of either kind; puzzles fill their canvas, whatever `canvas` is."""
    if isinstance(dataset, PuzzleDataset):
        return PuzzlePackMaker(dataset, memory_tokens, examples, latents)
    assert isinstance(dataset, TaskDataset)
    return TaskPackMaker(dataset, canvas, memory_tokens, examples, latents)
