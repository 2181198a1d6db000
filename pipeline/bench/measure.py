"""Measurements: time of several sides in turns, its growth with the input, peak memory, and the peaks of the device.

The sides take turns within one process, so that other work on the machine disturbs them alike. Memory is measured in a
separate process for each side.
"""

import gc
import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.device_limits import free_cache, ran_out_of_memory
from pipeline.models.layout import Layout
from pipeline.models.reasoner import Reasoner

logger = logging.getLogger(__name__)

Work = Callable[[], object]
Prepare = Callable[[int], Work]
"""From the size of the input to the work on it. Only the work is timed."""


@dataclass(frozen=True)
class Timings:
    """How long one side took."""

    sizes: tuple[int, ...]
    """Sizes of the input, ascending."""
    seconds: Sequence[Sequence[float]]
    """By size, one for each repeat."""
    host_seconds: Sequence[Sequence[float]]
    """The same until the GPU has been given everything; empty on a CPU."""
    device_bytes: int | None
    """Peak memory of the GPU; None on a CPU."""

    @property
    def medians(self) -> tuple[float, ...]:
        """Median seconds by size."""
        return tuple(median(repeats) for repeats in self.seconds)

    @property
    def seconds_per_unit(self) -> float:
        """Seconds of one unit of the input, at the largest size."""
        return self.medians[-1] / self.sizes[-1]

    @property
    def exponent(self) -> float:
        """The e of seconds ~ size ** e, fitted to the medians of several sizes."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.medians), 1)[0])


def time_sides(sides: Mapping[str, Prepare], sizes: tuple[int, ...], repeats: int, device: torch.device) -> dict[str, Timings]:
    """Time all sides in turns: in every repeat each size, at each size every side. A round at the least size warms up.

    On a GPU it is a round at every size, so that no compilation is timed; sizes are halved until all of them fit.
    """
    sizes = _warm_up(sides, sizes, device)
    figures = {name: np.empty((3, len(sizes), repeats)) for name in sides}  # of `_time`
    for repeat in range(repeats):
        for place, size in enumerate(sizes):
            for name, prepare in sides.items():
                work = prepare(size)
                gc.collect()
                figures[name][:, place, repeat] = _time(work, device)
    on_gpu = device.type == "cuda"
    return {
        name: Timings(sizes, seconds.tolist(), on_host.tolist() if on_gpu else [], int(peaks.max()) if on_gpu else None)
        for name, (seconds, on_host, peaks) in figures.items()
    }


def _warm_up(sides: Mapping[str, Prepare], sizes: tuple[int, ...], device: torch.device) -> tuple[int, ...]:
    """Run every side; return `sizes`, or halves of them that fit into the memory."""
    try:
        for prepare in sides.values():
            for size in sizes if device.type == "cuda" else sizes[:1]:
                prepare(size)()
        return sizes
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error) or sizes[0] == 1:
            raise
    logger.info("sizes %s do not fit into the memory, halves of them may", sizes)
    free_cache(device)
    return _warm_up(sides, tuple(size // 2 for size in sizes), device)


def _time(work: Work, device: torch.device) -> tuple[float, float, int]:
    """Return the seconds of `work`, those until it returns, which a GPU may still be busy after, and the GPU's peak bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    returned = time.perf_counter()
    if device.type != "cuda":
        return returned - started, returned - started, 0
    torch.cuda.synchronize(device)
    return time.perf_counter() - started, returned - started, torch.cuda.max_memory_allocated(device)


def peak_operations(dtype: torch.dtype, device: torch.device, side: int, repeats: int = 5) -> float:
    """Return the floating-point operations a second of products of two `side` x `side` matrices, the best of `repeats`."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    return 2 * side**3 / _least_seconds(lambda: a @ b, device, repeats)


def copy_speed(device: torch.device, size: int, repeats: int = 5) -> float:
    """Return the bytes that a copy of `size` bytes reads and writes in a second, the best of `repeats`."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    return 2 * size / _least_seconds(lambda: copy.copy_(source), device, repeats)


def _least_seconds(work: Work, device: torch.device, repeats: int) -> float:
    """Return the seconds of `work`, the least of `repeats` after a first time; on a GPU of ten in a row."""
    count = 10 if device.type == "cuda" else 1
    return min(_time(lambda: [work() for _ in range(count)], device)[0] / count for _ in range(repeats + 1))


def peak_bytes(work: Callable[..., object], *arguments: object) -> int:
    """Return the peak memory of a fresh process that imports what `work`, a function of a module, needs and calls it.

    It has the allocator of the system.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_own_peak, work, arguments).result()


def _own_peak(work: Callable[..., object], arguments: tuple[object, ...]) -> int:
    work(*arguments)
    status = Path("/proc/self/status").read_text()  # `getrusage` includes the parent process
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def segment_operations(reasoner: Reasoner, layout: Layout, training: bool) -> int:
    """Return the operations of one segment on a pack, for a `reasoner` of attention only and without the task memory.

    In `training` every backpropagated update costs twice as much again.
    """
    config = reasoner.config
    updates, learned = reasoner.updates()
    operations = 2 * config.hidden_size * (len(layout.cells) * config.vocabulary + 2 * layout.sequences)  # of the heads
    operations *= 3 if training else 1
    pairs = sum(group.count * group.length**2 for group in layout.groups)
    for block in reasoner.blocks:
        weights = sum(parameter.numel() for parameter in block.parameters())
        once = 2 * layout.tokens * weights + 4 * config.hidden_size * pairs  # 4: queries with keys, probabilities with values
        operations += (len(updates) + (2 * learned if training else 0)) * once
    return operations


_WITHOUT_KERNEL = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
"""Operations that launch no kernel, besides views."""
_GATHERS = {"index", "index_select", "gather", "embedding"}
"""Operations that read as much of their first tensor as they return."""


def kernel_bytes(function: Any, given: list[Tensor], made: list[Tensor]) -> int | None:
    """Return the bytes that the kernel of an operation reads and writes; None where it launches none."""
    name = function.overloadpacket.__name__
    if function.is_view or name in _WITHOUT_KERNEL:
        return None
    written = made or given  # in place: read and written
    return sum(map(tensor_bytes, (*(written if name in _GATHERS else given), *written)))


def tensor_bytes(tensor: Tensor) -> int:
    """Return the bytes of `tensor`; an expanded dimension is read once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return torch.Size(sizes).numel() * tensor.element_size()


class Traffic(TorchDispatchMode):
    """Sums the bytes that all kernels inside it read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # without autograd, an operation made of others comes in one piece
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = function(*args, **kwargs)
        given, made = ([leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)] for each in ((args, kwargs), result))
        self.bytes += kernel_bytes(function, given, made) or 0
        return result
