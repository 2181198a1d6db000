"""The stages of `make gpu`: a result that is wrong, and one that a slow machine did not reach in time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu.__main__ import stage


@pytest.mark.parametrize(
    ("program", "right", "says"),
    [("print('so')", True, "==== name: right, "), ("raise SystemExit(3)", False, "==== name: WRONG (exit code 3), ")],
)
def test_a_stage_is_right_or_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str, right: bool, says: str
) -> None:
    assert stage("name", [sys.executable, "-c", program], tmp_path, 60.0) is right
    assert says in capsys.readouterr().out


def test_what_does_not_end_in_time_is_not_wrong_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began, alive = tmp_path / "began", tmp_path / "alive"
    inner = f"import time; from pathlib import Path\nwhile True: time.sleep(0.01); Path({str(alive)!r}).touch()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"

    def expire(_: object, seconds: float) -> int:
        while not alive.exists():
            time.sleep(0.01)
        began.touch()
        raise subprocess.TimeoutExpired("stage", seconds)

    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", lambda self, *given: expire(self, *given) if given else wait(self))
    assert stage("name", [sys.executable, "-c", outer], tmp_path, 60.0) is None
    assert began.exists()
    assert "==== name: NOT FINISHED, " in capsys.readouterr().out
    time.sleep(0.5)
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()
