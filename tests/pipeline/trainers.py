"""Trainers of tiny networks, in this process or as commands, and what their runs leave."""

import json
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from pipeline.cli.main import main
from pipeline.config import Config, unread_settings
from pipeline.data.dataset import TaskDataset
from pipeline.device import make_accelerator
from pipeline.models.network import make_network
from pipeline.tensor_files import read_tensors
from pipeline.training.carry import next_batch
from pipeline.training.gradients import Computed, Gradients
from pipeline.training.trainer import Trainer
from pipeline.weights.find import checkpoints
from tests.pipeline.tiny import set_options, tiny_config, tiny_dataset

ROOT = Path(__file__).parents[2]
SYSTEMS: dict[str, tuple[str, ...]] = {
    "trm": (),
    "table": ("memory.kind=table", "memory.tokens=2"),
    "residual": ("memory.residual=3", "optimizer.kind=muon"),
    "hrm": ("memory.kind=table", "model.kind=hrm", "model.gradient=last-step", "train.halting=q-learning"),
    "urm": ("model.kind=urm", "model.convolution=3", "train.halting=off", "optimizer.kind=adamw"),
    "latents": ("train.latents=2", "train.segments=4", "memory.kind=table", "memory.tokens=2"),
}
"""Settings with which every kind of network, memory, halting and optimizer is trained once."""
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["pipeline.run", "pipeline.inference.predictor", "torch._dynamo"])  # which optimizers import


def make_trainer(config: Config, out: Path, dataset: TaskDataset | None = None) -> Trainer:
    dataset = dataset or tiny_dataset()
    accelerator, dtype = make_accelerator(config.train.precision)
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), config.train.seed)
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(accelerator, dtype, network.to(accelerator.device), dataset, config, out)


def last_checkpoint(out: Path) -> Path:
    return checkpoints(out / "checkpoints")[-1]


def final_tensors(out: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(last_checkpoint(out).glob("*.safetensors")):
        tensors |= {f"{path.name}:{name}": tensor for name, tensor in read_tensors(path)[0].items()}
    return tensors


def flip(path: Path) -> None:
    """Change one bit in the last byte: of a tensor, or of white space."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)


def assert_equal_runs(one: Path, other: Path) -> None:
    first, second = final_tensors(one), final_tensors(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different[:5]
    names = ("step", "loss", "exact", "segments")
    assert metrics(one, *names) == metrics(other, *names)


def assert_same_training(one: Path, other: Path) -> None:
    """Weights, optimizer and carried states are the same up to rounding, and so are the metrics."""
    expected, found = final_tensors(one), final_tensors(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        tolerance = 1e-6 if name.startswith(("weights", "training")) else 1e-4  # states, after several segments
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=tolerance, msg=name)
    names = ("loss", "halting_loss", "exact", "segments")
    assert metrics(other, *names) == [pytest.approx(line, abs=2e-5) for line in metrics(one, *names)]


def second_step(trainer: Trainer, gradients: Gradients, pieces: int = 1) -> tuple[Computed, dict[str, torch.Tensor]]:
    """What `gradients` computes of the second step of `trainer`, and the gradients of all parameters."""
    trainer.state.network.zero_grad()
    batches = {
        pack: next_batch(trainer.state.carries[pack], trainer.state.maker, trainer.state.config.train, 1, pack)
        for pack in trainer.state.packs
    }
    result = gradients.compute(batches, trainer.state.carries, pieces, 0.1)
    return result, {name: parameter.grad.clone() for name, parameter in trainer.state.network.named_parameters()}


def assert_same_step(
    one: tuple[Computed, dict[str, torch.Tensor]], other: tuple[Computed, dict[str, torch.Tensor]], tolerance: float = 1e-5
) -> None:
    """Gradients, what goes on, the row gradients of tables and the totals are the same up to rounding."""
    (whole, gradients), (parts, found) = one, other
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6 * float(gradient.abs().max() + 1), rtol=1e-5, msg=name)
    for pack, carry in whole.carries.items():
        same = parts.carries[pack]
        assert (same.samples.example == carry.samples.example).all()
        assert (same.samples.transform == carry.samples.transform).all()
        assert same.segments.tolist() == carry.segments.tolist()
        torch.testing.assert_close(same.state, carry.state, atol=tolerance, rtol=0)
    for table in whole.row_gradients[0]:
        (index, gradient), (again, close) = (
            [torch.cat([getattr(each[table], part) for each in computed.row_gradients]) for part in ("index", "gradient")]
            for computed in (whole, parts)
        )
        assert torch.equal(again.sort().values, index.sort().values)
        rows = torch.zeros(int(index.max()) + 1, gradient.shape[1])  # the order is that of the sequences
        torch.testing.assert_close(rows.index_add(0, again, close), rows.index_add(0, index, gradient), atol=2e-6, rtol=1e-5)
    assert vars(parts.totals) == pytest.approx(vars(whole.totals), rel=1e-5)


def metrics(out: Path, *names: str) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[name] for name in names) for line in lines]


def assert_same_samples(one: Path, other: Path, steps: int) -> None:
    """Both trained on the same sequences, with the same losses, weights and averages up to the rounding of sums."""
    names = ("step", "segments", "loss", "halting_loss", "exact")
    ours, theirs = (metrics(out, *names) for out in (one, other))
    assert len(ours) == len(theirs) == steps
    for mine, found in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(found, abs=2e-4)
    drawn = [json.loads((last_checkpoint(out) / "training.json").read_text())["progress"]["sequences"] for out in (one, other)]
    assert drawn[0] == drawn[1]
    for file, prefix in (("weights", ""), ("training", "network.")):
        trained, again = (read_tensors(last_checkpoint(out) / f"{file}.safetensors")[0] for out in (one, other))
        for name in (name for name in trained if name.startswith(prefix)):
            torch.testing.assert_close(again[name], trained[name], atol=1e-4, rtol=0, msg=f"{file}: {name}")


def train_command(data: Path, out: Path, *settings: str) -> list[str]:
    config = tiny_config(*settings)
    values = {f"{section}.{name}": value for section, part in config.to_json().items() for name, value in part.items()}
    flat = [f"{name}={value}" for name, value in values.items() if name not in unread_settings(config)]
    preset = "demo" if config.optimizer.kind == "muon" else "trm-arc1"  # which has the defaults of what nothing reads
    arguments = ["train", "--data", str(data), "--preset", preset, "--out", str(out), "--resume"]
    return [*arguments, *set_options(flat)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_rank(environment: dict[str, str], command: list[str]) -> None:
    os.environ |= environment
    sys.exit(main(command))


def start_ranks(command: list[str], run: Callable[[dict[str, str], list[str]], None] = run_rank) -> list[BaseProcess]:
    """Start a command as two processes of one launch: forks of a process that has imported the program already."""
    launch = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environments = [launch | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"} for rank in ("0", "1")]
    ranks: list[BaseProcess] = [_FORKS.Process(target=run, args=(each, command)) for each in environments]
    for rank in ranks:
        rank.start()
    return ranks


def finish_ranks(ranks: list[BaseProcess], *expected: int) -> None:
    """Wait for processes of a launch, which end with the codes `expected`, or with 0."""
    for rank in ranks:
        rank.join(timeout=300)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert codes == list(expected or (0, 0))
