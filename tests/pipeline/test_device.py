"""The engine: a config fits its dataset, or says why it cannot; who predicts, and what want of memory looks like."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.device import fit_config, prediction_devices, ran_out_of_memory
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


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "workers", "expected"),
    [
        ("cuda", 4, 4, None, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 1, 1, None, []),
        ("cuda", 1, 1, 1, ["cuda:0"]),
        ("cuda", 2, 1, 3, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cpu", 0, 1, None, []),
        ("cpu", 0, 2, None, ["cpu", "cpu"]),
        ("cpu", 0, 2, 0, []),
        ("cpu", 0, 1, 2, ["cpu", "cpu"]),
    ],
)
def test_predictions_have_a_worker_on_each_device_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, processes: int, workers: int | None, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes)
    assert prediction_devices(accelerator, workers) == expected  # type: ignore[arg-type]


def test_a_negative_number_of_workers_is_refused() -> None:
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    with pytest.raises(ValueError, match="workers must not be negative, got -1"):
        prediction_devices(accelerator, -1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("no memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError(" out of memory."), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected


@pytest.mark.parametrize(
    "words",
    [
        "could not create a primitive",
        "could not create a memory object",
        "unable to mmap 1964680 bytes from file <t.safetensors>: Cannot allocate memory (12)",
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.",
    ],
)
def test_want_of_memory_on_a_cpu_is_known_by_its_words(words: str) -> None:
    assert ran_out_of_memory(RuntimeError(words))
    assert not ran_out_of_memory(RuntimeError("could not create a network"))
