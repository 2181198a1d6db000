"""Measuring side by side: interleaved repeats, medians, how time grows with the input, the floating-point peak, peak memory.

All sides of a comparison take turns within one process, so that other work on the machine disturbs them alike; memory is
measured in a separate process for each side.
"""

import gc
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from pipeline.models.layout import Layout
from pipeline.models.reasoner import Reasoner

Work = Callable[[], object]
"""What is timed."""

Prepare = Callable[[int], Work]
"""Size of the input -> the work on it; only the work is timed."""


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
        """The e of seconds ~ size ** e, fitted to the medians; nan for a single size."""
        if len(self.sizes) < 2:
            return math.nan
        return float(np.polyfit(np.log(self.sizes), np.log(self.medians), 1)[0])

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "sizes": list(self.sizes),
            "seconds": [list(repeats) for repeats in self.seconds],
            "medians": list(self.medians),
            "exponent": None if math.isnan(self.exponent) else self.exponent,
            "device_seconds": [list(repeats) for repeats in self.device_seconds],
            "device_bytes": self.device_bytes,
        }


def time_sides(sides: Mapping[str, Prepare], sizes: Sequence[int], repeats: int, device: torch.device) -> dict[str, Timings]:
    """Time all sides in turns: in every repeat each size, at each size every side. A round at the least size warms up."""
    for prepare in sides.values():
        prepare(sizes[0])()
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in sides}
    on_device: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in sides}
    peaks = dict.fromkeys(sides, 0)
    for _ in range(repeats):
        for place, size in enumerate(sizes):
            for name, prepare in sides.items():
                work = prepare(size)
                gc.collect()
                taken, taken_on_device, peak = _time(work, device)
                seconds[name][place].append(taken)
                on_device[name][place].append(taken_on_device)
                peaks[name] = max(peaks[name], peak)
    cuda = device.type == "cuda"
    return {
        name: Timings(
            tuple(sizes),
            tuple(map(tuple, seconds[name])),
            tuple(map(tuple, on_device[name])) if cuda else (),
            peaks[name] if cuda else None,
        )
        for name in sides
    }


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
    """Return the peak memory of a fresh process that imports what `work` needs and does it.

    `work` is a function of a module. Raises RuntimeError when the process fails.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:
        raise RuntimeError(f"the process that measures the memory of {work.__name__} failed") from None
    finally:
        process.join()


def _report_peak(sender: Any, work: Callable[..., object], arguments: Sequence[object]) -> None:
    work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: that of `getrusage` includes the process that started this one
        peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    sender.send(peak)


def segment_operations(reasoner: Reasoner, layout: Layout, training: bool) -> int:
    """Return the operations of one segment on a pack, those of the task memory excluded.

    In `training` every backpropagated update costs twice as much again. Raises ValueError for a token mixer or a convolution,
    which are not counted here.
    """
    config = reasoner.config
    if config.mixing != "attention" or config.convolution:
        raise ValueError("operations are counted for attention without a convolution")
    updates, learned = len(reasoner.cycle()) * config.H_cycles, reasoner.learned_updates()
    operations = 2 * config.hidden_size * (len(layout.cells) * config.vocabulary + 2 * layout.sequences)  # of the heads
    operations *= 3 if training else 1
    pairs = sum(group.count * group.length**2 for group in layout.groups)
    for block in reasoner.blocks:
        weights = sum(parameter.numel() for parameter in block.parameters())
        once = 2 * layout.tokens * weights + 4 * config.hidden_size * pairs  # 4: queries with keys, probabilities with values
        operations += (updates + (2 * learned if training else 0)) * once
    return operations
