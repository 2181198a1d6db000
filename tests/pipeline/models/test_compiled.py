"""Blocks compiled for a CPU compute what they do eagerly, and are given up where they cannot be compiled."""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import device_limits
from pipeline.inference.forward import InferenceRunner
from pipeline.models import compiled
from pipeline.models.compiled import compiled_on_cpu, enable_compiler, is_enabled, time_to_compile
from pipeline.models.config import ReasonerConfig
from pipeline.models.layers import _ConvolveGrids, convolve_rows
from pipeline.models.layout import make_layout
from pipeline.models.length_classes import _attend, _attend_and_keep, classes_of
from pipeline.models.reasoner import Block
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.training import execution
from pipeline.training.execution import JOINED
from tests.pipeline.tiny import tiny_config
from tests.pipeline.trainers import SYSTEMS, assert_same_training, make_trainer

STEPS = ("train.steps=5", "train.packs=2", "train.log_steps=1", "train.exploration=0.3")
CONVOLUTION = (
    "model.kind=urm",
    "model.convolution=3",
    "model.gate=normed-sigmoid",
    "model.positions=2d",
    "model.attention_norm=rms",
)


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has compiled nothing yet; what it finds out is forgotten afterwards."""
    monkeypatch.setattr(compiled, "_failed", False)
    forget = compiled._compile.cache_clear
    device_limits._known.clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    enable_compiler(False)
    forget()
    device_limits._known.clear()
    torch._dynamo.reset()


def always(_: Any = None) -> float:
    """A trial that always succeeds."""
    return 0.0


@pytest.mark.fake_gpu  # needs a C++ compiler
@pytest.mark.parametrize("system", ["trm", "convolution", "sequences"])
def test_compiled_blocks_train_to_what_eager_ones_do(tmp_path: Path, system: str) -> None:
    others = {"convolution": CONVOLUTION, "sequences": (*CONVOLUTION, "model.convolution_axes=1d")}
    settings = (*STEPS, *others.get(system, SYSTEMS["trm"]))
    make_trainer(tiny_config(*settings), tmp_path / "eager").fit(NO_LIMIT)
    assert not is_enabled()
    trainer = make_trainer(tiny_config(*settings, "train.execution=compiled"), tmp_path / "compiled")
    assert not is_enabled()  # before the first step, everything is as it was
    before = len(device_limits.fallbacks)
    trainer.fit(NO_LIMIT)
    assert is_enabled()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 7  # once for packs of any size, not for each of ten
    assert device_limits.fallbacks[before:] == []
    assert trainer.pieces == JOINED
    assert_same_training(tmp_path / "eager", tmp_path / "compiled")


@pytest.mark.fake_gpu  # needs a C++ compiler
def test_a_compiled_block_with_a_mixer_is_the_same_and_refuses_sequences_of_another_length() -> None:
    config = ReasonerConfig(hidden_size=16, mixing="mixer", canvas_side=4, expansion=1.0, positions="none", inner_multiple=16)
    block = Block(config, 1, torch.Generator().manual_seed(0))

    def compute(side: int, count: int) -> tuple[Tensor, ...]:
        shapes = torch.full((count, 2), side)
        layout = make_layout(shapes, torch.zeros_like(shapes), 1)
        x = torch.randn(layout.tokens, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = block(x, layout, None)
        return out.detach(), *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))

    eager = [compute(4, count) for count in (3, 5)]
    assert enable_compiler()
    for expected, found in zip(eager, [compute(4, count) for count in (3, 5)], strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="is made for sequences of 17 tokens, got one of 10"):
        compute(3, 2)


@pytest.mark.parametrize(
    ("kind", "left", "used"),
    [
        *(("auto", 300.0, True), ("auto", 200.0, False), ("eager", 900.0, False)),
        *(("compiled", math.inf, True), ("compiled", 100.0, True), ("compiled", 80.0, False)),
    ],
)
def test_auto_compiles_where_enough_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, left: float, used: bool
) -> None:
    monkeypatch.setattr(compiled, "trial_error", always)
    trainer = make_trainer(tiny_config(*STEPS, f"train.execution={kind}"), tmp_path)
    trainer.gradients.execution.compile_any_shape(left)
    assert is_enabled() == used
    assert trainer.gradients.execution.kind == ("compiled" if used else "eager")


@pytest.mark.parametrize(("kind", "left", "used"), [("auto", 300.0, True), ("auto", 200.0, False), ("eager", 900.0, False)])
def test_prediction_compiles_as_training_did_where_enough_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, left: float, used: bool
) -> None:
    monkeypatch.setattr(compiled, "trial_error", always)
    trainer = make_trainer(tiny_config(*STEPS), tmp_path)
    state = trainer.state
    asked: list[bool] = []
    forward = InferenceRunner.forward
    monkeypatch.setattr(InferenceRunner, "forward", lambda *given: (asked.append(is_enabled()), forward(*given))[1])
    runner = InferenceRunner(
        torch.device("cpu"), torch.float32, state.network, state.maker, tiny_config().predict, execution=kind
    )
    budget, samples = Budget(left, time.monotonic()), state.maker.plain()
    assert list(runner.predict(samples[:0], budget)) == []  # a process may have no share
    monkeypatch.setattr(compiled, "_compile", lambda function: function)
    speeds = [runner.tokens_per_second for _ in runner.predict(samples, budget)]
    assert asked == [used] * len(speeds)
    assert is_enabled() == used
    assert (speeds[0] is None) == used  # the pack that compiled says nothing about the next ones
    assert speeds[-1] is not None


@pytest.mark.parametrize("where", ["the way there", "the gradient"])
def test_what_cannot_be_compiled_is_computed_eagerly_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    caplog.set_level(logging.WARNING)
    settings = (*STEPS, *CONVOLUTION)
    make_trainer(tiny_config(*settings), tmp_path / "eager").fit(NO_LIMIT)

    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_: Any, gradient: Tensor) -> Tensor:
            raise torch._dynamo.exc.BackendCompilerFailed(always, RuntimeError("no space left"), None)

    def broken(function: Any, **_: Any) -> Any:
        def call(*given: Any) -> Any:
            if where == "the way there":
                raise torch._dynamo.exc.BackendCompilerFailed(always, RuntimeError("no space left"), None)
            made = function(*given)
            return tuple(map(NoGradient.apply, made)) if isinstance(made, tuple) else NoGradient.apply(made)

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiled, "trial_error", always)
    compiled._compile.cache_clear()
    trainer = make_trainer(tiny_config(*settings, "train.execution=compiled"), tmp_path / "compiled")
    trainer.fit(NO_LIMIT)
    assert not is_enabled()
    assert not enable_compiler()
    assert "no space left" in caplog.text
    assert_same_training(tmp_path / "eager", tmp_path / "compiled")


@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_convolution_row_by_row_is_that_on_images(side: int) -> None:
    shapes = torch.tensor([[1, 2], [3, 3], [3, 3], [9, 8]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(layout.tokens, 6, generator=generator).requires_grad_()
    weight = torch.randn(6, 1, side, side, generator=generator).requires_grad_()
    wanted = torch.randn(layout.tokens, 6, generator=generator)
    images = _ConvolveGrids.apply(x, weight, layout)
    rows = convolve_rows(x, weight.flatten(1).T.contiguous(), *layout.neighbors(side))
    torch.testing.assert_close(rows, images)
    for one, other in zip(*(torch.autograd.grad(way, (x, weight), wanted) for way in (rows, images)), strict=True):
        torch.testing.assert_close(one, other)


def test_operations_tell_a_compiler_what_they_return_and_their_gradients() -> None:
    shapes = torch.tensor([[1, 2], [3, 3], [3, 3], [9, 8]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 2)
    heads = torch.randn(layout.tokens, 6, 4, requires_grad=True)
    classes = list(classes_of(layout, 2))
    torch.library.opcheck(_attend_and_keep, (heads, classes))
    torch.library.opcheck(_attend, (heads.detach(), classes))
    x, weight = (torch.randn(rows, 6, requires_grad=True) for rows in (layout.tokens, 9))
    torch.library.opcheck(convolve_rows, (x, weight, *layout.neighbors(3)))


def test_a_marked_function_is_itself_until_the_compiler_is_enabled() -> None:
    @compiled_on_cpu
    def double(x: Tensor) -> Tensor:
        """Twice x."""
        return 2 * x

    assert double.__doc__ == "Twice x."
    assert not is_enabled()
    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))


def test_blocks_are_compiled_for_any_shape_on_a_cpu() -> None:
    assert execution.compiles_any_shape(torch.device("cpu"))
    assert not execution.compiles_any_shape(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("setting", "left", "compiles"),
    [
        ("eager", math.inf, False),
        ("auto", 239, False),
        ("auto", 241, True),
        ("auto", math.inf, True),
        ("compiled", 89, False),
        ("compiled", 91, True),
        ("compiled", math.inf, True),
    ],
)
def test_code_is_compiled_only_with_time_for_it(
    setting: str, left: float, compiles: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert time_to_compile(setting, left) is compiles
    told = "train.execution=compiled: no time to compile with 89 s left, eager"
    assert (told in caplog.text) is (setting == "compiled" and not compiles)
