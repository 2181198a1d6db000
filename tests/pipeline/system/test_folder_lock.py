"""Only one run works in a folder, and a killed run leaves no stale lock."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.system import folder_lock
from pipeline.system.folder_lock import LOCK_FILE, FolderLock

ROOT = Path(__file__).parents[3]
HOLD = """
import pathlib, sys, time
from pipeline.system.folder_lock import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_locked_folder_is_refused_with_its_holder_until_it_is_unlocked(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    refused = rf"^{folder}: another run is at work here \(process {os.getpid()} on .+\); wait"
    with FolderLock(folder), pytest.raises(ValueError, match=refused):
        FolderLock(folder)
    with FolderLock(folder):
        pass


def test_a_killed_process_leaves_no_stale_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=rf"process {other.pid} on"):
            FolderLock(tmp_path)
        other.kill()
        other.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    with FolderLock(tmp_path):
        pass


def test_the_processes_of_a_launch_share_the_lock_even_when_the_launcher_is_killed(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as launcher:
        launcher.share_with_children()
        assert os.get_inheritable(launcher.descriptor)
        with FolderLock(tmp_path, shared=True):
            os.close(launcher.descriptor)
            launcher.descriptor = os.open(os.devnull, os.O_RDONLY)
            with pytest.raises(ValueError, match="another run is at work"):
                FolderLock(tmp_path)


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(number: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    with FolderLock(tmp_path):
        assert "cannot be locked (No locks available); start no other run here" in caplog.text


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", "--source arc1:evaluation --max-side 4 --preset demo --time-limit 20s"),
        ("build", "--source arc1:evaluation --max-side 4"),
        ("train", "--data d --preset demo"),
        ("predict", "--data d --weights w"),
    ],
)
def test_every_command_that_works_in_a_folder_refuses_a_locked_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, arguments: str
) -> None:
    out = tmp_path / "out"
    with FolderLock(out):
        assert main([command, *arguments.split(), "--out", str(out)]) == 2
    assert "another run is at work here" in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in out.iterdir()} == {LOCK_FILE}
