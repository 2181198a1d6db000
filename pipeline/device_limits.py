"""The limits of a device: memory that runs out, and kernels that do not work on it."""

import gc
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    " out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # where there is no room for its own buffers
    "can't allocate memory",
    "Cannot allocate memory",  # what the system says
    "could not create a primitive",  # oneDNN, whose code needs room too
    "could not create a memory",
)
"""What an error of too little memory says."""


class OutOfMemory(MemoryError):
    """The network, or a step, does not fit into the memory; the message says what to change."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that a device, or this machine, has too little memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """Return the first line of what `error` says, or of what kind it is where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


NETWORK_TOO_LARGE = (
    "the network and its task memory do not fit (a smaller model, fewer memory tokens or fewer augmentations need less)"
)


@contextmanager
def memory_suffices(otherwise: str, kind: type[Exception] = OutOfMemory) -> Iterator[None]:
    """Raise an error of `kind` that says `otherwise`, and what went wrong, where memory runs out in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise kind(f"{otherwise}: {first_line(error)}") from None


def free_cache(device: torch.device) -> None:
    """Give memory that is no longer used back to `device`, where other processes, or a second try, may need it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


TOLERANCE = 2e-2
"""Largest error of a kernel on its trial, relative to the largest value: a few roundings of bfloat16."""
fallbacks: list[str] = []
"""What this process does in a slower way than it was meant to, and why; the report of a run repeats it."""
_known: dict[Hashable, bool] = {}
"""Whether a kernel works, by its name and the arguments of its trial."""


def kernel_works(name: str, measure_error: Callable[..., float], *arguments: Hashable) -> bool:
    """Return whether the kernel `name` runs and `measure_error(*arguments)` is below `TOLERANCE`; if not, log why, once.

    Gradients are on in the trial, also under `inference_mode`. Raises the error of a trial that runs out of memory or breaks
    the CUDA context: neither says that the kernel is wrong, and the next call tries again.
    """
    key = (name, *arguments)
    if key not in _known:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                error = measure_error(*arguments)
            reason = "" if error < TOLERANCE else f"its error is {error:.1e}"
        except Exception as failed:  # compilers of kernels raise errors of many kinds
            if ran_out_of_memory(failed) or isinstance(failed, torch.AcceleratorError):
                raise
            reason = first_line(failed)
        _known[key] = not reason
        if reason:
            fall_back(f"{name} does not work here, a slower way replaces it: {reason}")
    return _known[key]


def fall_back(message: str) -> None:
    """Log `message`, which names a slower way and the reason for it, and note it for the report."""
    logger.warning("%s", message)
    fallbacks.append(message)
