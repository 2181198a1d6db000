"""Compiled and eager training come to the same; shapes are constant; no step waits for its results."""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.compiler import is_compiling as compiling

from pipeline.cli.main import main
from pipeline.config import Config
from pipeline.device_limits import fallbacks
from pipeline.models import reasoner
from pipeline.models.layout import PACKED, Room, make_layout
from pipeline.models.reasoner import Block
from pipeline.system.time_limit import NO_LIMIT
from pipeline.training import execution
from pipeline.training import trainer as trainer_module
from pipeline.training.carry import empty_carry, next_batch
from pipeline.training.communication import AsyncCopy, Collectives
from pipeline.training.execution import JOINED, Execution, make_room
from pipeline.training.gradients import Gradients
from pipeline.training.trainer import Trainer
from tests.pipeline.packed_on_cpu import register_kernels
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset
from tests.pipeline.trainers import (
    SYSTEMS,
    assert_equal_runs,
    assert_same_samples,
    assert_same_step,
    assert_same_training,
    finish_ranks,
    make_trainer,
    metrics,
    second_step,
    start_ranks,
    train_command,
)

URM = ("model.kind=urm", "model.convolution=2", "model.convolution_axes=1d", "memory.kind=table")
COMPILED = SYSTEMS | {"trm": ("model.positions=1d",), "published urm": URM}
BASE = ("train.steps=5", "train.packs=2", "train.log_steps=1", "train.exploration=0.3")


def config_of(system: str, *settings: str) -> Config:
    return tiny_config(*BASE, *COMPILED[system], *settings)


@pytest.fixture(autouse=True)
def whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is taken for a GPU in this: whole blocks are compiled, not parts of them."""
    monkeypatch.setattr(execution, "compiles_any_shape", lambda _: False)


@pytest.fixture
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """A machine with packed attention, and a compiler that counts how often it has to trace; only some trace backward, too."""
    counter = CompileCounterWithBackend(getattr(request, "param", "eager"))
    compile_block = Block.compile
    monkeypatch.setattr(Block, "compile", lambda block, **settings: compile_block(block, backend=counter, **settings))
    monkeypatch.setattr(execution, "choose_way", lambda *_: "packed")
    register_kernels()
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole training of the TRM, computed eagerly."""
    folder = tmp_path_factory.mktemp("eager")
    make_trainer(config_of("trm"), folder).fit(NO_LIMIT)
    return folder


@pytest.mark.parametrize(
    ("compiler", "system", "way"),
    [
        *(pytest.param("inductor", "trm", way, marks=pytest.mark.fake_gpu) for way in PACKED),  # needs a C++ compiler
        *(("aot_eager_default_partitioner", system, "packed") for system in ("hrm", "urm", "published urm")),
    ],
    indirect=["compiler"],
)
def test_compiled_blocks_compute_what_eager_ones_do(
    tmp_path: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch, system: str, way: str
) -> None:
    monkeypatch.setattr(execution, "choose_way", lambda *_: way)
    trainer = make_trainer(config_of(system), tmp_path)
    for _ in range(2):
        trainer._step(0.0)
    assert sum(len(carry) for carry in trainer.state.carries.values()) > 2  # there are carried and new sequences
    expected = second_step(trainer, trainer.gradients)
    state, config = trainer.state, config_of(system, "train.execution=compiled")
    other = Execution(state.network, state.maker, config, state.accelerator, torch.float32)
    gradients = replace(trainer.gradients, execution=other)
    assert compiler.frame_count == 0
    for _ in range(2):
        assert_same_step(expected, second_step(trainer, gradients))
    assert 1 <= compiler.frame_count <= 2 * 2  # with and without gradient, of one network or of HRM's two


@pytest.mark.parametrize("pieces", [1, 3, JOINED])
def test_trainings_in_rooms_are_the_same_in_any_number_of_pieces_and_compile_once(
    tmp_path: Path, eager: Path, compiler: CompileCounterWithBackend, pieces: int
) -> None:
    trainer = make_trainer(config_of("trm", "train.execution=compiled"), tmp_path)
    trainer.pieces = pieces
    trainer.fit(NO_LIMIT)
    assert compiler.frame_count == 2
    assert_same_training(eager, tmp_path)


@pytest.mark.parametrize(
    ("left", "times", "kind", "frames"),
    [
        (300.0, (0.9, 0.4), "compiled", 2),
        (300.0, (0.4, 0.9), "eager", 2),
        (300.0, (2.0, 0.4), "eager", 0),  # no time for 200 steps
        (200.0, (0.9, 0.4), "eager", 0),
    ],
    ids=["faster", "slower", "few-steps", "short"],
)
def test_auto_is_compiled_where_a_trial_is_faster_and_the_run_long_enough(
    tmp_path: Path, eager: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch,
    left: float, times: tuple[float, float], kind: str, frames: int,
) -> None:  # fmt: skip
    trainer = automatic_trainer(tmp_path, monkeypatch)
    found = iter(times)  # of the slowest process: eager, then compiled
    monkeypatch.setattr(trainer_module, "gather", lambda _, mine: [mine] if isinstance(mine, bool) else [0.0, next(found)])
    trainer._try_execution(left)
    assert trainer.gradients.execution.kind == kind
    trainer.fit(NO_LIMIT)
    assert compiler.frame_count == frames
    assert_same_training(eager, tmp_path)


def automatic_trainer(out: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A trainer whose execution takes the CPU, where `auto` is eager, for a GPU."""
    config = config_of("trm", "train.execution=auto")
    trainer = make_trainer(config, out)
    assert trainer.gradients.execution.kind == "eager"
    state, gpu = trainer.state, SimpleNamespace(device=torch.device("cuda:0"), num_processes=1)
    monkeypatch.setattr(execution, "choose_fused", lambda *_: False)
    automatic = Execution(state.network, state.maker, config, cast(Any, gpu), state.dtype)
    trainer.gradients = replace(trainer.gradients, execution=automatic)
    return trainer


def test_auto_goes_on_eagerly_where_compiled_code_runs_out_of_memory(
    tmp_path: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = automatic_trainer(tmp_path, monkeypatch)
    trainer.pieces = JOINED
    run = Execution.run

    def scarce(self: Execution, *given: Any) -> Any:
        if self.kind == "compiled":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, *given)

    monkeypatch.setattr(Execution, "run", scarce)
    trainer._try_execution(300.0)
    assert (trainer.gradients.execution.kind, trainer.pieces, trainer.memory_retries) == ("eager", JOINED, 0)


def run_rank_that_may_not_compile(environment: dict[str, str], command: list[str]) -> None:
    """Run one process of a launch, on a CPU that is taken for a GPU; the second one's compiled backward pass fails."""
    compile_block, init = Block.compile, Execution.__init__

    def broken(*_: object) -> Any:
        raise RuntimeError("an illegal kernel")

    def on_a_gpu(self: Execution, network: Any, maker: Any, config: Config, accelerator: Any, dtype: torch.dtype) -> None:
        gpu = SimpleNamespace(device=torch.device("cuda:0"), num_processes=accelerator.num_processes)
        init(self, network, maker, config, cast(Any, gpu), dtype)

    patch = pytest.MonkeyPatch()
    backward_fails = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph), bw_compiler=lambda *_: broken)
    backend = backward_fails if environment["RANK"] == "1" else "eager"
    patch.setattr(Collectives, "waits", property(lambda _: False, lambda *_: None), raising=False)
    patch.setattr(Block, "compile", lambda block, **settings: compile_block(block, backend=backend, **settings))
    patch.setattr(Execution, "__init__", on_a_gpu)
    patch.setattr(execution, "choose_way", lambda *_: "packed")
    register_kernels()
    patch.setattr(execution, "choose_fused", lambda *_: False)
    patch.setattr(trainer_module, "MIN_COMPILE_SECONDS", 0.0)
    patch.setattr(trainer_module, "MIN_COMPILE_STEPS", 0)
    os.environ |= environment
    code = main(command)
    sys.exit(code or int(any("an illegal kernel" in each for each in fallbacks) != (environment["RANK"] == "1")))


def test_two_processes_that_wait_for_nothing_decide_alike_where_one_fails_in_backward(tmp_path: Path) -> None:
    tiny_dataset().save(tmp_path / "data")
    settings = ("train.steps=4", "train.packs=2", "train.log_steps=1", "optimizer.kind=adamw")
    command = train_command(tmp_path / "data", tmp_path / "auto", *settings, "train.execution=auto")
    ranks = start_ranks(command, run_rank_that_may_not_compile)
    assert main(train_command(tmp_path / "data", tmp_path / "eager", *settings)) == 0
    finish_ranks(ranks)
    assert_same_samples(tmp_path / "eager", tmp_path / "auto", steps=4)


def test_weights_that_are_cast_compile_nothing_again(tmp_path: Path, compiler: CompileCounterWithBackend) -> None:
    config = config_of("trm", "train.execution=compiled", "train.precision=bfloat16")
    make_trainer(config, tmp_path).fit(NO_LIMIT)
    assert compiler.frame_count == 2  # without gradients, and with them


def test_a_pack_that_its_room_does_not_hold_is_computed_eagerly(
    tmp_path: Path, eager: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "SPARE_SEQUENCES", 0.01)
    make_trainer(config_of("trm", "train.execution=compiled"), tmp_path).fit(NO_LIMIT)
    assert compiler.frame_count == 0
    assert_equal_runs(eager, tmp_path)


ALIKE = {
    "puzzles": (),
    "convolution": ("model.kind=urm", "model.convolution=3"),
    "mixer": ("model.mixing=mixer", "model.positions=none", "model.canvas_side=4", "model.expansion=1"),
}


@pytest.mark.parametrize(("system", "way"), [("puzzles", "fused"), ("convolution", "fused"), ("mixer", "fused")])
def test_canvases_that_are_all_alike_fill_their_room_in_any_way_of_attention(
    tmp_path: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch, system: str, way: str
) -> None:
    monkeypatch.setattr(execution, "choose_way", lambda *_: way)
    monkeypatch.setattr(
        reasoner, "choose_way", lambda *_: pytest.fail("asked while it is compiled") if compiling() else "fused"
    )
    settings = ("train.steps=3", "train.log_steps=1", *ALIKE[system])
    make_trainer(tiny_config(*settings), tmp_path / "eager", tiny_puzzle_dataset()).fit(NO_LIMIT)
    trainer = make_trainer(tiny_config("train.execution=compiled", *settings), tmp_path / "compiled", tiny_puzzle_dataset())
    trainer.fit(NO_LIMIT)
    assert trainer.gradients.execution.kind == "compiled"
    assert compiler.frame_count == 2
    names = ("loss", "halting_loss", "exact")
    assert metrics(tmp_path / "compiled", *names) == [
        pytest.approx(line, abs=2e-4) for line in metrics(tmp_path / "eager", *names)
    ]


@torch._dynamo.config.patch(recompile_limit=2)
def test_puzzles_of_several_sizes_of_packs_are_compiled_for_each(
    tmp_path: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pieces double when memory runs out; what takes long and comes once is not taken for the time of a step."""
    monkeypatch.setattr(execution, "choose_way", lambda *_: "fused")
    config = tiny_config("train.execution=compiled", "train.pack_tokens=400")
    trainer = make_trainer(config, tmp_path, tiny_puzzle_dataset())
    compiled = trainer.gradients.execution
    for pieces in (1, 4, 23):
        trainer.pieces = pieces
        before, shapes = compiler.frame_count, len(compiled.shapes)
        trainer._step(0.0)
        assert (len(compiled.shapes) > shapes) == (compiler.frame_count > before)
    assert compiler.frame_count > 4
    assert compiled.kind == "compiled"


def test_without_constant_shapes_the_log_says_that_training_is_eager(
    tmp_path: Path, eager: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    make_trainer(config_of("trm", "train.execution=compiled"), tmp_path).fit(NO_LIMIT)  # a CPU in float32
    assert "train.execution=compiled: no constant shapes, attention goes shape by shape; eager" in caplog.text
    assert_equal_runs(eager, tmp_path)
    monkeypatch.setattr(Gradients, "compute", lambda *_, **__: pytest.fail("auto has nothing to compare"))
    automatic_trainer(tmp_path / "auto", monkeypatch)._try_execution(300.0)


def test_a_compiler_that_fails_leaves_training_eager_and_equal(
    tmp_path: Path,
    eager: Path,
    compiler: CompileCounterWithBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    def broken(*_: object) -> Any:
        raise FileNotFoundError("no C compiler")

    compile_block = torch.nn.Module.compile
    monkeypatch.setattr(Block, "compile", lambda block, **settings: compile_block(block, backend=broken, **settings))
    make_trainer(config_of("trm", "train.execution=compiled"), tmp_path).fit(NO_LIMIT)
    assert caplog.text.count("does not run here, eager from now on") == 1
    assert "no C compiler" in caplog.text
    assert_equal_runs(eager, tmp_path)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=9, unique=True), st.integers(1, 3),
       st.integers(0, 60), st.integers(0, 9))  # fmt: skip
def test_a_room_is_filled_up_to_constant_shapes(shapes: list[tuple[int, int]], memory: int, cells: int, places: int) -> None:
    sizes = torch.tensor(shapes)
    used = int(sizes.prod(1).sum())
    room = Room(used + cells, len(shapes) + places, 25 + memory, memory, "packed", False)
    if not room.holds(used, len(shapes)):
        assert cells > 25 * places
        with pytest.raises(ValueError, match="do not go into"):
            make_layout(sizes, torch.zeros_like(sizes), memory, room=room)
        return
    plain, laid = (make_layout(sizes, torch.zeros_like(sizes), memory, room=each) for each in (None, room))
    assert (laid.tokens, laid.sequences, len(laid.cells)) == (room.tokens, room.sequences, room.cells)
    assert int(laid.bounds.diff().max()) <= laid.longest == room.longest
    for name in ("sequence", "row", "column", "cells", "memory", "first"):
        own = getattr(plain, name)
        assert torch.equal(getattr(laid, name)[: len(own)], own)


@pytest.mark.parametrize(("pieces", "packs"), [(1, 1), (JOINED, 4)])
def test_rooms_hold_nearly_every_pack_with_little_to_spare(tmp_path: Path, pieces: int, packs: int) -> None:
    trainer = make_trainer(config_of("trm", "train.pack_tokens=2000"), tmp_path)
    state = trainer.state
    room = make_room(state.maker, state.config, pieces, "packed", packs=packs)
    sizes = []
    for step in range(200):
        drawn = [next_batch(empty_carry(), state.maker, state.config.train, step, pack).samples for pack in range(packs)]
        sizes.append((sum(len(state.maker.make(samples).inputs) for samples in drawn), sum(map(len, drawn))))
    assert np.mean([room.holds(*size) for size in sizes]) > 0.98
    assert room.tokens < 1.1 * np.mean([sum(size) for size in sizes])
    if packs > 1:  # they do not all exceed their size by the longest sequence
        assert room.cells < packs * make_room(state.maker, state.config, 1, "packed").cells


def test_joined_packs_of_several_segments_go_into_their_room_too(
    tmp_path: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = ("train.segments=6", "train.pack_tokens=400", "train.steps=40")
    trainer = make_trainer(config_of("trm", "train.execution=compiled", *segments), tmp_path)
    trainer.pieces = JOINED
    rooms, room = [], Execution.room
    monkeypatch.setattr(Execution, "room", lambda *given: (rooms.append(room(*given)), rooms[-1])[1])
    trainer.fit(NO_LIMIT)
    assert max(line[0] for line in metrics(tmp_path, "segments")) > 1.5
    assert np.mean([each is not None for each in rooms]) > 0.95


@pytest.mark.parametrize("system", COMPILED)
def test_what_a_step_reads_is_of_the_step_before_but_for_what_halts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """So that no step waits for its own results; tests/fake_gpu looks for every other wait."""
    trainer = make_trainer(config_of(system), tmp_path)
    trainer.state.collectives.waits = False
    now, born, taken = [0], {}, []
    make, wait = AsyncCopy.__init__, AsyncCopy.wait
    monkeypatch.setattr(AsyncCopy, "__init__", lambda self, tensor: (born.__setitem__(id(self), now[0]), make(self, tensor))[1])

    def note(copy: AsyncCopy) -> Tensor:
        if sys._getframe(1).f_code.co_name != "halt_packs":
            taken.append(now[0] - born[id(copy)])
        return wait(copy)

    monkeypatch.setattr(AsyncCopy, "wait", note)
    kept = []  # so that no two copies have one id
    for step in range(4):
        now[0] = step
        trainer._step(0.5)
        kept.append((trainer.pending, trainer.state.carries))
    assert min(taken) == 1


def test_a_step_that_is_looked_at_later_comes_to_the_same(tmp_path: Path) -> None:
    make_trainer(config_of("table"), tmp_path / "at once").fit(NO_LIMIT)
    trainer = make_trainer(config_of("table"), tmp_path / "later")
    trainer.state.collectives.waits = False
    trainer.fit(NO_LIMIT)
    assert_equal_runs(tmp_path / "at once", tmp_path / "later")


def test_a_loss_that_is_not_finite_is_found_a_step_later_and_never_written(tmp_path: Path) -> None:
    trainer = make_trainer(config_of("trm", "train.log_steps=100"), tmp_path)
    trainer.state.collectives.waits = False
    trainer._step(0.0)
    trainer.save()
    with torch.no_grad():
        trainer.state.network.reasoner.embedding.fill_(float("nan"))
    trainer._step(0.0)
    with pytest.raises(FloatingPointError, match="step 1: the loss is not finite; among the tasks"):
        trainer._step(0.0)
    with pytest.raises(FloatingPointError):
        trainer.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
