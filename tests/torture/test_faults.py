"""A short version of tests.torture: a killed run, a full disk, two ranks, a wall clock that jumps."""

import errno
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import pipeline.run
from augment.task import Task
from eval import files
from pipeline.cli.main import main
from pipeline.data.sources import load_source
from pipeline.jobs import arc
from pipeline.weights.find import checkpoints, newest_checkpoint
from submission.format import check_submission
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle
from tests.torture.demo import Plan, Strike, Tortured, differences, losses, start

SETTINGS = (
    *TINY,
    *("train.segments=3", "train.steps=5", "train.checkpoint_steps=2", "train.checkpoint_seconds=0", "train.packs=2"),
)
"""The number of steps is no multiple of the segments, so the last checkpoint has sequences in flight."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_kaggle(tmp_path_factory.mktemp("kaggle"), tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)


def arguments(source: str, *more: str) -> list[str]:
    return ["run", "--source", source, "--preset", "demo", *set_options(SETTINGS), *more]


@pytest.fixture(scope="module", autouse=True)
def no_report() -> Iterator[None]:
    """The report starts a process and takes longer than the rest of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.run, "leave_report", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main([*arguments(source), "--out", str(out)]) == 0
    return out


def resumed(source: str, out: Path) -> int:
    return main([*arguments(source, "--resume"), "--out", str(out)])


def test_a_run_that_is_killed_twice_resumes_to_the_results_of_an_undisturbed_one(
    tmp_path: Path, source: str, undisturbed: Path
) -> None:
    out = tmp_path / "run"
    for strike in (Strike("checkpoint", 2, 0.003), Strike("vote", 2, 0.0)):
        run = start(arguments(source, "--resume"), out, Plan(strike))
        assert run.wait() == -signal.SIGKILL
        assert len(run.strikes()) == 1
        check_submission(out / "submission.json", load_source(source).tasks)
    assert resumed(source, out) == 0
    assert not differences(undisturbed, out)
    assert not list(out.rglob("*.tmp"))


DISPENSABLE = ("run.json", "round-0002.safetensors", "drafts.safetensors", "votes.json")
"""Files that a run does not need. Without a checkpoint it has nothing to predict with."""


@pytest.mark.parametrize(
    "names",
    [
        DISPENSABLE,
        *((name,) for name in ("manifest.json", "config.json", "weights.safetensors", "submission.json", "score.json")),
    ],
)
def test_a_full_disk_is_reported_and_costs_only_the_file(
    tmp_path: Path,
    source: str,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    names: tuple[str, ...],
) -> None:
    out, sync, leave = tmp_path / "run", files.sync, arc.leave_submission

    def refuse(path: Path) -> None:
        if path.name.startswith(tuple(f".{name}." for name in names)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    def full_from_now_on(tasks: Sequence[Task], folder: Path, resume: bool) -> None:
        leave(tasks, folder, resume)
        monkeypatch.setattr(files, "sync", refuse)

    with monkeypatch.context() as full:
        full.setattr(arc, "leave_submission", full_from_now_on)
        code = main([*arguments(source), "--out", str(out)])
    monkeypatch.setattr(files, "sync", sync)
    output = capsys.readouterr().err + caplog.text
    for name in names:
        assert re.search(rf"No space left on device: '.*{re.escape(name)}'", output), output
    assert "Traceback" not in output
    assert code == int(names != DISPENSABLE)
    check_submission(out / "submission.json", load_source(source).tasks)
    assert not list(out.rglob("*.tmp"))
    assert resumed(source, out) == 0
    assert not differences(undisturbed, out)


def test_a_disk_that_is_full_for_a_while_costs_one_checkpoint(
    tmp_path: Path, source: str, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, sync, refused = tmp_path / "run", files.sync, []

    def once(path: Path) -> None:
        if path.name.startswith(".weights.safetensors.") and not refused:
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    monkeypatch.setattr(files, "sync", once)
    assert main([*arguments(source), "--out", str(out)]) == 0
    assert "step 2: the checkpoint cannot be written ([Errno 28] No space left on device" in caplog.text
    assert not differences(undisturbed, out)


@pytest.mark.parametrize("numbers", [(errno.ENOSPC, errno.EDQUOT, errno.ENOSPC), (errno.EIO,)])
def test_a_disk_with_room_for_one_checkpoint_keeps_the_newest(
    tmp_path: Path,
    source: str,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    numbers: tuple[int, ...],
) -> None:
    out, sync, errors = tmp_path / "run", files.sync, iter(numbers)

    def small(path: Path) -> None:
        if path.name.startswith(".training.safetensors.") and len(checkpoints(out / "checkpoints")) > 1:
            number = next(errors)
            raise OSError(number, os.strerror(number))
        sync(path)

    monkeypatch.setattr(files, "sync", small)
    broken = errno.EIO in numbers  # room does not help, so nothing is removed
    assert main([*arguments(source, "--set", "train.checkpoint_steps=1"), "--out", str(out)]) == int(broken)
    newest = [path.name for path in checkpoints(out / "checkpoints")]
    assert ("training.safetensors'; removed to make room: step-00000002\n" in caplog.text) != broken
    assert newest == (["step-00000001", "step-00000002"] if broken else ["step-00000004", "step-00000005"])
    assert (differences(undisturbed, out) == ["config.json"]) != broken


def test_a_disk_that_refuses_to_remove_costs_checkpoints_but_not_the_run(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, rename = tmp_path / "run", Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if str(target).endswith(".removed"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert main([*arguments(source, "--set", "train.checkpoints_kept=1"), "--out", str(out)]) == 1
    assert "step 4: the checkpoint cannot be written ([Errno 28] No space left on device" in caplog.text
    assert "training failed: [Errno 28] No space left on device" in caplog.text
    check_submission(out / "submission.json", load_source(source).tasks)


def wait_for(run: Tortured, kind: str, name: str) -> None:
    """Wait until a run has done `kind` to the file `name`."""
    end = time.monotonic() + 60
    while not any((kind, name) == event[3:] for event in run.events()):
        assert run.process.poll() is None, run.output()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_ranks_share_a_folder_lock_it_and_end_within_seconds_of_sigterm(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    endless = ("train.steps=100000", "train.segments=100000", "train.halting=off")  # sequences are in flight wherever it ends
    run = start([*arguments(source, "--processes", "2"), *set_options(endless)], out, Plan())
    try:
        wait_for(run, "rename", "checkpoints/step-00000002")
        assert main([*arguments(source, "--resume"), "--out", str(out)]) == 2
        assert f"{out}: another run is at work here (process {run.process.pid} on " in capsys.readouterr().err.splitlines()[-1]
        os.kill(run.process.pid, signal.SIGTERM)
        sent = time.monotonic()
        run.process.wait(30)
        assert time.monotonic() - sent < 20
    finally:
        run.wait()
    output = run.output()
    assert run.process.returncode == 1
    assert "Traceback" not in output
    (step,) = re.findall(r"interrupted; the checkpoint of step (\d+) is written, --resume goes on from it", output)
    newest = newest_checkpoint(out)
    assert newest is not None
    assert newest.name == f"step-{int(step):08d}"
    writers: dict[str, set[str]] = defaultdict(set)
    for _, _, rank, kind, name in run.events():
        if kind == "write" and rank != "-":  # the first process writes .lock and the fallback, then becomes the launcher
            writers[name].add(rank)
    shared = {name: ranks for name, ranks in writers.items() if len(ranks) > 1}
    assert shared.keys() <= {".lock"}  # opened by both, written by neither
    assert {name for name, ranks in writers.items() if "1" in ranks} - {".lock"} <= {
        name for name in writers if re.search(r"carry-1\.safetensors", name)
    }
    assert (newest / "carry-1.safetensors").is_file()
    check_submission(out / "submission.json", load_source(source).tasks)


def test_a_wall_clock_that_jumps_changes_nothing(
    tmp_path: Path, source: str, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 + (-1) ** next(ticks) * 1e6)
    out = tmp_path / "run"
    started = time.monotonic()
    assert main([*arguments(source), "--out", str(out), "--time-limit", "60s"]) == 0
    assert time.monotonic() - started < 60
    assert (out / "submission.json").read_bytes()
    assert [step for step, _, _ in losses(out)] == [step for step, _, _ in losses(undisturbed)]
