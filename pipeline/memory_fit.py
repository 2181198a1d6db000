"""Into how many pieces a pack has to be cut so that a step fits into the memory of the device: found by trying.

Asked by pipeline.train before the first step; what is tried is in pipeline.trial.
"""

import gc
import logging
from collections.abc import Callable
from typing import Protocol

import torch

from pipeline.engine import free_cache, ran_out_of_memory

logger = logging.getLogger(__name__)

MOST_SHARE = 0.9
"""Of the device's memory that a step may use; the rest is for what lies scattered between what is in use."""


class OutOfMemory(MemoryError):
    """A step does not fit into the memory; the message says what to change."""


class DeviceMemory(Protocol):
    """What is asked about the memory of a device."""

    total_bytes: int

    def reset(self) -> None:
        """Forget the peak so far."""

    def peak_bytes(self) -> int:
        """Return the most that was in use since `reset`, by this process and by others."""


class CudaMemory:
    """The memory of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total_bytes: int = torch.cuda.mem_get_info(device)[1]

    def reset(self) -> None:
        """Forget the peak so far."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """Return the peak of this process's tensors, and what everything else has now: other processes, and CUDA itself."""
        free, total = torch.cuda.mem_get_info(self.device)
        elsewhere = total - free - torch.cuda.memory_reserved(self.device)
        return elsewhere + torch.cuda.max_memory_allocated(self.device)


def least_pieces(
    trial: Callable[[int], None], memory: DeviceMemory, device: torch.device, most: int, share: float = MOST_SHARE
) -> int:
    """Return the least power of two for which `trial(pieces)` stays under a `share` of the memory, `most` where none does.

    `most` are the sequences of a pack. Raises OutOfMemory where even that many pieces do not fit.
    """
    limit, pieces = share * memory.total_bytes, 1
    while True:
        free_memory(device)
        memory.reset()
        fits = _fits(trial, pieces)
        peak = memory.peak_bytes()
        if fits and (peak <= limit or pieces >= most):
            used, total = f"{peak / 2**30:.1f}", f"{memory.total_bytes / 2**30:.1f}"
            logger.info("a pack is computed in %d pieces: a trial step used %s of %s GiB", pieces, used, total)
            return pieces
        if pieces >= most:
            raise OutOfMemory(
                "out of memory with a single sequence in each piece: a smaller train.pack_tokens leaves more room for it"
            )
        pieces = min(2 * pieces, most)


def _fits(trial: Callable[[int], None], pieces: int) -> bool:
    try:
        trial(pieces)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        return False
    return True


def free_memory(device: torch.device) -> None:
    """Give back what a failed try held, once its error is gone."""
    gc.collect()
    free_cache(device)
