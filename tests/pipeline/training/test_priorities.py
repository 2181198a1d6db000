"""Priorities of training pairs: rates of exact answers, the draws that follow, and what a checkpoint keeps of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.packs import make_pack_maker
from pipeline.system.time_limit import NO_LIMIT
from pipeline.tensor_files import read_tensors
from pipeline.training.checkpoint import load_checkpoint, priority_tensors
from pipeline.training.priorities import NEWEST_SHARE, UPDATE_STEPS, Priorities
from pipeline.training.state import TrainState
from pipeline.training.trainer import Trainer
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.trainers import make_trainer


def test_rates_follow_the_newest_answers() -> None:
    priorities = Priorities(3, learned_weight=0.25)
    assert priorities.factors().tolist() == [1.0, 1.0, 1.0]
    priorities.count(np.array([0, 0, 2]), np.array([True, True, True]))
    priorities.count(np.array([2]), np.array([False]))
    assert priorities.answers.tolist() == [[2, 0, 2], [2, 0, 1]]
    priorities.update(priorities.answers)
    moved = 1 - (1 - NEWEST_SHARE) ** 2
    assert priorities.rates == pytest.approx([moved, 0.0, moved / 2])
    assert priorities.factors() == pytest.approx([1 - 0.75 * moved, 1.0, 1 - 0.75 * moved / 2])
    assert not priorities.answers.any()
    for _ in range(40):
        priorities.update(np.array([[2.0, 0, 2], [2, 0, 2]]))
    assert priorities.factors() == pytest.approx([0.25, 1.0, 0.25], abs=1e-6)
    for count in range(1, 100):
        priorities.rates[:] = [1.0, 0.0, 1.0]
        priorities.update(np.array([[count, count, 0.0], [count, 0, 0]]))
        assert priorities.rates.tolist() == [1.0, 0.0, 1.0], "rounding leaves them in 0..1, where a checkpoint has to have them"


def trained(folder: Path, *settings: str) -> Trainer:
    trainer = make_trainer(tiny_config(f"train.steps={UPDATE_STEPS + 2}", *settings), folder)
    trainer.fit(NO_LIMIT)
    return trainer


def test_what_is_learned_is_drawn_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one pair is always exact, whatever the network answers."""
    count = Priorities.count
    monkeypatch.setattr(Priorities, "count", lambda self, pairs, _: count(self, pairs, pairs == 0))
    trainer = trained(tmp_path, "train.learned_weight=0.01", "train.pack_tokens=2000")
    maker, priorities = trainer.state.maker, trainer.state.priorities
    assert priorities
    assert priorities.rates[0] > 0.5
    assert not priorities.rates[1:].any()
    assert priorities.answers[0].sum() > 0, "of the steps after the last update"
    drawn = np.bincount(maker.draw(20_000, np.random.default_rng(0), 0.0).example)
    fresh = make_pack_maker(tiny_dataset(), "fitted", maker.memory_tokens)
    before = np.bincount(fresh.draw(20_000, np.random.default_rng(0), 0.0).example)
    assert drawn[0] / before[0] == pytest.approx(1 - 0.99 * priorities.rates[0], abs=0.15)


def test_a_checkpoint_keeps_priorities_and_a_leg_may_begin_or_end_them(tmp_path: Path) -> None:
    with_them = trained(tmp_path, "train.learned_weight=0.5").state
    tensors, _ = read_tensors(tmp_path / "checkpoints" / f"step-{with_them.progress.step:08d}" / "training.safetensors")
    for name, expected in priority_tensors(with_them).items():
        assert torch.equal(tensors[name], expected)
    without = make_trainer(tiny_config("train.steps=99"), tmp_path).state
    assert load_checkpoint(without)
    assert without.priorities is None
    trained(tmp_path / "plain")
    begun = make_trainer(tiny_config("train.steps=99", "train.learned_weight=0.5"), tmp_path / "plain").state
    assert load_checkpoint(begun)
    assert begun.priorities
    assert not begun.priorities.rates.any()


@pytest.mark.parametrize("change", [lambda tensor: tensor[..., 1:], lambda tensor: tensor - 1, lambda tensor: tensor / 0])
def test_priorities_that_training_does_not_write_are_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: Callable[[Tensor], Tensor]
) -> None:
    def changed(state: TrainState) -> dict[str, Tensor]:
        return {name: change(tensor).contiguous() for name, tensor in priority_tensors(state).items()}

    monkeypatch.setattr("pipeline.training.checkpoint.priority_tensors", changed)
    assert not load_checkpoint(trained(tmp_path, "train.learned_weight=0.5").state)
    assert [folder.name for folder in (tmp_path / "checkpoints").glob("damaged-*")]
    assert "training.safetensors: damaged, " in caplog.text
