"""The device: Accelerate's engine and the compute dtype, and packs as tensors on the device."""

import logging
import os
import time
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env

from augment.canvas import IGNORED
from augment.errors import InputError
from eval.formatting import plural
from pipeline.config import Config, Precision, override
from pipeline.data.dataset import Dataset, PuzzleDataset, canvas_of
from pipeline.data.packs import Pack
from pipeline.models.batch import Batch, Views
from pipeline.models.config import ReasonerConfig
from pipeline.models.layout import Room, make_layout, to_device
from pipeline.system.allocator import uses_tcmalloc
from pipeline.system.processors import NEEDS_GPU, find_gpus, stays_on_cpu

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""As good as for ever, which a group of processes cannot be told."""
BFLOAT16_SPEEDUP = 1.2
"""A CPU computes in bfloat16 if its matrix products are this many times faster than in float32."""


def make_accelerator(precision: Precision, standstill_seconds: float = 600.0) -> tuple[Accelerator, torch.dtype]:
    """Return the engine of this process and the compute dtype, the same in every process.

    A process that waits for another one longer than `standstill_seconds` ends, and the launch with it. Autocast is off: the
    reasoners cast their weights themselves (pipeline.models.layers says why). Raises InputError for environment variables of a
    launcher that Accelerate does not understand; RuntimeError where there should be a GPU, by `NEEDS_GPU`, and is none.
    """
    try:
        cuda = cuda_is_used()
        if NEEDS_GPU in os.environ and (unusable := unusable_gpus()):
            raise RuntimeError(unusable)
        dtype = compute_dtype(precision, cuda)
        accelerator = Accelerator(
            cpu=not cuda,
            mixed_precision="fp16" if dtype == torch.float16 else "no",
            dynamo_backend="no",  # whatever the environment says: `train.execution` alone decides what is compiled
            kwargs_handlers=[
                AutocastKwargs(enabled=False),
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(seconds=standstill_seconds)),
            ],
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the engine cannot be made, by these settings and environment variables: {error}") from error
    return accelerator, from_main(accelerator, dtype)


def with_precision(config: Config, dtype: torch.dtype) -> Config:
    """Return `config` with `dtype` for its precision, so that what goes on with it computes alike."""
    return override(config, [f"train.precision={str(dtype).removeprefix('torch.')}"])


def cuda_is_used() -> bool:
    """Return whether runs compute on GPUs here."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def unusable_gpus() -> str:
    """Return in words which GPUs are here that this PyTorch cannot use, as with a driver that is too old; empty where none.

    By `NEEDS_GPU` there is one, whatever nvidia-smi says.
    """
    if torch.cuda.is_available() or stays_on_cpu(os.environ):
        return ""
    gpus = find_gpus(os.environ)
    if not gpus:
        return "this is to be computed on a GPU, and PyTorch finds none" if NEEDS_GPU in os.environ else ""
    return (
        f"PyTorch {torch.__version__} finds no GPU, but nvidia-smi {plural(len(gpus), 'GPU')} ({gpus[0]}): it needs a newer "
        "driver, or is built for CPUs; ACCELERATE_USE_CPU=true computes without"
    )


def compute_dtype(precision: Precision, cuda: bool) -> torch.dtype:
    """Return what `precision` means on a GPU or a CPU; "auto" is what is fast there, on a CPU by measurement."""
    if precision != "auto":
        if precision == "float16" and not cuda:
            raise InputError("precision float16 needs a CUDA device; a CPU takes float32 or bfloat16")
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if cuda:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if bfloat16_speedup() >= BFLOAT16_SPEEDUP else torch.float32


def precision_here(trained: Precision) -> Precision:
    """Return the precision in which weights predict here that were `trained` in it, maybe on another machine.

    "auto" where this device has no such numbers, or is much slower with them than with float32.
    """
    cuda = cuda_is_used()
    if trained == "bfloat16":
        fits = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else bfloat16_speedup() > 1 / BFLOAT16_SPEEDUP
    else:
        fits = cuda or trained != "float16"
    if not fits:
        logger.info("the weights were trained in %s, which is slow or unsupported here: precision=auto", trained)
    return trained if fits else "auto"


def dtype_here(trained: Precision) -> torch.dtype:
    """Return the compute dtype of `precision_here`."""
    return compute_dtype(precision_here(trained), cuda_is_used())


def bfloat16_speedup(repeats: int = 5) -> float:
    """Return how many times faster this CPU multiplies matrices in bfloat16 than in float32, measured in turns."""
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    matrices = {dtype: torch.ones(512, 512, dtype=dtype) for dtype in best}
    for _ in range(repeats + 1):  # the first round warms up; the least time of a round is the least disturbed
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            matrix @ matrix
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]


def fit_config(config: Config, dataset: Dataset) -> Config:
    """Return `config` with the vocabulary and the full canvas of `dataset`.

    Raises InputError where they are set to something else than their defaults or the dataset's, and for a token mixer where
    canvases differ.
    """
    if config.model.mixing == "mixer" and config.train.canvas != "full" and not isinstance(dataset, PuzzleDataset):
        raise InputError("model.mixing=mixer takes canvases of one size: ARC tasks need train.canvas=full with it")
    vocabulary, side = canvas_of(dataset)
    for name, has in (("vocabulary", vocabulary), ("canvas_side", side)):
        if getattr(config.model, name) not in (has, getattr(ReasonerConfig(), name)):
            raise InputError(f"model.{name} = {getattr(config.model, name)}, but that of the dataset is {has}")
    return replace(config, model=replace(config.model, vocabulary=vocabulary, canvas_side=side))


def end_training(accelerator: Accelerator) -> None:
    """Wait for all processes, then end the distributed launch.

    The process group itself stays until this process ends: PyTorch joins the threads of gloo while it holds the GIL, and one of
    them may wait for the GIL to free a tensor, a deadlock.
    """
    gather(accelerator, None)
    if accelerator.num_processes > 1:
        _groups.append(dist.group.WORLD)
    accelerator.end_training()


_groups: list[object] = []
"""Process groups that are kept alive."""


def from_main(accelerator: Accelerator, value: T) -> T:
    """Return the main process's `value` in every process. Raises ConnectionError where a process has ended."""
    return gather(accelerator, value)[0]


def wait_patiently(accelerator: Accelerator) -> None:
    """Wait for all processes, however long one is at work on its own. Raises ConnectionError where one has ended.

    The first call makes a group of processes, for which they wait only as long as elsewhere: let it precede the long work.
    """
    gather(accelerator, None, PATIENCE)


def gather(accelerator: Accelerator, value: T, patience: timedelta | None = None) -> list[T]:
    """Return the `value` of each process, by rank, in every process. Raises ConnectionError where a process has ended.

    They wait for each other as long as the engine's timeout says, or for `patience`.
    """
    if accelerator.num_processes == 1:
        return [value]
    values: list[T] = [value] * accelerator.num_processes
    group = _host_group(patience or accelerator.init_handler.timeout, shared=patience is None)
    try:
        dist.all_gather_object(values, value, group=group)
    except RuntimeError as error:
        raise ConnectionError("another process of this launch has ended, or stands still") from error
    return values


@cache
def _host_group(timeout: timedelta, shared: bool) -> dist.ProcessGroup | None:
    """Return the group for Python objects, that of tensors if it may be `shared`.

    It is one of gloo, which notices at once when a process dies, as NCCL does not.
    """
    return None if shared and dist.get_backend() == "gloo" else dist.new_group(timeout=timeout, backend="gloo")


def to_batch(pack: Pack, memory_tokens: int, device: torch.device, room: Room | None = None) -> Batch:
    """Return `pack` as tensors on `device`, in a `room` filled up with blank sequences of task 0, which have no labels."""
    layout = make_layout(torch.from_numpy(pack.shapes), torch.from_numpy(pack.offsets), memory_tokens, device, room)
    blanks, cells = layout.sequences - len(pack.shapes), len(layout.cells) - len(pack.inputs)
    labels = None if pack.labels is None else to_device(np.pad(pack.labels, (0, cells), constant_values=IGNORED), device)
    task, row, dihedral = (
        to_device(np.pad(array, (0, blanks)), device) for array in (pack.task, pack.transform, pack.dihedral)
    )
    colors = to_device(np.pad(pack.colors, ((0, blanks), (0, 0)), mode="edge"), device)
    return Batch(to_device(np.pad(pack.inputs, (0, cells)), device), labels, layout, Views(task, row, dihedral, colors))


def describe_device(accelerator: Accelerator) -> str:
    """Return in words how many processes compute, and on what."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{accelerator.num_processes} x {name}{', tcmalloc' if uses_tcmalloc() else ''}"
