"""Going on from a checkpoint: the newest that is undamaged, of whatever version and number of processes."""

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from safetensors.torch import load_file, save_file

from pipeline.config import Config
from pipeline.system.time_limit import NO_LIMIT
from pipeline.training import checkpoint
from pipeline.training.checkpoint import load_checkpoint, packs_after, read_state, write_state
from pipeline.training.trainer import Trainer
from pipeline.weights.find import checkpoints
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.trainers import (
    assert_equal_runs,
    assert_same_samples,
    finish_ranks,
    flip,
    make_trainer,
    metrics,
    start_ranks,
    train_command,
)

NEWEST, OLDER = "step-00000006", "step-00000004"


def config_of(*settings: str) -> Config:
    base = ("train.segments=5", "train.checkpoint_steps=2", "train.checkpoints_kept=9", "train.log_steps=1", "train.steps=6")
    return tiny_config("memory.residual=3", *base, *settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints after 2, 4 and 6."""
    out = tmp_path_factory.mktemp("trained")
    make_trainer(config_of(), out).fit(NO_LIMIT)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def resumed(run: Path, *settings: str) -> Trainer:
    trainer = make_trainer(config_of(*settings), run)
    load_checkpoint(trainer.state)
    return trainer


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_digit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"sequences": ', b'"sequences": 1', 1))


def empty(path: Path) -> None:
    path.write_bytes(b"")


WEIGHTS, TRAINING, CARRY, STATE = "weights.safetensors", "training.safetensors", "carry-0.safetensors", "training.json"
DAMAGES: dict[Callable[[Path], object], tuple[str, ...]] = {
    cut: (WEIGHTS, STATE),
    flip: (WEIGHTS, TRAINING, CARRY),
    empty: (TRAINING, CARRY),
    Path.unlink: (WEIGHTS, CARRY, STATE),
    flip_digit: (STATE,),
}


@pytest.mark.parametrize(("damage", "name"), [(damage, name) for damage, names in DAMAGES.items() for name in names])
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


def test_the_next_older_checkpoint_is_taken_where_a_damaged_one_cannot_be_renamed(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise OSError(30, "Read-only file system")

    cut(run / "checkpoints" / NEWEST / WEIGHTS)
    monkeypatch.setattr(checkpoint, "set_aside", refuse)
    assert resumed(run).state.progress.step == 4
    assert "the checkpoint cannot be renamed (Read-only file system)" in caplog.text


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("way", ["read_bytes", "stat", "open"])
def test_what_cannot_be_read_for_now_stays_and_what_the_disk_has_lost_is_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch, way: str, number: int
) -> None:
    real, before = getattr(Path, way), names(run)

    def failing(path: Path, *arguments: object, **options: object) -> object:
        if path.parent.name == NEWEST:
            raise OSError(number, "of the system")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, way, failing)
        if number == errno.EIO:
            assert resumed(run).state.progress.step == 4
        else:
            with pytest.raises(OSError, match=rf"^process 0 cannot read \S+{NEWEST}: .*of the system"):
                resumed(run)
    assert names(run) == (before if number != errno.EIO else [f"damaged-{NEWEST}", *before[:-1]])
    assert resumed(run).state.progress.step == (4 if number == errno.EIO else 6)


def test_a_process_that_does_not_see_a_checkpoint_leaves_it_to_the_others(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(run)
    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"^process 1 cannot read it: not there"):
        patched.setattr(checkpoint, "gather", lambda _, own: [own, ("", "process 1 cannot read it: not there")])
        resumed(run)
    assert names(run) == before
    real = checkpoint.read_state

    def read_by_another(folder: Path) -> object:
        found = real(folder)
        (folder / CARRY).unlink()  # this process does not see it
        return found

    with monkeypatch.context() as patched, pytest.raises(OSError, match=f"^process 0 cannot read {run}"):
        patched.setattr(checkpoint, "read_state", read_by_another)
        resumed(run)
    assert names(run) == before


def test_training_ends_where_it_would_have_whatever_was_damaged(trained: Path, run: Path) -> None:
    cut(run / "checkpoints" / NEWEST / TRAINING)
    flip(run / "checkpoints" / OLDER / CARRY)
    trainer = resumed(run)
    assert trainer.state.progress.step == 2
    trainer.fit(NO_LIMIT)
    assert_equal_runs(trained, run)
    assert names(run) == [f"damaged-{OLDER}", f"damaged-{NEWEST}", "step-00000002", OLDER, NEWEST]


def test_without_an_undamaged_checkpoint_training_starts_from_the_beginning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in checkpoints(run / "checkpoints"):
        empty(folder / STATE)
    trainer = make_trainer(config_of(), run)
    assert not load_checkpoint(trainer.state)
    assert (trainer.state.progress.step, metrics(run, "step")) == (0, [])
    assert "no checkpoint is left that can be read; training starts from the beginning" in caplog.text


def as_before_checksums(folder: Path) -> Path:
    """Make a checkpoint what it was before there were checksums, packs and pieces."""
    for name in (TRAINING, CARRY):
        save_file(load_file(folder / name), folder / name)
    state = orjson.loads((folder / STATE).read_bytes())
    for name in ("checksum", "files", "packs"):
        del state[name]
    del state["config"]["train"]["pieces"]
    (folder / STATE).write_bytes(orjson.dumps(state))
    return folder


def test_a_checkpoint_of_an_older_version_is_resumed(trained: Path, run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / NEWEST)
    as_before_checksums(run / "checkpoints" / OLDER)
    trainer = resumed(run, "train.pieces=1")
    assert trainer.state.progress.step == 4
    trainer.fit(NO_LIMIT)
    assert_equal_runs(trained, run)


MISFITS = {
    "shortened": (
        "network.memory.rows",
        "average.memory.residual.rows",
        "optimizer.memory.dihedral:exp_avg",
        "0.state1",
    ),
    "renamed": ("network.memory.rows", "average.memory.rows", "0.segments"),
    "missing": ("config", "progress", "totals", "scaler", "data_hash", "processes"),
}


def spoil(folder: Path, how: str, name: str) -> None:
    """Shorten or rename a tensor of a checkpoint, or remove a value of its state."""
    if how == "missing":
        state = orjson.loads((folder / STATE).read_bytes())
        del state[name]
        (folder / STATE).write_bytes(orjson.dumps(state))
        return
    path = folder / (CARRY if name[0].isdigit() else TRAINING)
    tensors = load_file(path)
    tensor = tensors.pop(name)
    save_file(tensors | ({name: tensor[1:].clone()} if how == "shortened" else {f"{name}.more": tensor}), path)


def test_content_that_does_not_fit_is_damage_without_a_checksum_too(run: Path) -> None:
    newest, trainer = run / "checkpoints" / NEWEST, make_trainer(config_of(), run)
    fitting = shutil.copytree(as_before_checksums(newest), run / "fitting")
    for how, name in [(how, name) for how, tensors in MISFITS.items() for name in tensors]:
        shutil.copytree(fitting, newest, dirs_exist_ok=True)
        spoil(newest, how, name)
        load_checkpoint(trainer.state)
        assert trainer.state.progress.step == 4, (how, name)


def test_settings_that_change_nothing_learned_may_change(run: Path) -> None:
    assert resumed(run, "train.pieces=4", "train.checkpoint_seconds=1", "train.steps=9").state.progress.step == 6


def test_a_last_leg_may_end_with_other_rates_but_not_be_trained_with_others(run: Path) -> None:
    leg = resumed(run, "train.steps=9", "optimizer.decay_from=0.5", "optimizer.decay=cosine", "optimizer.final_rate=0.1")
    leg.fit(NO_LIMIT)
    factors = [factor for (factor,) in metrics(run, "rate_factor")]
    assert factors[5] == 1.0 > factors[6] > factors[7] > factors[8] > 0.1
    with pytest.raises(ValueError, match=r"optimizer\.rate is .*use another folder"):
        resumed(run, "optimizer.rate=0.5")


def test_processor_time_adds_up_over_the_parts_of_a_run(run: Path) -> None:
    before = [seconds for (seconds,) in metrics(run, "processor_seconds")]
    started = time.process_time()
    resumed(run, "train.steps=9").fit(NO_LIMIT)
    spent = time.process_time() - started
    after = [seconds for (seconds,) in metrics(run, "processor_seconds")]
    assert after[:6] == before and after == sorted(after)
    assert 0.0 < before[-1] < after[-1] <= before[-1] + spent + 0.2  # which the line before the checkpoint did not have


def test_a_checkpoint_of_another_version_is_no_damage(run: Path) -> None:
    newest = checkpoints(run / "checkpoints")[-1]
    state = read_state(newest)
    state["progress"]["tokens_seen"] = 3
    write_state(newest, state)
    before = names(run)
    with pytest.raises(ValueError, match=r"cannot resume, another version has written it .*tokens_seen.*; use another folder"):
        resumed(run)
    assert names(run) == before


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
    first = make_trainer(config_of("train.steps=2", f"train.packs={before}"), tmp_path)
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


def test_processes_come_and_go_and_agree_on_damage(tmp_path: Path) -> None:
    tiny_dataset().save(tmp_path / "data")
    base = (
        "train.segments=4",
        "train.log_steps=1",
        "memory.residual=3",
        "optimizer.kind=adamw",
        "train.packs=3",
        "train.latents=2",
    )

    def alone(out: Path, steps: int) -> Trainer:
        trainer = make_trainer(tiny_config(*base, f"train.steps={steps}"), out)
        load_checkpoint(trainer.state)
        trainer.fit(NO_LIMIT)
        return trainer

    run, whole = tmp_path / "run", tmp_path / "whole"
    for steps in (2, 3):
        alone(run, steps)
    newest = as_before_checksums(run / "checkpoints" / "step-00000003")
    spoil(newest, "shortened", "1.state1")  # of a pack that the main process does not check
    finish_ranks(start_ranks(train_command(tmp_path / "data", run, *base, "train.steps=6")))  # one computes two packs
    assert "damaged-step-00000003" in names(run)
    assert all(len(carry) for carry in alone(run, 9).state.carries.values())
    alone(whole, 9)
    assert_same_samples(run, whole, steps=9)
