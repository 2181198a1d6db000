"""The command `doctor`: whether this machine will do, and what a preset comes to on it, on one screen.

What it finds first decides first: a PyTorch without kernels for the GPU fails at its first operation, so none is tried then.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch

from eval.formatting import format_duration, plural
from pipeline.config import Config
from pipeline.data.dataset import PuzzleDataset
from pipeline.data.packs import make_pack_maker
from pipeline.device import cuda_is_used, fit_config, make_accelerator, unusable_gpus
from pipeline.device_limits import memory_suffices
from pipeline.jobs.arc import ArcJob
from pipeline.jobs.puzzles import PuzzleJob
from pipeline.jobs.time_split import measure_speed
from pipeline.models.attention import choose_way
from pipeline.models.layers import choose_fused, grid_kernel
from pipeline.system.allocator import PACKAGE, find_allocator, uses_tcmalloc
from pipeline.system.processors import usable_cores
from pipeline.training.memory_fit import CudaMemory
from pipeline.training.state import checkpoint_bytes, trainable
from pipeline.training.trainer import Trainer
from pipeline.weights.files import make_network_for
from submission.secret import known_tokens

LEAST_TORCH = (2, 10)
CANDIDATE_BYTES = 200 << 20
"""Of disk, for dataset and candidates, and to spare."""
TRAINING_SHARE = 0.9
"""Of a run's time."""
DRAWN = 4096
"""Sequences that are drawn to learn their length, and how many are of the tasks to solve."""
Finding = tuple[str, str]
"""What was looked at, and what it is."""


class WillNotDo(Exception):
    """The machine will not do; the message says in a line why, and what to change."""


@dataclass(frozen=True)
class PlannedRun:
    """The run in question."""

    config: Config
    title: str
    """Of its network."""
    job: ArcJob | PuzzleJob
    """On a few puzzles or tasks, or all; its folder is where the files of the run would be written."""
    seconds: float


def examine(plan: PlannedRun) -> Iterator[Finding]:
    """Yield what is found about this machine, then what the run of `plan` comes to on it.

    Raises WillNotDo where it makes no sense to go on, InputError for bad sources.
    """
    yield "Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    versions = (
        f"{package} {importlib.metadata.version(package)}" for package in ("accelerate", "kaggle") if find_spec(package)
    )
    yield "PyTorch", ", ".join((torch.__version__, *versions))
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < LEAST_TORCH:
        raise WillNotDo(f"PyTorch {torch.__version__} is too old: {'.'.join(map(str, LEAST_TORCH))} or newer is needed")
    if unusable := unusable_gpus():
        raise WillNotDo(unusable)
    for number in range(torch.cuda.device_count() if cuda_is_used() else 0):
        yield f"GPU {number}", describe_gpu(number)
    free = psutil.virtual_memory().available
    busy = psutil.getloadavg()[0]
    yield "processor", f"{usable_cores()} cores, load {busy:.1f}, {free / 2**30:.1f} GiB of memory free"
    yield "compiler", find_compiler()
    if not cuda_is_used():
        advice = "tcmalloc is installed, but not used" if find_allocator() else f"apt install {PACKAGE} makes training faster"
        yield "allocator", "tcmalloc" if uses_tcmalloc() else f"the system's; {advice}"
    yield "Kaggle token", "there" if known_tokens() else "none; only `kaggle push`, `status` and `submit` need one"
    yield from _examine_network(plan)


def find_compiler() -> str:
    """Return in words what compiles the blocks of a network on this device, or what it lacks."""
    if not cuda_is_used():
        return "C++" if shutil.which("c++") else "none, so nothing is compiled: apt install g++"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if find_spec("triton") and (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")) and headers.is_file():
        return "Triton"
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    return f"none, so nothing is compiled or fused: Triton needs gcc and {headers} (apt install gcc {package})"


def describe_gpu(number: int) -> str:
    """Return in words what a GPU is. Raises WillNotDo where the installed PyTorch has no kernels for it."""
    card, (major, minor) = torch.cuda.get_device_properties(number), torch.cuda.get_device_capability(number)
    built = torch.cuda.get_arch_list()
    if not has_kernels(built, major, minor):
        raise WillNotDo(
            f"this PyTorch has no kernels for {card.name} (sm_{major}{minor}), only {', '.join(built)}: choose another "
            "machine, or a PyTorch that was built for it; ACCELERATE_USE_CPU=true computes without the GPU"
        )
    return f"{card.name}, {card.total_memory / 2**30:.1f} GiB, sm_{major}{minor}"


def has_kernels(built: Sequence[str], major: int, minor: int) -> bool:
    """Return whether code for one of the architectures `built` runs on a GPU of capability `major`.`minor`.

    Machine code (sm_86) runs on the same major capability from its minor on, PTX (compute_86) on every later one.
    """
    for each in built:
        kind, _, digits = each.partition("_")
        version = divmod(int(digits.rstrip("af")), 10)
        if (kind == "sm" and version[0] == major and version[1] <= minor) or (kind == "compute" and version <= (major, minor)):
            return True
    return False


def _examine_network(plan: PlannedRun) -> Iterator[Finding]:
    config, title, seconds, out = plan.config, plan.title, plan.seconds, plan.job.out
    accelerator, dtype = make_accelerator(config.train.precision)
    device = accelerator.device
    way = choose_way(device, dtype, config.model.hidden_size // config.model.heads)
    fused = ", one operation for gate and convolution" if choose_fused(device, dtype, grid_kernel(config.model)) else ""
    yield "computes in", f"{str(dtype).removeprefix('torch.')}, attention {way}{fused}"
    dataset = plan.job.build(config.build)
    config = fit_config(config, dataset)
    with memory_suffices(f"the weights of {title}, with their task memory, do not fit into memory", WillNotDo):
        network = make_network_for(config, dataset).to(device)
    if isinstance(dataset, PuzzleDataset):
        to_solve, held = np.ones(len(dataset.questions), bool), plural(len(dataset.questions), "training puzzle")
    else:
        to_solve, held = np.isin(dataset.pair_task, dataset.test_task), plural(len(dataset.task_ids), "task")
    yield title, f"{trainable(network):,} values, {held} of {' + '.join((*plan.job.sources, *plan.job.train_sources))}"
    kept, each = config.train.checkpoints_kept, config.train.checkpoint_seconds
    kept = min(kept, 1 + int(seconds / each)) if each and not config.train.checkpoint_steps else kept
    needed = CANDIDATE_BYTES + (1 + kept) * checkpoint_bytes(network)  # one is being written
    place = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    yield "disk", f"{free / 2**30:.2f} GiB free in {out.resolve()}, {needed / 2**30:.2f} needed"
    if free < needed:
        raise WillNotDo(f"only {free / 2**30:.2f} GiB of disk are free, and checkpoints of {title} need {needed / 2**30:.2f}")
    with memory_suffices(f"{title} does not fit into memory", WillNotDo):  # before the trainer marks blocks to be compiled
        speed = measure_speed(network, dataset, config, dtype, accelerator)
    if device.type == "cuda":
        with (
            memory_suffices(f"{title} does not fit into the memory of the GPU", WillNotDo),
            tempfile.TemporaryDirectory() as folder,
        ):
            trainer = Trainer(accelerator, dtype, network, dataset, config, Path(folder))
            pieces = trainer.measure_pieces(CudaMemory(device))
        yield "memory", "a step fits" + (f", its packs in {pieces} micro-batches each" if pieces > 1 else "")
    processes = max(1, torch.cuda.device_count()) if device.type == "cuda" else 1
    step = speed.step_seconds(config)
    yield "speed", f"about {config.train.pack_tokens / step:,.0f} tokens a second in training, by a trial of a few seconds"
    packs = TRAINING_SHARE * seconds * processes / step
    maker = make_pack_maker(dataset, config.train.canvas, config.memory.tokens, latents=config.train.latents)
    drawn = maker.draw(DRAWN, np.random.default_rng(0), config.train.shift_probability)
    views = packs * config.train.pack_tokens / maker.tokens(drawn).mean() * to_solve[drawn.example].mean()
    where = f"{plural(processes, 'GPU')}" if device.type == "cuda" else "this CPU"
    about = "about" if config.train.segments == 1 else "at most"
    pairs = f"the {held}" if isinstance(dataset, PuzzleDataset) else f"the {to_solve.sum():,} pairs of the tasks to solve"
    yield format_duration(seconds), f"{about} {views / max(1, to_solve.sum()):,.1f} passes over {pairs} on {where}"
    if config.train.steps:
        steps = packs / max(processes, config.train.packs)
        yield "steps", f"about {steps:,.0f} of the {config.train.steps:,} that the recipe has"


def print_findings(plan: PlannedRun) -> int:
    """Print what `examine` finds, one line each; return 1, after a line that says why, where the machine will not do."""
    try:
        for what, found in examine(plan):
            print(f"{what:15} {found}", flush=True)
    except WillNotDo as error:
        print(f"this machine will not do: {error}", file=sys.stderr)
        return 1
    print("this machine will do")
    return 0
