"""Gradients of packs in pieces: those of whole packs, and so are the losses, the states that are carried and the weights."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipeline.config import Config
from pipeline.device import make_accelerator
from pipeline.models.network import make_network
from pipeline.system.time_limit import NO_LIMIT
from pipeline.training.carry import next_batch
from pipeline.training.communication import Collectives
from pipeline.training.execution import JOINED
from pipeline.training.metrics import read_metrics
from pipeline.training.trainer import Trainer
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.trainers import SYSTEMS, assert_same_step, assert_same_training, make_trainer, second_step

MIXER = ("model.mixing=mixer", "model.positions=none", "model.expansion=0.1", "train.canvas=full", "train.pack_tokens=3000")
BASE = ("train.steps=6", "train.packs=2", "train.log_steps=1", "train.exploration=0.3")


def config_of(system: str, *settings: str) -> Config:
    return tiny_config(*BASE, *(MIXER if system == "mixer" else SYSTEMS[system]), *settings)


@pytest.mark.parametrize("system", [*SYSTEMS, "mixer"])
def test_pieces_come_to_what_whole_packs_come_to(tmp_path: Path, system: str) -> None:
    trainer = make_trainer(config_of(system, "train.steps=1"), tmp_path)
    trainer.fit(NO_LIMIT)
    assert sum(len(carry) for carry in trainer.state.carries.values()) > 2  # the second step has carried and new sequences
    whole, gradients = second_step(trainer, trainer.gradients, 1)
    for pieces in (JOINED, 2, 3, 1000):
        parts, found = second_step(trainer, trainer.gradients, pieces)
        assert_same_step((whole, gradients), (parts, found), 1e-4 if system == "mixer" else 1e-5)
        assert len(parts.tasks) == 1 if pieces == JOINED else len(parts.tasks) > len(whole.tasks) == 2


def test_pieces_do_not_separate_the_latents_of_a_sample(tmp_path: Path) -> None:
    settings = ("train.latents=3", "train.segments=4", "train.halting=off", "train.pack_tokens=400")
    trainer = make_trainer(config_of("trm", "train.steps=2", *settings), tmp_path)
    trainer.fit(NO_LIMIT)
    carry = trainer.state.carries[0]
    answer, latent = carry.state
    lengths = trainer.state.maker.tokens(carry.samples) // 3
    assert len(carry) > 1 and len(answer) == 3 * lengths.sum()
    ends = 3 * lengths.cumsum()
    for length, end in zip(lengths, ends, strict=True):  # the winner's answer goes on in all three, each with its own latent
        parts = (
            answer[end - 3 * length : end].unflatten(0, (3, length)),
            latent[end - 3 * length : end].unflatten(0, (3, length)),
        )
        assert all(torch.equal(parts[0][0], parts[0][n]) and not torch.equal(parts[1][0], parts[1][n]) for n in (1, 2))
    whole, gradients = second_step(trainer, trainer.gradients, 1)
    for pieces in (JOINED, 2, 3, 1000):
        assert_same_step((whole, gradients), second_step(trainer, trainer.gradients, pieces), 1e-5)


@pytest.mark.parametrize("system", SYSTEMS)  # the random weights of a mixer blow up rounding
def test_weights_after_several_steps_do_not_depend_on_pieces(tmp_path: Path, system: str) -> None:
    for pieces in (1, 3, JOINED):
        trainer = make_trainer(config_of(system), tmp_path / str(pieces))
        trainer.pieces = pieces
        trainer.fit(NO_LIMIT)
        assert_same_training(tmp_path / "1", tmp_path / str(pieces))


def with_loss_scaling(out: Path, *settings: str, overflows: int = 1) -> Trainer:
    """A trainer whose losses are scaled as float16 needs it, and whose first backward passes overflow."""
    config, dataset = tiny_config(*BASE, "memory.kind=table", "optimizer.kind=adamw", *settings), tiny_dataset()
    accelerator, dtype = make_accelerator("float32")
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), 0)
    out.mkdir()
    passes = itertools.count()
    network.reasoner.embedding.register_hook(lambda gradient: gradient / 0 if next(passes) < overflows else gradient)
    return Trainer(accelerator, dtype, network, dataset, config, out)


def test_loss_scaling_works_with_pieces(tmp_path: Path) -> None:
    whole, pieces = with_loss_scaling(tmp_path / "whole"), with_loss_scaling(tmp_path / "pieces", "train.pieces=3")
    for trainer in (whole, pieces):
        trainer.fit(NO_LIMIT)
        assert trainer.state.accelerator.scaler.get_scale() == 512.0
        assert trainer.state.average.step == 5  # the step that overflowed was left out
    assert whole.state.network.memory.rows.any()
    expected = whole.state.network.state_dict()
    for name, tensor in pieces.state.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("log_steps", [1, 8])
@pytest.mark.parametrize("segments", [1, 3])
def test_a_loss_that_overflows_in_float16_leaves_its_step_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, log_steps: int, segments: int
) -> None:
    settings = ("train.steps=8", f"train.segments={segments}", f"train.log_steps={log_steps}", "train.halting=off")
    trainer = with_loss_scaling(tmp_path / "out", *settings, overflows=0)
    block, progress = trainer.state.network.reasoner.blocks[0], trainer.state.progress
    block.register_forward_hook(lambda _, __, x: x * float("inf") if progress.step == 3 else x)
    trainer.fit(NO_LIMIT)
    assert "step 3: the loss is not finite; among the tasks" in caplog.text
    assert trainer.state.average.step == 7
    assert trainer.state.accelerator.scaler.get_scale() == 1024.0, "it was not the scale"
    assert all(tensor.isfinite().all() for tensor in trainer.state.network.state_dict().values())
    losses = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "out" / "metrics.jsonl")}
    assert sorted(losses) == ([1, 2, 3, 5, 6, 7, 8] if log_steps == 1 else [8])
    assert all(map(math.isfinite, losses.values()))


def test_a_training_whose_losses_always_overflow_ends(tmp_path: Path) -> None:
    trainer = with_loss_scaling(tmp_path / "out", "train.steps=30", overflows=0)
    trainer.state.network.reasoner.head.register_forward_hook(lambda _, __, logits: logits * float("inf"))
    with pytest.raises(FloatingPointError, match="step 20: the loss is not finite; among the tasks"):
        trainer.fit(NO_LIMIT)


def test_a_gpu_whose_losses_are_scaled_waits_for_each_step() -> None:
    for device, scaler, waits in (("cuda", None, False), ("cuda", object(), True), ("cpu", None, True)):
        given = SimpleNamespace(device=torch.device(device), num_processes=1, scaler=scaler)
        assert Collectives(cast(Any, given)).waits is waits


def test_a_training_whose_gradients_overflow_at_any_loss_scale_ends(tmp_path: Path) -> None:
    trainer = with_loss_scaling(tmp_path / "out", "train.steps=30", overflows=1000)
    with pytest.raises(FloatingPointError, match="step 20: gradients overflow in float16"):  # 1024 / 2 ** 21 is below 2 ** -10
        trainer.fit(NO_LIMIT)


def test_a_loss_that_is_not_finite_names_the_tasks_of_its_micro_batch_only(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("memory.kind=table", "train.pieces=1000"), tmp_path)
    batch = next_batch(trainer.state.carries[0], trainer.state.maker, trainer.state.config.train, 0, 0)
    pack = trainer.state.maker.make(batch.samples)
    tasks = pack.task.tolist()
    assert len(set(tasks)) > 1
    with torch.no_grad():
        trainer.state.network.memory.rows[pack.transform[tasks.index(tasks[0])]] = float("nan")
    result = trainer.gradients.compute({0: batch}, trainer.state.carries, 1000, 1.0)
    assert result.broken == {tasks[0]}
