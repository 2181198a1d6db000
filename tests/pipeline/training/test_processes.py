"""Two processes leave what one leaves: every tensor of every checkpoint, with all on that a launch has to share."""

from pathlib import Path

import pytest
import torch

from pipeline.cli.main import main
from pipeline.tensor_files import read_tensors
from pipeline.weights.find import checkpoints
from tests.pipeline.tiny import tiny_dataset
from tests.pipeline.trainers import finish_ranks, metrics, start_ranks, train_command

SHARED = (
    "train.packs=2", "train.steps=9", "train.segments=4", "train.log_steps=1", "train.checkpoint_steps=4",
    "train.depth=thirds", "model.H_cycles=3", "train.label_smoothing=0.2", "optimizer.clip=0.05",
    "optimizer.ema=0.5", "optimizer.ema_start=3",
)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        ("memory.kind=table", "memory.tokens=2", "train.latents=2", "optimizer.kind=adamw"),
        ("memory.residual=3", "optimizer.kind=muon"),
    ],
    ids=["table, latents, AdamW", "residual, Muon"],
)
def test_two_processes_leave_what_one_leaves(tmp_path: Path, settings: tuple[str, ...]) -> None:
    tiny_dataset().save(tmp_path / "data")
    one, two = tmp_path / "one", tmp_path / "two"
    ranks = start_ranks(train_command(tmp_path / "data", two, *SHARED, *settings))
    assert main(train_command(tmp_path / "data", one, *SHARED, *settings)) == 0
    finish_ranks(ranks)
    names = [folder.name for folder in checkpoints(one / "checkpoints")]
    assert names == [folder.name for folder in checkpoints(two / "checkpoints")]
    assert len(names) > 1
    for name in names:
        expected, found = (tensors_of(run / "checkpoints" / name) for run in (one, two))
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, atol=1e-6, rtol=1e-6, msg=f"{name} {key}")
    last = tensors_of(one / "checkpoints" / names[-1])
    for name in ("reasoner.head.weight", "memory.rows"):  # else a wrong average would not show
        assert not torch.equal(last[f"weights {name}"], last[f"training network.{name}"])
    columns = ("step", "loss", "halting_loss", "exact", "segments", "rate_factor")
    assert metrics(two, *columns) == [pytest.approx(line, abs=2e-5) for line in metrics(one, *columns)]


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by kind of file and name, whichever process has written them."""
    return {
        f"{path.stem.partition('-')[0]} {name}": tensor
        for path in checkpoint.glob("*.safetensors")
        for name, tensor in read_tensors(path)[0].items()
    }
