"""What every preset does to a GPU in a training step and a prediction, found on a GPU that does not exist: JSON on stdout.

Networks have their full width and packs their full size. A network is cut to two layers and two cycles of one update, a step to
one pack and a prediction to one segment: the others repeat the same kernels.
"""

import gc
import json
import os
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from augment.task import Pair, Task
from pipeline.bench import stages
from pipeline.bench.command import Bench, bench_predict, bench_train
from pipeline.bench.measure import Traffic
from pipeline.bench.stages import QUICK
from pipeline.config import BuildConfig, Config
from pipeline.data.build import build
from pipeline.data.dataset import Dataset, PuzzleDataset
from pipeline.data.packs import make_pack_maker
from pipeline.data.sources import Source
from pipeline.device import fit_config
from pipeline.inference.forward import InferenceRunner
from pipeline.models import attention, layers, task_memory
from pipeline.models.network import Network, make_network
from pipeline.presets import PRESETS
from pipeline.training.trainer import Trainer
from tests.fake_gpu.fake_gpu import DEVICE, FakeGpu
from tests.parity import Reference

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Finding:
    """What a run does to the GPU."""

    error: str
    """Of an operation on two devices, or of a value that is needed on the CPU; empty if there was none."""
    waits: tuple[str, ...]
    """Places where the CPU waits for the GPU."""
    kernels: int
    gigabytes: float
    """That the kernels read and write."""


class OneProcess:
    """What a trainer takes from Accelerate, for one process on the fake GPU."""

    num_processes, process_index, is_main_process = 1, 0, True
    device, scaler, optimizer_step_was_skipped = DEVICE, None, False

    def prepare_model(self, model: nn.Module, device_placement: bool) -> nn.Module:
        return model

    def prepare_optimizer(self, optimizer: Any, device_placement: bool) -> Any:
        return optimizer

    def no_sync(self, model: nn.Module) -> nullcontext[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, most: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, most)


def inspect(run: Callable[[FakeGpu], None]) -> Finding:
    """Return what `run` does after its last `FakeGpu.begin`."""
    gpu, error = FakeGpu(), ""
    try:
        with gpu.installed():
            run(gpu)
    except (RuntimeError, TypeError, ValueError) as failure:
        frames = [frame for frame in traceback.extract_tb(failure.__traceback__) if "site-packages" not in frame.filename]
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "fake_gpu" not in frame.filename]
        error = f"{type(failure).__name__} at {' > '.join(places[-3:])}: {str(failure).splitlines()[0]}"
    return Finding(error, tuple(gpu.waits), gpu.kernels, gpu.bytes / 1e9)


def train(name: str, execution: str, gpu: FakeGpu, t4: bool = False) -> None:
    """Take two steps of the preset `name`; the second continues with what the first has left. A T4 has no bfloat16."""
    gpu.capability = (7, 5) if t4 else gpu.capability
    dataset, config, network = setting(name)
    config = replace(config, train=replace(config.train, packs=1, pieces=1, depth="full", execution=execution))
    process: Any = OneProcess()
    trainer = Trainer(process, torch.float16 if t4 else torch.bfloat16, network, dataset, config, Path("nowhere"))
    trainer._step(0.5)
    gpu.begin()
    trainer._step(0.5)


def predict(name: str, gpu: FakeGpu) -> None:
    dataset, config, network = setting(name)
    maker = make_pack_maker(dataset, config.train.canvas, config.memory.tokens, "tests")
    runner = InferenceRunner(DEVICE, torch.bfloat16, network, maker, replace(config.predict, segments=1))
    samples = maker.plain()
    gpu.begin()
    runner.forward(samples[maker.order(samples)])


def bench(gpu: FakeGpu) -> None:
    """Measure training and prediction, compiled and not: times mean nothing here, all figures are there."""
    dispatch = Traffic.__torch_dispatch__

    def dispatch_fake(traffic: Traffic, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        of_device = function is torch.ops.prim.device.default  # which only fake tensors ask for
        return args[0].fake_device if of_device else dispatch(traffic, function, types, args, kwargs)

    Traffic.__torch_dispatch__ = dispatch_fake  # type: ignore[method-assign]
    small = {"layers": 1, "H_cycles": 1, "L_cycles": 1}
    stages.preset = lambda name: replace(PRESETS[name], model=replace(PRESETS[name].model, **small))
    plan = replace(QUICK, model=replace(QUICK.model, **small), tasks=4, augmentations=5, peak_side=32)
    further = {"published, compiled", "compiled", "fast", "fast, compiled"}
    for measured, more in ((bench_train, further), (bench_predict, set())):
        rows = measured(Bench(plan, DEVICE, torch.bfloat16))
        sides = [set(row.values) for row in rows if "predicted" in row.name or "share" in row.name]
        if sides != [{"published", "unpadded", "ours"} | more] * 2:
            raise ValueError(f"{measured.__name__}: {sides}")


def compare(path: Path, gpu: FakeGpu) -> None:
    """Compute what is compared with the reference vectors of `path`."""
    reference = Reference(path, str(DEVICE))
    reference.steps = reference.steps[:1]  # the others do the same
    gpu.begin()
    reference.values()


def setting(name: str) -> tuple[Dataset, Config, Network]:
    dataset = tasks()
    if "sudoku" in name or "maze" in name:
        dataset = puzzles("maze" if "maze" in name else "sudoku", 4 if "demo" in name else 9 if "sudoku" in name else 30)
    config = fit_config(PRESETS[name], dataset)
    model = replace(config.model, layers=min(2, config.model.layers), H_cycles=2, L_cycles=1)
    network = make_network(model, config.memory, len(dataset.task_ids), len(dataset.transforms), 0)
    return dataset, replace(config, model=model), network


@cache
def tasks() -> Dataset:
    """Return a dataset of 40 tasks with random grids of all sizes."""
    rng = np.random.default_rng(0)
    grids = iter([rng.integers(0, 10, rng.integers(1, 31, 2), dtype=np.uint8) for _ in range(40 * 7)])
    made = [
        Task(f"{number:08x}", tuple(Pair(next(grids), next(grids)) for _ in range(3)), (next(grids),)) for number in range(40)
    ]
    return build([Source("random", tuple(made), {})], [], BuildConfig(augmentations=8, jobs=1))


@cache
def puzzles(kind: Any, side: int) -> Dataset:
    """Return a dataset of puzzles with random cells."""
    cells = np.random.default_rng(0).integers(1, 4, (1000, side, side), dtype=np.uint8)
    return PuzzleDataset(kind, cells, cells, cells[:100], 7, 0, {})


def runs() -> dict[str, Callable[[FakeGpu], None]]:
    """Return all runs by name; of presets that differ only in their number of steps, those of one."""
    found: dict[str, Callable[[FakeGpu], None]] = {}
    presets = {replace(config, train=replace(config.train, steps=0)): name for name, config in reversed(PRESETS.items())}
    for config, name in presets.items():
        found[f"{name}: step in rooms"] = partial(train, name, "compiled")
        if config.train.canvas == "fitted":  # elsewhere a pack fills its room, and nothing differs
            found[f"{name}: step"] = partial(train, name, "eager")
        found[f"{name}: prediction"] = partial(predict, name)
    found["fast: step in rooms of a T4"] = partial(train, "fast", "compiled", t4=True)
    found["bench"] = bench
    for path in sorted(GOLDEN.glob("*.safetensors")):
        found[f"{path.stem}: parity"] = partial(compare, path)
    return found


def main() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is not garbage, and the benchmark collects often
    with (
        mock.patch.object(attention, "packed_error", lambda *_: 0.0),  # what trials of the kernels find on an H100
        mock.patch.object(layers, "fused_error", lambda *_: 0.0),
        mock.patch.object(nn.Module, "compile"),  # rooms without the compiler
        mock.patch.object(layers, "truncated_normal", lambda shape, *_: torch.empty(shape)),  # values that are never read
        mock.patch.object(task_memory, "truncated_normal", lambda shape, *_: torch.empty(shape)),
    ):
        print(json.dumps({name: asdict(inspect(run)) for name, run in runs().items()}), flush=True)
    os._exit(0)  # in Python 3.11 autograd's thread of a device may abort the process while the interpreter is taken down
