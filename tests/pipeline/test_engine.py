"""The engine: a config fits its dataset, or says why it cannot."""

import pytest

from pipeline.data.dataset import Dataset
from pipeline.engine import fit_config
from tests.pipeline.tiny import tiny_config, tiny_store
from tests.pipeline.tinypuzzles import tiny_puzzle_store

DATASETS = {
    "tasks": (tiny_store(), 12, 30),
    "sudokus": (tiny_puzzle_store(), 11, 4),
    "mazes": (tiny_puzzle_store("maze"), 6, 5),
}
EACH = pytest.mark.parametrize(("dataset", "vocabulary", "side"), DATASETS.values(), ids=DATASETS)


@EACH
@pytest.mark.parametrize("said", [False, True])
def test_a_config_takes_vocabulary_and_canvas_of_its_dataset(dataset: Dataset, vocabulary: int, side: int, said: bool) -> None:
    settings = (f"model.vocabulary={vocabulary}", f"model.canvas_side={side}") if said else ()
    model = fit_config(tiny_config(*settings), dataset).model
    assert (model.vocabulary, model.canvas_side) == (vocabulary, side)


@EACH
@pytest.mark.parametrize(("name", "wanted"), [("vocabulary", 10), ("canvas_side", 9)])
def test_another_vocabulary_or_canvas_than_that_of_the_dataset_is_refused(
    dataset: Dataset, vocabulary: int, side: int, name: str, wanted: int
) -> None:
    has = {"vocabulary": vocabulary, "canvas_side": side}[name]
    with pytest.raises(ValueError, match=f"^model.{name} = {wanted}, but that of the dataset is {has}$"):
        fit_config(tiny_config(f"model.{name}={wanted}"), dataset)
