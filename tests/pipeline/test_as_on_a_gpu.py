"""What the notebook starts on a GPU takes packed attention and compiled blocks, from the first measurement to the predictions.

The device is a CPU taken for a GPU: with kernels behind PyTorch's operators for packs, and a compiler that only traces.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline import device_limits
from pipeline.cli.main import main
from pipeline.config import Config
from pipeline.data.sources import load_source
from pipeline.inference import forward
from pipeline.kaggle.plan import Plan, make_command
from pipeline.kaggle.starts import Log, Setup
from pipeline.models import attention, reasoner
from pipeline.models.layout import Layout
from pipeline.models.reasoner import Block
from pipeline.presets import PRESETS
from pipeline.training import execution
from pipeline.training import trainer as trainer_module
from pipeline.training.execution import Execution
from submission.format import check_submission
from submission.settings import KaggleSettings
from tests.pipeline import packed_on_cpu
from tests.pipeline.tiny import TINY, tiny_source, write_kaggle

GPU = torch.device("cuda:0")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """A machine whose CPU is taken for an H100; how often its compiler had to trace."""
    packed_on_cpu.register_kernels()
    counter = CompileCounterWithBackend("eager")
    compile_block, init, packed_error = Block.compile, Execution.__init__, attention.packed_error
    in_shapes = Layout.split

    def on_a_gpu(self: Execution, network: Any, maker: Any, config: Config, accelerator: Any, dtype: torch.dtype) -> None:
        init(self, network, maker, config, cast(Any, SimpleNamespace(device=GPU, num_processes=1)), dtype)

    def trial(way: attention.Way, _: str, dtype: torch.dtype, size: int) -> float:
        with mock.patch.object(Layout, "split", in_shapes):
            return packed_error(way, "cpu", dtype, size)

    monkeypatch.setattr(Layout, "split", lambda *_: pytest.fail("attention went shape by shape"))
    monkeypatch.setattr(Block, "compile", lambda block, **settings: compile_block(block, backend=counter, **settings))
    monkeypatch.setattr(Execution, "__init__", on_a_gpu)
    monkeypatch.setattr(attention, "packed_error", trial)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    choose = attention.choose_way
    for module in (execution, reasoner):
        monkeypatch.setattr(module, "choose_way", lambda _, dtype, size: choose(GPU, dtype, size))
    monkeypatch.setattr(execution, "choose_fused", lambda *_: False)
    monkeypatch.setattr(forward, "enable_compiler", lambda _: False)  # which is for CPUs
    monkeypatch.setattr(trainer_module, "MIN_COMPILE_STEPS", 0)
    seconds = iter((0.9, 0.4))  # of a step, eager and compiled
    monkeypatch.setattr(trainer_module, "gather", lambda _, mine: [mine if isinstance(mine, bool) else next(seconds)])
    device_limits._known.clear()
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()
    device_limits._known.clear()


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_run_that_the_notebook_starts_is_packed_and_compiled(
    tmp_path: Path, traced: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    source = write_kaggle(tmp_path / "input", tiny_source(2, 4, "test"), "test", with_solutions=False)
    tasks = load_source(source).tasks
    overrides = (*TINY, "train.execution=auto", "model.convolution=0", "train.steps=4", f"train.precision={precision}")
    settings = KaggleSettings("me", "arc-prize", overrides=overrides)
    assert {PRESETS[name].train.execution for name in (settings.preset, "charm-arc1", "charm-arc2")} == {"auto"}
    log = Log(tmp_path / "log")
    plan = Plan(settings, time.monotonic(), tmp_path, tmp_path, tmp_path, tmp_path / "input", True, list(tasks), log, ("H100",))
    command = make_command(plan, Setup(gpus=1, overrides=True), [source], tmp_path / "out")
    mix, packed = packed_on_cpu._mix, set()

    def noted(*given: Any) -> Tensor:
        packed.add("prediction" if torch.is_inference_mode_enabled() else "training")
        return mix(*given)

    monkeypatch.setattr(packed_on_cpu, "_mix", noted)
    assert main(command[command.index("run") :]) == 0
    assert traced.frame_count == 2  # with gradient, and without
    assert packed == {"training", "prediction"}
    assert device_limits.fallbacks == []
    check_submission(tmp_path / "out" / "submission.json", tasks)
