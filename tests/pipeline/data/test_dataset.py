"""A folder loads as the dataset that it holds, and each kind of dataset has its packs."""

from pathlib import Path

import pytest

from pipeline.data.dataset import PuzzleDataset, TaskDataset, load_dataset
from pipeline.data.packs import Examples, PackMaker, PuzzlePackMaker, make_packs
from tests.pipeline.tiny import tiny_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset


def test_a_folder_loads_as_what_was_saved(tmp_path: Path) -> None:
    tasks, puzzles = tiny_dataset(), tiny_puzzle_dataset("maze")
    tasks.save(tmp_path / "tasks")
    puzzles.save(tmp_path / "puzzles")
    loaded = load_dataset(tmp_path / "tasks"), load_dataset(tmp_path / "puzzles")
    assert isinstance(loaded[0], TaskDataset)
    assert isinstance(loaded[1], PuzzleDataset)
    assert [each.data_hash for each in loaded] == [tasks.data_hash, puzzles.data_hash]


def test_a_folder_of_puzzles_is_no_dataset_of_tasks(tmp_path: Path) -> None:
    tiny_puzzle_dataset().save(tmp_path)
    with pytest.raises(ValueError, match="expected format 'arc-trm-dataset 1', got 'arc-trm-puzzles 1'"):
        TaskDataset.load(tmp_path)


def test_an_empty_folder_has_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; a dataset has"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("examples", ["pairs", "tests"])
def test_packs_fit_their_dataset(examples: Examples) -> None:
    tasks, puzzles = make_packs(tiny_dataset(), "fitted", 1, examples), make_packs(tiny_puzzle_dataset(), "fitted", 1, examples)
    assert isinstance(tasks, PackMaker)
    assert isinstance(puzzles, PuzzlePackMaker)
    for maker in (tasks, puzzles):
        samples = maker.plain()
        pack = maker.make(samples[maker.order(samples)])
        assert len(pack.inputs) == maker.tokens(samples).sum() - len(samples)
        assert (pack.labels is None) == (examples == "tests")
