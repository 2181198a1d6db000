"""Measurements: time of several sides in turns, its growth with the input, the floating-point peak, peak memory.

The sides take turns within one process, so that other work on the machine disturbs them alike. Memory is measured in a
separate process for each side.
"""

import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from pipeline.models.layout import Layout
from pipeline.models.reasoner import Reasoner

Work = Callable[[], object]
Prepare = Callable[[int], Work]
"""From the size of the input to the work on it. Only the work is timed."""


@dataclass(frozen=True)
class Timings:
    """How long one side took."""

    sizes: tuple[int, ...]
    """Sizes of the input, ascending."""
    seconds: tuple[tuple[float, ...], ...]
    """By size, one for each repeat."""
    device_seconds: tuple[tuple[float, ...], ...]
    """The same by the GPU's own clock; empty on a CPU."""
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

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"medians": self.medians, "exponent": self.exponent}


def time_sides(sides: Mapping[str, Prepare], sizes: tuple[int, ...], repeats: int, device: torch.device) -> dict[str, Timings]:
    """Time all sides in turns: in every repeat each size, at each size every side. A round at the least size warms up.

    On a GPU it is a round at every size, so that no compilation is timed.
    """
    for prepare in sides.values():
        for size in sizes if device.type == "cuda" else sizes[:1]:
            prepare(size)()
    figures = {name: np.empty((3, len(sizes), repeats)) for name in sides}  # of `_time`
    for repeat in range(repeats):
        for place, size in enumerate(sizes):
            for name, prepare in sides.items():
                work = prepare(size)
                gc.collect()
                figures[name][:, place, repeat] = _time(work, device)
    timings = {}
    for name, (seconds, on_device, peaks) in figures.items():
        timings[name] = Timings(sizes, tuple(map(tuple, seconds.tolist())), (), None)
        if device.type == "cuda":
            by_size = tuple(map(tuple, on_device.tolist()))
            timings[name] = replace(timings[name], device_seconds=by_size, device_bytes=int(peaks.max()))
    return timings


def _time(work: Work, device: torch.device) -> tuple[float, float, int]:
    """Return the seconds of `work` by the wall clock and by the GPU's, and the GPU's peak bytes; the latter 0 on a CPU."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started, 0.0, 0
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    first.record()
    work()
    last.record()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started, first.elapsed_time(last) / 1e3, torch.cuda.max_memory_allocated(device)


def peak_operations(dtype: torch.dtype, device: torch.device, side: int, repeats: int = 5) -> float:
    """Return the floating-point operations a second of a product of two `side` x `side` matrices, the best of `repeats`."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    times = [_time(lambda: a @ b, device) for _ in range(repeats + 1)][1:]
    return 2 * side**3 / min(on_device or wall for wall, on_device, _ in times)


def peak_bytes(work: Callable[..., object], *arguments: object) -> int:
    """Return the peak memory of a fresh process that imports what `work`, a function of a module, needs and calls it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_own_peak, work, arguments).result()


def _own_peak(work: Callable[..., object], arguments: tuple[object, ...]) -> int:
    work(*arguments)
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where `getrusage` includes the parent process
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def segment_operations(reasoner: Reasoner, layout: Layout, training: bool) -> int:
    """Return the operations of one segment on a pack, for a `reasoner` of attention only and without the task memory.

    In `training` every backpropagated update costs twice as much again.
    """
    config = reasoner.config
    updates, learned = len(reasoner.cycle()) * config.H_cycles, reasoner.learned_updates()
    operations = 2 * config.hidden_size * (len(layout.cells) * config.vocabulary + 2 * layout.sequences)  # of the heads
    operations *= 3 if training else 1
    pairs = sum(group.count * group.length**2 for group in layout.groups)
    for block in reasoner.blocks:
        weights = sum(parameter.numel() for parameter in block.parameters())
        once = 2 * layout.tokens * weights + 4 * config.hidden_size * pairs  # 4: queries with keys, probabilities with values
        operations += (updates + (2 * learned if training else 0)) * once
    return operations
