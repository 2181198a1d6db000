"""Going on from a checkpoint: the newest that is undamaged, of whatever version and number of processes."""

import shutil
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import orjson
import pytest
from safetensors.torch import load_file, save_file

from pipeline.training.checkpoint import packs_after
from pipeline.training.trainer import Trainer
from pipeline.weights import checkpoints
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.trainers import (
    NO_LIMIT,
    assert_equal_runs,
    assert_same_samples,
    finish_ranks,
    make_trainer,
    metrics,
    start_ranks,
    train_command,
)

SETTINGS = (
    "memory.residual=3",
    "train.segments=5",
    "train.checkpoint_steps=2",
    "train.checkpoints_kept=9",
    "train.log_steps=1",
)
NEWEST, OLDER = "step-00000006", "step-00000004"


def config_of(*settings: str) -> list[str]:
    return [*SETTINGS, "train.steps=6", *settings]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints after 2, 4 and 6."""
    out = tmp_path_factory.mktemp("trained")
    make_trainer(tiny_config(*config_of()), out).fit(NO_LIMIT)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def resumed(run: Path, *settings: str) -> Trainer:
    trainer = make_trainer(tiny_config(*config_of(*settings)), run)
    trainer.resume()
    return trainer


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    """Change one bit in the last byte: of a tensor, or of white space."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)


def flip_digit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"sequences": ', b'"sequences": 1', 1))


def empty(path: Path) -> None:
    path.write_bytes(b"")


FILES = ("weights.safetensors", "training.safetensors", "carry-0.safetensors", "training.json")
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    *((damage, name) for damage in (cut, flip, empty, Path.unlink) for name in FILES if (damage, name) != (flip, FILES[3])),
    (flip_digit, "training.json"),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGES, ids=[f"{damage.__name__}-{name}" for damage, name in DAMAGES])
def test_a_damaged_checkpoint_is_renamed_and_the_next_older_one_is_taken(
    run: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], name: str
) -> None:
    damage(run / "checkpoints" / NEWEST / name)
    trainer = resumed(run)
    assert trainer.state.progress.step == 4
    assert names(run) == [f"damaged-{NEWEST}", "step-00000002", OLDER]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "\n" not in said
    assert name in said
    assert said.endswith(f"; the checkpoint is called damaged-{NEWEST} now")
    assert metrics(run, "step") == [(1,), (2,), (3,), (4,)]


def test_training_ends_where_it_would_have_whatever_was_damaged(trained: Path, run: Path) -> None:
    cut(run / "checkpoints" / NEWEST / "training.safetensors")
    flip(run / "checkpoints" / OLDER / "carry-0.safetensors")
    trainer = resumed(run)
    assert trainer.state.progress.step == 2
    trainer.fit(NO_LIMIT)
    assert_equal_runs(trained, run)
    assert metrics(trained, "step", "loss") == metrics(run, "step", "loss")
    assert names(run) == [f"damaged-{OLDER}", f"damaged-{NEWEST}", "step-00000002", OLDER, NEWEST]


def test_without_an_undamaged_checkpoint_training_starts_from_the_beginning(
    trained: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in checkpoints(run / "checkpoints"):
        empty(folder / "training.json")
    trainer = make_trainer(tiny_config(*config_of()), run)
    assert not trainer.resume()
    assert (trainer.state.progress.step, metrics(run, "step")) == (0, [])
    assert "no checkpoint is left that can be read; training starts from the beginning" in caplog.text
    trainer.fit(NO_LIMIT)
    assert_equal_runs(trained, run)


def as_before_checksums(folder: Path) -> None:
    """Make a checkpoint what it was before there were checksums, packs and pieces."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if path.name == "weights.safetensors":
            continue
        save_file(tensors, path)
    path = folder / "training.json"
    state = orjson.loads(path.read_bytes())
    for name in ("checksum", "files", "packs"):
        del state[name]
    del state["config"]["train"]["pieces"]
    path.write_bytes(orjson.dumps(state))


def test_a_checkpoint_of_an_older_version_is_resumed(trained: Path, run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / NEWEST)
    as_before_checksums(run / "checkpoints" / OLDER)
    trainer = resumed(run, "train.pieces=1")
    assert trainer.state.progress.step == 4
    trainer.fit(NO_LIMIT)
    assert_equal_runs(trained, run)


def change_tensor(folder: Path, name: str, shorten: bool) -> None:
    path = folder / ("carry-0.safetensors" if name.startswith("0.") else "training.safetensors")
    tensors = load_file(path)
    tensor = tensors.pop(name)
    save_file(tensors | ({name: tensor[1:].clone()} if shorten else {f"{name}.more": tensor}), path)


def drop_value(folder: Path, name: str, _: bool) -> None:
    path = folder / "training.json"
    state = orjson.loads(path.read_bytes())
    del state[name]
    path.write_bytes(orjson.dumps(state))


SHORT = ("network.memory.rows", "average.memory.residual.rows", "optimizer.memory.dihedral:exp_avg", "rng", "0.state1")
RENAMED = ("network.memory.rows", "average.memory.rows", "rng", "0.segments")
DROPPED = ("config", "progress", "totals", "scaler", "data_hash", "processes")


@pytest.mark.parametrize(
    ("change", "name", "shorten"),
    [
        *((change_tensor, name, True) for name in SHORT),
        *((change_tensor, name, False) for name in RENAMED),
        *((drop_value, name, False) for name in DROPPED),
    ],
)
def test_content_that_does_not_fit_is_damage_without_a_checksum_too(
    run: Path, change: Callable[[Path, str, bool], None], name: str, shorten: bool
) -> None:
    folder = run / "checkpoints" / NEWEST
    as_before_checksums(folder)
    change(folder, name, shorten)
    assert resumed(run).state.progress.step == 4


@pytest.mark.parametrize("setting", ["train.pieces=4", "train.checkpoint_seconds=1", "train.steps=9"])
def test_settings_that_change_nothing_learned_may_change(run: Path, setting: str) -> None:
    assert resumed(run, setting).state.progress.step == 6


def test_garbled_metrics_are_dropped(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(b'\xff{"}\n{"loss": 1}\n' + path.read_bytes() + b'{"step": 9, "lo')
    resumed(run)
    assert metrics(run, "step") == [(step,) for step in range(1, 7)]


def carried(trainer: Trainer) -> dict[int, list[int]]:
    return {pack: carry.samples.transform.tolist() for pack, carry in trainer.state.carries.items()}


@pytest.mark.parametrize(("before", "now"), [(3, 2), (2, 4)])
def test_packs_that_are_there_before_and_after_keep_their_sequences(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: int, now: int
) -> None:
    first = make_trainer(tiny_config(*config_of("train.steps=2", f"train.packs={before}")), tmp_path)
    first.fit(NO_LIMIT)
    assert all(carried(first).values())
    second = resumed(tmp_path, f"train.packs={now}")
    kept = min(before, now)
    expected = {pack: carried(first)[pack] if pack < kept else [] for pack in range(now)}
    assert carried(second) == expected
    assert f"before: 1 processes with {before} packs a step; now: 1 processes with {now} packs a step" in caplog.text
    second.fit(NO_LIMIT)
    assert second.state.progress.step == 6
    third = resumed(tmp_path)  # the number of packs is left open: as many as before
    assert list(third.state.carries) == list(range(now))


@pytest.mark.parametrize(
    ("asked", "before", "processes", "expected"),
    [(0, 4, 4, 4), (0, 4, 2, 4), (0, 4, 1, 4), (0, 4, 3, 3), (0, 1, 2, 2), (4, 4, 3, 4), (8, 4, 4, 8)],
)
def test_packs_stay_as_many_as_they_were_where_processes_can_share_them(
    asked: int, before: int, processes: int, expected: int
) -> None:
    assert packs_after(asked, before, processes) == expected


def copy_of(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.with_name(name)))


def test_processes_come_and_go_and_agree_on_damage(tmp_path: Path) -> None:
    tiny_dataset().save(tmp_path / "data")
    base = ("train.checkpoint_steps=3", "train.segments=4", "train.log_steps=1", "optimizer.kind=adamw", "train.packs=3")

    def alone(out: Path, steps: int) -> Trainer:
        trainer = make_trainer(tiny_config(*base, f"train.steps={steps}"), out)
        trainer.resume()
        trainer.fit(NO_LIMIT)
        return trainer

    def together(out: Path, steps: int) -> list[BaseProcess]:
        return start_ranks(train_command(tmp_path / "data", out, *base, f"train.steps={steps}"))

    alone(tmp_path / "run", 3)
    finish_ranks(together(tmp_path / "run", 6))  # one process computes two packs, the other one
    damaged = copy_of(tmp_path / "run", "damaged")
    cut(damaged / "checkpoints" / NEWEST / "carry-1.safetensors")  # which the main process does not read
    again = together(damaged, 9)
    assert all(len(carry) for carry in alone(tmp_path / "run", 9).state.carries.values())
    alone(tmp_path / "whole", 9)
    finish_ranks(again)
    assert f"damaged-{NEWEST}" in names(damaged)

    for run in (tmp_path / "run", damaged):
        assert_same_samples(run, tmp_path / "whole", steps=9)
