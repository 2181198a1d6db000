"""A dataset of puzzles trains on distinct puzzles that are no tests, and loads as it was saved or not at all."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment.canvas import Tokens
from augment.dihedral import apply_dihedral
from augment.sudoku import draw_symmetries
from pipeline.data.dataset import MANIFEST_FILE, PuzzleDataset
from pipeline.data.puzzles.build import build_puzzles
from pipeline.data.puzzles.kinds import BLANK, KindName
from pipeline.data.puzzles.sources import Puzzles
from tests.pipeline.tiny import refusal
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset, tiny_puzzles


def joined(*sources: Puzzles) -> Puzzles:
    """All puzzles of some sources as one."""
    answers = [source.answers for source in sources if source.answers is not None]
    questions = np.concatenate([source.questions for source in sources])
    return replace(sources[0], questions=questions, answers=np.concatenate(answers))


def seen(puzzles: Puzzles, see: Callable[[Tokens], Tokens]) -> Puzzles:
    """The puzzles, each seen through a symmetry."""
    return replace(puzzles, questions=see(puzzles.questions), answers=see(puzzles.answers))


def pairs_of(dataset: PuzzleDataset) -> set[bytes]:
    return {question.tobytes() + answer.tobytes() for question, answer in zip(dataset.questions, dataset.answers, strict=True)}


@pytest.mark.parametrize("kind", ["sudoku", "maze"])
def test_training_puzzles_have_answers_and_tests_have_none(kind: KindName) -> None:
    trained, asked = tiny_puzzles(kind, 7), tiny_puzzles(kind, 5, seed=1)
    dataset = build_puzzles([asked], [trained], 3, 0)
    assert pairs_of(dataset) == {q.tobytes() + a.tobytes() for q, a in zip(trained.questions, trained.answers, strict=True)}
    assert np.array_equal(dataset.test_questions, asked.questions)
    assert set(dataset.arrays()) == {"questions", "answers", "test_questions"}


def test_puzzles_are_one_task_with_one_transform() -> None:
    dataset = tiny_puzzle_dataset()
    assert (dataset.task_ids, dataset.transforms.tolist(), dataset.transform_start.tolist()) == (("puzzle",), [0], [0, 1])
    assert (dataset.transforms.dtype, dataset.transform_start.dtype) == (np.uint32, np.int64)


def test_the_order_of_training_puzzles_does_not_matter_and_repeated_ones_are_kept_once() -> None:
    first, second, tests = tiny_puzzles(seed=1), tiny_puzzles(seed=2), tiny_puzzles(seed=3)
    dataset = build_puzzles([tests], [first, second], 3, 0)
    again = build_puzzles([tests], [second, joined(first, second)], 3, 0)
    assert dataset.data_hash == again.data_hash
    assert (len(dataset.questions), again.manifest["totals"]["repeated"]) == (12, 6)


def test_tests_keep_their_order_may_repeat_and_are_not_needed() -> None:
    tests = tiny_puzzles(seed=3)
    dataset = build_puzzles([tests, tests], [tiny_puzzles()], 3, 0)
    assert np.array_equal(dataset.test_questions, np.concatenate((tests.questions, tests.questions)))
    assert build_puzzles([], [tiny_puzzles(side=9)], 3, 0).test_questions.shape == (0, 9, 9)


@pytest.mark.parametrize(("kind", "wanted", "expected"), [("sudoku", 1000, 1000), ("maze", 1000, 7), ("maze", 2, 2)])
def test_a_maze_has_seven_other_views_and_a_sudoku_as_many_as_one_wants(kind: KindName, wanted: int, expected: int) -> None:
    assert build_puzzles([], [tiny_puzzles(kind)], wanted, 0).augmentations == expected


def test_leaks_are_refused_dropped_or_allowed(caplog: pytest.LogCaptureFixture) -> None:
    tests, own = tiny_puzzles(seed=1, name="asked"), tiny_puzzles(seed=2)
    leaking = joined(own, tests)
    message = "6 training puzzles are test puzzles: 6 of made"
    with pytest.raises(ValueError, match=message) as caught:
        build_puzzles([tests], [leaking], 3, 0)
    assert str(caught.value).endswith("(--leakage drop leaves them out, --leakage allow trains on them)")
    clean = build_puzzles([tests], [own], 3, 0)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        dropped = build_puzzles([tests], [leaking], 3, 0, "drop")
        allowed = build_puzzles([tests], [leaking], 3, 0, "allow")
    assert [record.message for record in caplog.records] == [f"left out: {message}", f"trained on all the same: {message}"]
    assert dropped.data_hash == clean.data_hash
    assert len(allowed.questions) == 12
    assert dropped.manifest["audit"] == {"leakage": "drop", "leaks": 6}


@pytest.mark.parametrize("dihedral", range(8))
def test_a_maze_that_is_any_view_of_a_test_leaks(dihedral: int) -> None:
    tests = tiny_puzzles("maze", seed=1)
    with pytest.raises(ValueError, match="6 training puzzles are test puzzles"):
        build_puzzles([tests], [seen(tests, lambda mazes: np.stack([apply_dihedral(maze, dihedral) for maze in mazes]))], 3, 0)


@pytest.mark.parametrize("side", [4, 9])
def test_a_sudoku_that_is_a_symmetric_view_of_a_test_leaks(side: int) -> None:
    tests, own = tiny_puzzles(seed=1, side=side, name="asked"), tiny_puzzles(seed=2, side=side)
    symmetries = draw_symmetries(5, np.arange(6), np.ones(6, np.int64), side)  # none of them the identity
    views = seen(tests, lambda boards: symmetries.apply(boards - BLANK) + BLANK)
    assert not {each.tobytes() for each in views.questions} & {each.tobytes() for each in tests.questions}
    with pytest.raises(ValueError, match="6 training puzzles are test puzzles: 6 of made"):
        build_puzzles([tests], [replace(views, name="made")], 3, 0)
    dropped = build_puzzles([tests], [joined(own, views)], 3, 0, "drop")
    assert dropped.data_hash == build_puzzles([tests], [own], 3, 0).data_hash
    assert dropped.manifest["audit"] == {"leakage": "drop", "leaks": 6}


def test_a_training_sudoku_that_is_a_test_is_counted_alone() -> None:
    tests = tiny_puzzles(seed=1)
    one = replace(tests, questions=tests.questions[:1], answers=None)
    with pytest.raises(ValueError, match="1 training puzzle is a test puzzle: 1 of made"):
        build_puzzles([one], [tests], 3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([tiny_puzzles()], [], 3, 0), "there is nothing to train on: puzzles have no demonstrations, so a --train-source is"),
        (([tiny_puzzles()], [tiny_puzzles()], 3, 0, "drop"), "there is nothing to train on: all training puzzles are test"),
        (([], [replace(tiny_puzzles(), answers=None)], 3, 0), "made: has no answers, so it cannot be trained on"),
        (([], [tiny_puzzles()], -1, 0), "must not be negative and the seed 0..2^64-1, got -1 and 0"),
        (([], [tiny_puzzles()], 0, -1), "the seed 0..2^64-1, got 0 and -1"),
        (([], [tiny_puzzles()], 0, 1 << 64), "got 0 and 18446744073709551616"),
        (([tiny_puzzles(side=9, name="large")], [tiny_puzzles()], 3, 0), "large has sudoku of 9 x 9, made has sudoku of 4 x 4"),
        (([tiny_puzzles("maze", side=4)], [tiny_puzzles()], 3, 0), "made has maze of 4 x 4, made has sudoku of 4 x 4"),
    ],
)
def test_what_cannot_be_built_is_told(arguments: tuple[Any, ...], message: str) -> None:
    assert message in refusal(lambda: build_puzzles(*arguments))


def test_the_hash_tells_all_that_packs_depend_on_but_not_manifests() -> None:
    dataset = tiny_puzzle_dataset()
    assert replace(dataset, manifest={}).data_hash == dataset.data_hash
    arrays = {name: array[:-1] for name, array in dataset.arrays().items()}
    for name, value in {"kind": "maze", "augmentations": 6, "seed": 4, **arrays}.items():
        assert replace(dataset, **{name: value}).data_hash != dataset.data_hash, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "arc-trm-dataset 1"}, "expected format 'arc-trm-puzzles 1', got 'arc-trm-dataset 1'"),
        ({"kind": "chess"}, "kind must be one of sudoku, maze, got 'chess'"),
        ({"data_hash": None}, "data_hash must be of type str, got None"),
        ({"augmentations": True}, "augmentations must be of type int, got True"),
        ({"seed": "a\nb"}, "seed must be of type int, got 'a\\nb'"),
        ({"seed": 1 << 64}, "seed must be of type int"),
    ],
)
def test_foreign_manifests_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    tiny_puzzle_dataset().save(tmp_path)
    path = tmp_path / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    told = refusal(lambda: PuzzleDataset.load(tmp_path))
    assert "manifest.json: " in told
    assert message in told
