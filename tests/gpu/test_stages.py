"""The stages of `make gpu`: a result that is wrong, and one that a slow machine did not reach in time."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.gpu.__main__ import stage


@pytest.mark.parametrize(
    ("program", "found", "says"),
    [
        ("print('so')", True, "==== name: right, "),
        ("raise SystemExit(3)", False, "==== name: WRONG (exit code 3), "),
        ("import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sleep]); exec(sleep)", None, "NOT FINISHED"),
    ],
)
def test_what_does_not_end_in_time_is_not_wrong_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str, found: bool | None, says: str
) -> None:
    sleep, started = f"import time; time.sleep(60)  # {tmp_path}", time.monotonic()
    assert (
        stage("name", [sys.executable, "-c", f"sleep = {sleep!r}; {program}"], tmp_path, 60.0 if found is not None else 2.0)
        is found
    )
    assert says in capsys.readouterr().out
    assert time.monotonic() - started < 30
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())]
    assert not [each for each in left if each.status() != psutil.STATUS_ZOMBIE]
