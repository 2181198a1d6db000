"""The engine: a config fits its dataset, or says why it cannot; what a lost process looks like."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import device
from pipeline.data.dataset import Dataset
from pipeline.device import fit_config, from_main, gather
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset

DATASETS = {
    "tasks": (tiny_dataset(), 12, 30),
    "sudokus": (tiny_puzzle_dataset(), 11, 4),
    "mazes": (tiny_puzzle_dataset("maze"), 6, 5),
}


@pytest.mark.parametrize(("dataset", "vocabulary", "side"), DATASETS.values(), ids=DATASETS)
def test_a_config_takes_vocabulary_and_canvas_of_its_dataset_and_no_others(
    dataset: Dataset, vocabulary: int, side: int
) -> None:
    for settings in ((), (f"model.vocabulary={vocabulary}", f"model.canvas_side={side}")):
        model = fit_config(tiny_config(*settings), dataset).model
        assert (model.vocabulary, model.canvas_side) == (vocabulary, side)
    for name, wanted, has in (("vocabulary", 10, vocabulary), ("canvas_side", 9, side)):
        with pytest.raises(ValueError, match=f"^model.{name} = {wanted}, but that of the dataset is {has}$"):
            fit_config(tiny_config(f"model.{name}={wanted}"), dataset)


def test_a_process_that_has_ended_is_one_line_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer\nException raised from ...")

    accelerator: Any = SimpleNamespace(num_processes=2, init_handler=SimpleNamespace(timeout=None))
    monkeypatch.setattr(device, "_host_group", lambda timeout: None)
    monkeypatch.setattr(device.dist, "all_gather_object", lost)
    for collective in (from_main, gather):
        with pytest.raises(ConnectionError, match=r"^another process of this launch has ended, or stands still$"):
            collective(accelerator, 1)
