"""A short version of tests.torture: a killed run, a full disk, two ranks, a wall clock that jumps."""

import ast
import errno
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

import pipeline.run
from augment.task import Task
from eval import files
from pipeline.cli.main import main
from pipeline.data.sources import load_source
from pipeline.jobs import arc
from pipeline.weights import checkpoints, newest_checkpoint
from submission.format import check_submission
from tests.pipeline.tiny import TINY, tiny_source, write_kaggle
from tests.torture.demo import ROOT, Plan, Strike, Tortured, differences, losses, start

SETTINGS = (
    *TINY,
    *("train.segments=3", "train.steps=5", "train.checkpoint_steps=2", "train.checkpoint_seconds=0", "train.packs=2"),
)
"""The number of steps is no multiple of the segments, so the last checkpoint has sequences in flight."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("kaggle")
    write_kaggle(folder, tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)
    return f"kaggle:{folder}:evaluation"


def arguments(source: str, *more: str) -> list[str]:
    return ["run", "--source", source, "--preset", "demo", *(part for each in SETTINGS for part in ("--set", each)), *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main([*arguments(source), "--out", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report starts a process and takes longer than the rest of the run."""
    monkeypatch.setattr(pipeline.run, "leave_report", lambda *_: None)


def resumed(source: str, out: Path) -> int:
    return main([*arguments(source, "--resume"), "--out", str(out)])


@pytest.mark.parametrize("strike", [Strike("checkpoint", 2, 0.003), Strike("vote", 2, 0.0)], ids=lambda strike: strike.stage)
def test_a_killed_run_resumes_to_the_results_of_an_undisturbed_one(
    tmp_path: Path, source: str, undisturbed: Path, strike: Strike
) -> None:
    out = tmp_path / "run"
    run = start(arguments(source), out, Plan(strike))
    assert run.wait() == -signal.SIGKILL
    assert len(run.strikes()) == 1
    check_submission(out / "submission.json", load_source(source).tasks)
    assert resumed(source, out) == 0
    assert not differences(undisturbed, out)
    assert not list(out.rglob("*.tmp"))


WRITTEN = (
    *("run.json", "manifest.json", "config.json", "weights.safetensors", "carry-0.safetensors"),
    *("round-0002.safetensors", "drafts.safetensors", "submission.json", "votes.json", "score.json"),
)
DISPENSABLE = {"run.json", "round-0002.safetensors", "drafts.safetensors", "votes.json"}
"""Files that a run does not need. Without a checkpoint it has nothing to predict with."""


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_is_reported_and_costs_only_the_file(
    tmp_path: Path,
    source: str,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    out, sync, leave = tmp_path / "run", files.sync, arc.leave_submission

    def refuse(path: Path) -> None:
        if path.name.startswith(f".{name}."):
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
    assert re.search(rf"No space left on device: '.*{re.escape(name)}'", output), output
    assert "Traceback" not in output
    assert code == int(name not in DISPENSABLE)
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_with_room_for_one_checkpoint_keeps_the_newest(
    tmp_path: Path,
    source: str,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    out, sync = tmp_path / "run", files.sync

    def small(path: Path) -> None:
        if path.name.startswith(".training.safetensors.") and len(checkpoints(out / "checkpoints")) > 1:
            raise OSError(number, os.strerror(number))
        sync(path)

    monkeypatch.setattr(files, "sync", small)
    broken = number == errno.EIO  # room does not help, so nothing is removed
    assert main([*arguments(source), "--out", str(out)]) == int(broken)
    newest = [path.name for path in checkpoints(out / "checkpoints")]
    assert ("training.safetensors'; removed to make room: step-00000002\n" in caplog.text) != broken
    assert newest == (["step-00000002", "step-00000004"] if broken else ["step-00000004", "step-00000005"])
    assert bool(differences(undisturbed, out)) == broken


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
    run = start([*arguments(source, "--processes", "2"), *(part for each in endless for part in ("--set", each))], out, Plan())
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
    newest = newest_checkpoint(out / "checkpoints")
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


def test_the_wall_clock_is_read_only_for_the_date_of_a_run() -> None:
    found = []
    wall = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("datetime", "now"),
            ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}  # fmt: skip
    for package in ("augment", "eval", "submission", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in wall:
                    found.append((path.name, f"{node.value.id}.{node.attr}"))
    assert found == [("record.py", "datetime.now")]
