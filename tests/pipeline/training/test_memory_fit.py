"""How many pieces fit: the least power of two that a trial finds room for, whatever the device."""

from collections.abc import Callable

import pytest
import torch

from pipeline.device import OutOfMemory
from pipeline.training import memory_fit
from pipeline.training.memory_fit import CudaMemory, least_pieces

CPU = torch.device("cpu")
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes long among the objects of a test session."""
    monkeypatch.setattr(memory_fit.gc, "collect", lambda: 0)


class Device:
    """Memory of 100 bytes, and a trial that needs `needed(pieces)` of it."""

    total_bytes = 100

    def __init__(self, needed: Callable[[int], float], error: Exception = ERRORS["cuda"]) -> None:
        self.needed, self.error = needed, error
        self.tried: list[int] = []
        self.peak = 1000

    def reset(self) -> None:
        self.peak = 0

    def peak_bytes(self) -> int:
        return self.peak

    def trial(self, pieces: int) -> None:
        self.tried.append(pieces)
        self.peak = max(self.peak, min(100, int(self.needed(pieces))))
        if self.needed(pieces) > 100:
            raise self.error


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(
    ("activations", "tried"),
    [(70, [1]), (71, [1, 2]), (140, [1, 2]), (142, [1, 2, 4]), (800, [1, 2, 4, 8, 16]), (1120, [1, 2, 4, 8, 16])],
)
def test_the_least_power_of_two_under_ninety_percent_is_taken(activations: int, tried: list[int], error: Exception) -> None:
    device = Device(lambda pieces: 20 + activations / pieces, error)
    assert least_pieces(device.trial, device, CPU, most=1000) == tried[-1]
    assert device.tried == tried


def test_a_trial_that_fits_tightly_is_taken_when_the_pieces_cannot_be_smaller() -> None:
    device = Device(lambda pieces: 80 + 60 / pieces)
    assert least_pieces(device.trial, device, CPU, most=5) == 5
    assert device.tried == [1, 2, 4, 5]


def test_a_single_sequence_that_does_not_fit_is_an_error_that_says_what_to_change() -> None:
    device = Device(lambda pieces: 110)
    with pytest.raises(OutOfMemory, match=r"^out of memory with a single sequence in each piece: .*train\.pack_tokens"):
        least_pieces(device.trial, device, CPU, most=3)
    assert device.tried == [1, 2, 3]


def test_another_error_of_a_trial_is_not_taken_for_want_of_memory() -> None:
    device = Device(lambda pieces: 110, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        least_pieces(device.trial, device, CPU, most=8)
    assert device.tried == [1]


def test_the_peak_of_a_cuda_device_counts_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    resets = []
    figures = {"mem_get_info": (30, 100), "memory_reserved": 60, "max_memory_allocated": 45}
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    memory = CudaMemory(torch.device("cuda:1"))
    memory.reset()
    assert resets == [torch.device("cuda:1")]
    assert memory.total_bytes == 100
    assert memory.peak_bytes() == 45 + (100 - 30 - 60)


def test_memory_is_given_back_before_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []
    monkeypatch.setattr(memory_fit, "free_memory", lambda device: happened.append("freed"))
    device = Device(lambda pieces: 30 + 200 / pieces)
    least_pieces(lambda pieces: (happened.append(pieces), device.trial(pieces))[1], device, CPU, most=8)
    assert happened == ["freed", 1, "freed", 2, "freed", 4]
