"""Packs of puzzles against a plain oracle: each view made by itself, the views laid end to end."""

import numpy as np
import pytest
import torch

from augment.canvas import Tokens
from augment.dihedral import apply_dihedral
from augment.sudoku import draw_symmetries
from pipeline.data.dataset import PuzzleDataset
from pipeline.data.packs import PackMaker, PuzzlePackMaker, Samples, make_pack_maker, step_generator
from pipeline.data.puzzles.kinds import KindName
from pipeline.models.layout import make_layout
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset

MEMORY_TOKENS = 3
KINDS: list[tuple[KindName, int]] = [("sudoku", 4), ("sudoku", 9), ("maze", 7)]


def see(dataset: PuzzleDataset, tokens: Tokens, puzzle: int, view: int) -> list[int]:
    """The cells of one view of one puzzle."""
    if dataset.kind == "maze":
        return apply_dihedral(tokens, view).ravel().tolist()
    symmetry = draw_symmetries(dataset.seed, np.array([puzzle]), np.array([view]), len(tokens))
    return (symmetry.apply(tokens[None] - np.uint8(1)) + 1).ravel().tolist()


def drawn(dataset: PuzzleDataset) -> tuple[PackMaker, Samples]:
    maker = make_pack_maker(dataset, "fitted", MEMORY_TOKENS)
    return maker, maker.draw(60, np.random.default_rng(0), 0.5)


@pytest.mark.parametrize(("kind", "side"), KINDS)
def test_cells_are_the_views_of_the_puzzles_and_all_is_one_task_unturned_and_unshifted(kind: KindName, side: int) -> None:
    dataset = tiny_puzzle_dataset(kind, side=side)
    maker, samples = drawn(dataset)
    pack = maker.make(samples)
    chosen = list(zip(samples.example.tolist(), samples.transform.tolist(), strict=True))
    assert pack.inputs.tolist() == [cell for i, view in chosen for cell in see(dataset, dataset.questions[i], i, view)]
    assert pack.labels.tolist() == [cell for i, view in chosen for cell in see(dataset, dataset.answers[i], i, view)]
    assert pack.inputs.dtype == pack.labels.dtype == np.int64
    assert pack.shapes.tolist() == [[side, side]] * 60
    assert not samples.shift.any()
    for name, width in (("offsets", (2,)), ("task", ()), ("transform", ()), ("dihedral", ())):
        assert getattr(pack, name).shape == (60, *width), name
        assert not getattr(pack, name).any(), name
    assert pack.colors.tolist() == [list(range(10))] * 60
    layout = make_layout(torch.from_numpy(pack.shapes), torch.from_numpy(pack.offsets), MEMORY_TOKENS)
    assert layout.tokens == maker.tokens(samples).sum() == 60 * (side * side + MEMORY_TOKENS)


@pytest.mark.parametrize(("kind", "side"), KINDS)
def test_tests_are_packed_without_labels_and_as_they_are(kind: KindName, side: int) -> None:
    dataset = tiny_puzzle_dataset(kind, side=side)
    maker = make_pack_maker(dataset, "full", MEMORY_TOKENS, "tests")
    pack = maker.make(maker.plain())
    assert pack.labels is None
    assert pack.inputs.tolist() == dataset.test_questions.ravel().tolist()


def test_puzzles_and_views_are_drawn_uniformly() -> None:
    maker = PuzzlePackMaker(tiny_puzzle_dataset(augmentations=4), MEMORY_TOKENS)
    samples = maker.draw(30_000, np.random.default_rng(1), 0.0)
    counts = np.bincount(samples.example * 5 + samples.transform, minlength=30)
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()


def test_fill_reaches_the_room_and_no_further_than_one_puzzle() -> None:
    maker = PuzzlePackMaker(tiny_puzzle_dataset(), MEMORY_TOKENS)
    for room in (1, 19, 20, 1000):
        samples = maker.fill(room, step_generator(0, room, 0), 0.0)
        assert len(samples) == -(-room // 19)
    assert len(maker.fill(0, step_generator(0, 0, 0), 0.0)) == 0
    assert maker.make(maker.fill(0, step_generator(0, 0, 0), 0.0)).inputs.shape == (0,)


def test_the_seed_of_the_dataset_draws_the_views() -> None:
    first, second = (tiny_puzzle_dataset(augmentations=9), tiny_puzzle_dataset(augmentations=9))
    maker, samples = drawn(first)
    again = PuzzlePackMaker(second, MEMORY_TOKENS).make(samples)
    assert again.inputs.tolist() == maker.make(samples).inputs.tolist()
    object.__setattr__(second, "seed", 4)
    assert PuzzlePackMaker(second, MEMORY_TOKENS).make(samples).inputs.tolist() != again.inputs.tolist()
