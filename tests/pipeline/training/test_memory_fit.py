"""Memory: packs are cut into the least power of two that fits, by trial steps as large as any that follows, without a trace;
and steps that do not fit are repeated in more pieces, or given up with what to change."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import pipeline.training.trainer
from pipeline import device_limits
from pipeline.device_limits import OutOfMemory
from pipeline.system.time_limit import NO_LIMIT
from pipeline.training import memory_fit
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.execution import JOINED
from pipeline.training.memory_fit import CudaMemory, least_pieces
from pipeline.training.trainer import Trainer
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset
from tests.pipeline.trainers import assert_equal_runs, make_trainer

CPU = torch.device("cpu")
ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError,
}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes long among the objects of a test session."""
    monkeypatch.setattr(device_limits.gc, "collect", lambda: 0)


class Device:
    """Memory of 100 bytes, and a trial that needs `needed(pieces)` of it."""

    total_bytes = 100

    def __init__(self, needed: Callable[[int], float], error: Callable[[], Exception] = ERRORS["cuda"]) -> None:
        self.needed, self.error = needed, error
        self.tried: list[int] = []
        self.peak = 1000

    def reset(self) -> None:
        self.peak = 0

    def peak_bytes(self) -> int:
        return self.peak

    def trial(self, pieces: int) -> None:
        self.tried.append(pieces)
        self.peak = max(self.peak, min(100, int(self.needed(pieces))))
        if self.needed(pieces) > 100:
            raise self.error()


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(
    ("activations", "tried"),
    [(70, [1]), (71, [1, 2]), (140, [1, 2]), (142, [1, 2, 4]), (800, [1, 2, 4, 8, 16]), (1120, [1, 2, 4, 8, 16])],
)
def test_the_least_power_of_two_under_ninety_percent_is_taken(
    activations: int, tried: list[int], error: Callable[[], Exception]
) -> None:
    memory = Device(lambda pieces: 20 + activations / pieces, error)
    assert least_pieces(memory.trial, memory, CPU, most=1000) == tried[-1]
    assert memory.tried == tried


def test_a_trial_that_fits_tightly_is_taken_when_the_pieces_cannot_be_smaller() -> None:
    memory = Device(lambda pieces: 80 + 60 / pieces)
    assert least_pieces(memory.trial, memory, CPU, most=5) == 5
    assert memory.tried == [1, 2, 4, 5]


def test_a_single_sequence_that_does_not_fit_is_an_error_that_says_what_to_change() -> None:
    memory = Device(lambda pieces: 110)
    with pytest.raises(OutOfMemory, match=r"^out of memory with a single sequence in each micro-batch: .*train\.pack_tokens"):
        least_pieces(memory.trial, memory, CPU, most=3)
    assert memory.tried == [1, 2, 3]


def test_the_peak_of_a_cuda_device_counts_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    resets = []
    figures = {"mem_get_info": (30, 100), "memory_reserved": 60, "max_memory_allocated": 45}
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    memory = CudaMemory(torch.device("cuda:1"))
    memory.reset()
    assert resets == [torch.device("cuda:1")]
    assert memory.total_bytes == 100
    assert memory.peak_bytes() == 45 + (100 - 30 - 60)


class Memory:
    """Memory that a network runs out of with more than `fitting` tokens, or in the calls that `fails` names, from 0.

    With `backward` it does so in the backward pass.
    """

    total_bytes = 100

    def __init__(
        self,
        trainer: Trainer,
        fitting: int = 10**9,
        fails: Callable[[int], bool] = lambda call: False,
        error: Callable[[], Exception] = ERRORS["cuda"],
        backward: bool = False,
    ) -> None:
        self.model, self.fitting, self.fails, self.error, self.backward = trainer.model, fitting, fails, error, backward
        self.tokens: list[int] = []
        trainer.gradients = replace(trainer.gradients, model=self)

    def __call__(self, state: Any, batch: Any, *depth: Any) -> Any:
        self.tokens.append(batch.layout.tokens)
        fails = self.tokens[-1] > self.fitting or self.fails(len(self.tokens) - 1)
        if fails and not self.backward:
            raise self.error()
        segment = self.model(state, batch, *depth)
        if fails:
            segment.logits.register_hook(self.fail)
        return segment

    def fail(self, gradient: torch.Tensor) -> None:
        raise self.error()

    def reset(self) -> None:
        self.tokens.clear()

    def peak_bytes(self) -> int:
        return 50


HRM = ("memory.kind=table", "model.kind=hrm", "train.halting=q-learning")


@pytest.mark.parametrize(
    ("system", "puzzles", "resumed"),
    [
        (("memory.residual=3", "optimizer.kind=muon"), False, False),
        ((*HRM, "optimizer.ema=0"), False, True),
        (("train.segments=1",), True, True),  # of one size
    ],
)
def test_a_run_after_a_trial_is_as_without(tmp_path: Path, system: tuple[str, ...], puzzles: bool, resumed: bool) -> None:
    config = tiny_config("train.packs=2", "train.steps=4", "train.checkpoint_steps=2", "train.log_steps=2", *system)
    dataset = tiny_puzzle_dataset() if puzzles else tiny_dataset()
    make_trainer(config, tmp_path / "without", dataset).fit(NO_LIMIT)
    if resumed:
        half = replace(config, train=replace(config.train, steps=2))
        make_trainer(half, tmp_path / "with", dataset).fit(NO_LIMIT)
    trainer = make_trainer(config, tmp_path / "with", dataset)
    assert load_checkpoint(trainer.state) == resumed
    random = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in trainer.state.network.state_dict().items()}
    rates = [group["lr"] for group in trainer.state.optimizer.param_groups]
    model = trainer.gradients
    memory = Memory(trainer, fitting=80)
    assert trainer.measure_pieces(memory) > 1
    assert memory.tokens
    trainer.gradients = model
    assert torch.equal(torch.get_rng_state(), random)
    assert not [name for name, tensor in trainer.state.network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert all(parameter.grad is None for parameter in trainer.state.network.parameters())
    assert [group["lr"] for group in trainer.state.optimizer.param_groups] == rates
    assert bool(trainer.state.optimizer.states()) == resumed
    trainer.fit(NO_LIMIT)
    assert_equal_runs(tmp_path / "without", tmp_path / "with")


def test_a_trial_computes_packs_as_large_as_any_of_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=20", "train.pack_tokens=100", "train.exploration=0.5"), tmp_path)
    memory = Memory(trainer)
    assert trainer.measure_pieces(memory) == 1
    most = max(memory.tokens)
    assert len(memory.tokens) == 2  # as drawn, and the longest sequence again and again
    memory.reset()
    trainer.fit(NO_LIMIT)
    assert len(memory.tokens) == 20
    assert most >= max(memory.tokens)
    longest = int(trainer.state.maker.tokens(trainer.state.maker.plain()).max())
    assert 99 + longest <= most < 100 + 2 * longest


def test_a_trial_without_room_for_one_sequence_is_an_error_and_leaves_no_trace_either(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(), tmp_path)
    with pytest.raises(OutOfMemory, match="a single sequence in each micro-batch"):
        trainer.measure_pieces(Memory(trainer, fitting=1))
    assert not trainer.state.optimizer.states()
    assert all(parameter.grad is None for parameter in trainer.state.network.parameters())


def test_every_process_takes_the_pieces_of_the_one_with_least_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tiny_config(), tmp_path)
    monkeypatch.setattr(memory_fit, "gather", lambda accelerator, mine: [mine, 8])
    assert trainer.measure_pieces(Memory(trainer)) == 8


def test_packs_that_fit_together_are_one_and_memory_that_runs_out_parts_them(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.packs=3"), tmp_path)
    assert trainer.measure_pieces(Memory(trainer)) == JOINED
    whole = Memory(trainer, fitting=trainer.state.config.train.pack_tokens + 200)
    assert trainer.measure_pieces(whole) == 1
    trainer.pieces = JOINED
    trainer._cut_smaller(9, "out of memory")
    assert trainer.pieces == 1


def test_pieces_that_nobody_set_are_measured_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tiny_config("train.steps=4"), tmp_path)
    assert trainer.pieces == 1  # on a CPU nothing is measured
    memory = Memory(trainer, fitting=80)
    monkeypatch.setattr(pipeline.training.trainer, "CudaMemory", lambda device: memory)
    trainer.unmeasured = True
    trainer.fit(NO_LIMIT)
    assert trainer.pieces > 1
    assert trainer.memory_retries == 0
    assert trainer.state.progress.step == 4


@pytest.mark.parametrize(
    ("system", "error", "backward"),
    [
        (("memory.residual=3",), "cuda", True),
        (("memory.kind=table", "optimizer.kind=adamw"), "cpu", False),
        (HRM, "python", True),
    ],
)
def test_a_step_is_repeated_in_more_pieces_as_if_nothing_had_happened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, system: tuple[str, ...], error: str, backward: bool
) -> None:
    config = tiny_config("train.steps=4", "train.packs=2", "train.log_steps=1", "train.exploration=0.3", *system)
    scarce, warned = make_trainer(config, tmp_path / "scarce"), make_trainer(config, tmp_path / "warned")
    # two packs a step: the second pack of step 2 fails, and of its repetition in 2 pieces the third
    Memory(scarce, 10**9, lambda call: call in (5, 8), ERRORS[error], backward)
    step = warned._step

    def in_time(done: float) -> None:
        if warned.state.progress.step == 2:
            warned.pieces = 4
        step(done)

    warned._step = in_time  # type: ignore[method-assign]
    scarce.fit(NO_LIMIT)
    warned.fit(NO_LIMIT)
    assert_equal_runs(tmp_path / "scarce", tmp_path / "warned")
    assert (scarce.pieces, scarce.memory_retries) == (4, 2)
    said = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert [message.split("] ")[-1] for message in said] == [
        f"step 2: out of memory; it is repeated with {pieces} micro-batches to a pack" for pieces in (2, 4)
    ]


def test_a_failed_try_holds_no_memory_while_the_next_one_runs(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=1"), tmp_path)
    alive: list[Any] = []
    references: list[Any] = []
    memory = Memory(trainer, fails=lambda call: call == 0, backward=True)
    model = memory.model

    def watched(state: Any, batch: Any, *depth: Any) -> Any:
        alive.append([reference() is not None for reference in references])
        segment = model(state, batch, *depth)
        references.append(weakref.ref(segment.logits))
        return segment

    memory.model = watched  # type: ignore[assignment]
    trainer.fit(NO_LIMIT)
    assert alive == [[], [False], [False, False]]  # the failed try, and the two pieces of the next one


def test_training_is_given_up_when_every_piece_is_one_sequence(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=4", "train.checkpoint_steps=2"), tmp_path)
    Memory(trainer, fails=lambda call: call >= 3)
    with pytest.raises(
        OutOfMemory, match=r"^step 3: out of memory .* single sequence in each micro-batch; .*train\.pack_tokens"
    ):
        trainer.fit(NO_LIMIT)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert trainer.state.progress.step == 3


def test_another_error_is_no_want_of_memory(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=4"), tmp_path)
    memory = Memory(trainer, 10**9, lambda call: call == 1, lambda: RuntimeError("mat1 and mat2 do not fit"), backward=True)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.fit(NO_LIMIT)
    assert (len(memory.tokens), trainer.pieces, trainer.memory_retries) == (2, 1, 0)


def test_one_process_of_several_says_how_to_start_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tiny_config("train.pieces=3"), tmp_path)
    Memory(trainer, fitting=0)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    monkeypatch.setattr(Accelerator, "reduce", lambda self, tensor, how: tensor)
    with pytest.raises(OutOfMemory) as caught:
        trainer._step(0.0)
    message = "step 0: process 0 of 2 is out of memory with train.pieces=3; go on with --resume --set train.pieces=6"
    assert str(caught.value) == message
