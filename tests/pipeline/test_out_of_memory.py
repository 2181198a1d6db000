"""Steps that the memory is too small for: repeated in more pieces, or given up with what to change."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pipeline import device_limits
from pipeline.device_limits import OutOfMemory, ran_out_of_memory
from pipeline.training.trainer import Trainer
from tests.pipeline.tiny import tiny_config
from tests.pipeline.trainers import NO_LIMIT, assert_equal_runs, make_trainer, metrics

ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError,
}
SYSTEMS = {
    "residual": ("memory.residual=3",),
    "table": ("memory.kind=table", "optimizer.kind=adamw"),
    "hrm": ("memory.kind=table", "model.kind=hrm", "train.halting=q-learning"),
}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes long among the objects of a test session."""
    monkeypatch.setattr(device_limits.gc, "collect", lambda: 0)


class Scarce:
    """A network whose calls `fails` names, from 0, run out of memory: in the backward pass, or at once."""

    def __init__(self, trainer: Trainer, fails: Callable[[int], bool], error: Callable[[], Exception], backward: bool) -> None:
        self.model, self.fails, self.error, self.backward = trainer.model, fails, error, backward
        self.calls = 0
        trainer.gradients = replace(trainer.gradients, model=self)

    def __call__(self, state: Any, batch: Any) -> Any:
        self.calls += 1
        if not self.fails(self.calls - 1):
            return self.model(state, batch)
        if not self.backward:
            raise self.error()
        segment = self.model(state, batch)
        segment.logits.register_hook(self.fail)
        return segment

    def fail(self, gradient: torch.Tensor) -> None:
        raise self.error()


@pytest.mark.parametrize(
    ("system", "error", "backward"), [("residual", "cuda", True), ("table", "cpu", False), ("hrm", "python", True)]
)
def test_a_step_is_repeated_in_more_pieces_as_if_nothing_had_happened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, system: str, error: str, backward: bool
) -> None:
    config = tiny_config("train.steps=6", "train.packs=2", "train.log_steps=1", "train.exploration=0.3", *SYSTEMS[system])
    scarce, warned = make_trainer(config, tmp_path / "scarce"), make_trainer(config, tmp_path / "warned")
    # two packs a step: the second pack of step 2 fails, and of its repetition in 2 pieces the third
    Scarce(scarce, lambda call: call in (5, 8), ERRORS[error], backward)
    step = warned._step

    def in_time(done: float) -> None:
        if warned.state.progress.step == 2:
            warned.pieces = 4
        step(done)

    warned._step = in_time  # type: ignore[method-assign]
    scarce.fit(NO_LIMIT)
    warned.fit(NO_LIMIT)
    assert_equal_runs(tmp_path / "scarce", tmp_path / "warned")
    names = ("step", "loss", "exact", "segments")
    assert metrics(tmp_path / "scarce", *names) == metrics(tmp_path / "warned", *names)
    assert (scarce.pieces, scarce.memory_retries) == (4, 2)
    said = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert [message.split("] ")[-1] for message in said] == [
        f"step 2: out of memory; it is repeated with {pieces} pieces to a pack" for pieces in (2, 4)
    ]


def test_a_failed_try_holds_no_memory_while_the_next_one_runs(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=1"), tmp_path)
    alive: list[Any] = []
    scarce = Scarce(trainer, lambda call: call == 0, ERRORS["cuda"], backward=True)
    model = scarce.model

    def watched(state: Any, batch: Any) -> Any:
        alive.append([reference() is not None for reference in references])
        segment = model(state, batch)
        references.append(weakref.ref(segment.logits))
        return segment

    references: list[Any] = []
    scarce.model = watched
    trainer.fit(NO_LIMIT)
    assert alive == [[], [False], [False, False]]  # the failed try, and the two pieces of the next one


def test_training_is_given_up_when_every_piece_is_one_sequence(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=4", "train.checkpoint_steps=2"), tmp_path)
    Scarce(trainer, lambda call: call >= 3, ERRORS["cuda"], backward=False)
    with pytest.raises(OutOfMemory, match=r"^step 3: out of memory with a single sequence in each piece; .*train\.pack_tokens"):
        trainer.fit(NO_LIMIT)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert trainer.state.progress.step == 3


def test_another_error_is_no_want_of_memory(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=4"), tmp_path)
    scarce = Scarce(trainer, lambda call: call == 1, lambda: RuntimeError("mat1 and mat2 do not fit"), backward=True)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.fit(NO_LIMIT)
    assert (scarce.calls, trainer.pieces, trainer.memory_retries) == (2, 1, 0)


def test_one_process_of_several_says_how_to_start_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tiny_config("train.pieces=3"), tmp_path)
    Scarce(trainer, lambda call: True, ERRORS["cuda"], backward=False)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    monkeypatch.setattr(Accelerator, "reduce", lambda self, tensor, how: tensor)
    with pytest.raises(OutOfMemory) as caught:
        trainer._step(0.0)
    message = "step 0: process 0 of 2 is out of memory with train.pieces=3; go on with --resume --set train.pieces=6"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("no memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("unable to mmap 1964680 bytes from file <t.safetensors>: Cannot allocate memory (12)"), True),
        (RuntimeError("could not create a primitive"), True),
        (MemoryError(), True),
        (RuntimeError(("no", "text")), False),
        (RuntimeError(), False),
        (RuntimeError("could not create a network"), False),
        (ValueError(" out of memory."), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected
