"""The trial of a kernel, once, with a reason in the log; running out of memory, which says nothing about it."""

import logging
import math
from collections.abc import Callable, Iterator

import pytest
import torch

from pipeline import device_limits
from pipeline.device_limits import kernel_works, ran_out_of_memory


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    device_limits._known.clear()
    yield
    device_limits._known.clear()


def gradient_error(scale: float) -> float:
    """A trial that needs autograd, as those of the kernels do."""
    leaf = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad((scale * leaf).sum(), leaf)
    return float((gradient - 1).abs().max())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_trial_takes_gradients_wherever_it_is_asked_for(mode: Callable[[], torch.inference_mode]) -> None:
    with mode():
        assert kernel_works("a right kernel", gradient_error, 1.0)
        assert not kernel_works("a wrong kernel", gradient_error, 1.1)


@pytest.mark.parametrize("trial", [math.nan, 0.5, RuntimeError("no kernel image\nat line 3"), ImportError("no kernel image")])
def test_a_kernel_that_fails_is_replaced_with_one_line(caplog: pytest.LogCaptureFixture, trial: float | Exception) -> None:
    def error_of() -> float:
        if isinstance(trial, Exception):
            raise trial
        return trial

    with caplog.at_level(logging.WARNING):
        assert not kernel_works("the kernel", error_of)
        assert not kernel_works("the kernel", error_of)
    reason = "no kernel image" if isinstance(trial, Exception) else f"its error is {trial:.1e}"
    assert [record.message for record in caplog.records] == [
        f"the kernel does not work here, a slower way replaces it: {reason}"
    ]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), torch.AcceleratorError("lost")],
)
def test_an_error_that_says_nothing_about_the_kernel_is_raised_and_forgotten(error: Exception) -> None:
    tries = iter([error, None])

    def error_of() -> float:
        if (failed := next(tries)) is not None:
            raise failed
        return 0.0

    with pytest.raises(type(error)):
        kernel_works("the kernel", error_of)
    assert kernel_works("the kernel", error_of)
    assert kernel_works("the kernel", error_of), "a trial that passed is not repeated"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("no memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("unable to mmap 1964680 bytes from file <t.safetensors>: Cannot allocate memory (12)"), True),
        (RuntimeError("could not create a primitive"), True),
        (MemoryError(), True),
        (RuntimeError(("no", "text")), False),
        (RuntimeError(), False),
        (RuntimeError("could not create a network"), False),
        (ValueError(" out of memory."), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected
