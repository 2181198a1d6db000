"""The engine: a config fits its dataset, or says why it cannot; what a lost process looks like."""

from types import SimpleNamespace
from typing import Any

import pytest

from augment.errors import InputError
from pipeline import device
from pipeline.data.dataset import Dataset
from pipeline.device import fit_config, from_main, gather, precision_here
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


@pytest.mark.parametrize("speedup", [0.3, 0.9, 3.5])
@pytest.mark.parametrize("cuda", ["none", "old", "new"])
def test_weights_predict_in_what_they_were_trained_in_where_the_device_is_made_for_it(
    monkeypatch: pytest.MonkeyPatch, cuda: str, speedup: float
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: cuda != "none")
    monkeypatch.setattr(device.torch.cuda, "is_bf16_supported", lambda including_emulation: cuda == "new")
    monkeypatch.setattr(device, "bfloat16_speedup", lambda: speedup)
    assert (precision_here("float32"), precision_here("auto")) == ("float32", "auto")
    assert precision_here("float16") == ("auto" if cuda == "none" else "float16")
    fits = cuda == "new" or (cuda == "none" and speedup > 0.85)  # unless it is clearly slower
    assert precision_here("bfloat16") == ("bfloat16" if fits else "auto")


def test_variables_of_a_launcher_that_say_nothing_are_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("invalid literal for int() with base 10: 'abc'")

    with monkeypatch.context() as patched:
        patched.setattr(device, "Accelerator", refuse)  # as with WORLD_SIZE=abc
        with pytest.raises(InputError, match="environment variables: invalid literal"):
            device.make_accelerator("float32")
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "foo")
    with pytest.raises(InputError, match="invalid truth value foo"):
        device.make_accelerator("float32")


def test_a_process_that_has_ended_is_one_line_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer\nException raised from ...")

    accelerator: Any = SimpleNamespace(num_processes=2, init_handler=SimpleNamespace(timeout=None))
    monkeypatch.setattr(device, "_host_group", lambda timeout, shared: None)
    monkeypatch.setattr(device.dist, "all_gather_object", lost)
    for collective in (from_main, gather):
        with pytest.raises(ConnectionError, match=r"^another process of this launch has ended, or stands still$"):
            collective(accelerator, 1)
