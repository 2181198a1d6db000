"""The limits of a device: memory that runs out, and kernels that do not work on it."""

import gc
import logging
from collections.abc import Callable, Hashable

import torch

logger = logging.getLogger(__name__)

_WORDS = (
    " out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # what cuDNN says where its workspace does not fit
    "can't allocate memory",
    "Cannot allocate memory",  # what the system says
    "could not create a primitive",  # oneDNN, whose code needs room too
    "could not create a memory",
)


class OutOfMemory(MemoryError):
    """A step does not fit into the memory; the message says what to change."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that a device, or this machine, has too little memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in _WORDS)


def free_cache(device: torch.device) -> None:
    """Give memory that is no longer used back to `device`, where other processes, or a second try, may need it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


_known: dict[Hashable, bool] = {}


def works(name: str, error_of: Callable[..., float], tolerance: float, *given: Hashable) -> bool:
    """Return whether `error_of(*given)`, the error of the kernel `name`, is below `tolerance`; where not, log why, once.

    The trial may take gradients, also where the caller has turned them off. Running out of memory says nothing about the
    kernel: the error is raised, and the next call tries again.
    """
    key = (name, *given)
    if key not in _known:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                error = error_of(*given)
            reason = "" if error < tolerance else f"it is off by {error:.1e}"
        except Exception as failed:
            if ran_out_of_memory(failed):
                raise
            reason = (str(failed).splitlines() or [""])[0] or type(failed).__name__
        _known[key] = not reason
        if reason:
            logger.warning("%s does not work here, a slower way replaces it: %s", name, reason)
    return _known[key]


def forget_kernels() -> None:
    """Try every kernel again when it is next wanted."""
    _known.clear()
