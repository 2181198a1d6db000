"""One run at a time in a folder, whatever became of the one before."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.system import folder_lock as occupied_module
from pipeline.system.folder_lock import LOCK_FILE, occupied

HOLD = """
import pathlib, sys, time
from pipeline.occupied import occupied
with occupied(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_told_who_is_at_work_and_the_next_may_begin(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with (
        occupied(folder),
        pytest.raises(ValueError, match=rf"^{folder}: another run is at work here \(process {os.getpid()} on .+\); wait"),
        occupied(folder),
    ):
        pass
    with occupied(folder):
        pass


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=rf"process {other.pid} on"), occupied(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    with occupied(tmp_path):
        pass


def test_processes_of_one_launch_share_it_and_keep_others_out(tmp_path: Path) -> None:
    with occupied(tmp_path) as launcher:
        launcher.share_with_children()
        assert os.get_inheritable(launcher.number)
        with occupied(tmp_path, share=True):
            launcher.leave()  # it was killed; what it started works on
            launcher.number = os.open(os.devnull, os.O_RDONLY)
            with pytest.raises(ValueError, match="another run is at work"), occupied(tmp_path):
                pass


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(number: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(occupied_module.fcntl, "flock", no_locks)
    with occupied(tmp_path):
        assert "cannot be locked (No locks available); let no other run work here" in caplog.text


@pytest.mark.parametrize("command", ["run", "build", "train", "predict"])
def test_every_command_that_works_in_a_folder_refuses_one_that_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    source = ("--source", "arc1:evaluation", "--max-side", "4")
    data = ("--data", str(tmp_path / "data"))
    arguments = {
        "run": (*source, "--preset", "demo", "--time-limit", "20s"),
        "build": source,
        "train": (*data, "--preset", "demo"),
        "predict": (*data, "--weights", "w"),
    }
    with occupied(tmp_path / "out"):
        assert main([command, *arguments[command], "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "another run is at work here" in line] == said[-1:]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK_FILE}


def test_the_lock_is_one_of_the_system(tmp_path: Path) -> None:
    with occupied(tmp_path), (tmp_path / LOCK_FILE).open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
