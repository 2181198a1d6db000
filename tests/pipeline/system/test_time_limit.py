"""Durations as people write them, and a time limit that holds."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.formatting import format_duration, parse_duration
from pipeline.system.time_limit import Budget, default_reserve, start_watchdog


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("25m", 1500), ("11h30m", 41_400), ("12h", 43_200), ("1h2m3s", 3723), (" 1.5H ", 5400), ("2m0.5s", 120.5)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "90", "h", "1d", "-5m", "5m1h", "1h 30m", "1h30", "1,5h", "1.h", ".5h", "1e3s", "inf", "10mm"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a duration reads like 90s, 25m or 11h30m, got "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (8.4, "8s"), (59.6, "1m00s"), (185, "3m05s"), (3599.4, "59m59s"), (3600, "1h00m"), (41_459, "11h30m"),
     (-3, "0s"), (math.inf, "no limit")],
)  # fmt: skip
def test_a_duration_is_written_as_people_read_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**6))
def test_a_written_duration_is_read_back_to_the_second_or_the_minute(seconds: int) -> None:
    lost = seconds - parse_duration(format_duration(seconds))
    assert lost == 0 if seconds < 3600 else 0 <= lost < 60


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, to be set."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_budget_counts_down_to_its_reserve_and_parts_of_it_have_none(clock: list[float]) -> None:
    budget = Budget(60.0, 100.0, reserve_seconds=10.0)
    assert (budget.elapsed(), budget.remaining()) == (0.0, 50.0)
    clock[0] = 155.0
    assert (budget.elapsed(), budget.remaining()) == (55.0, -5.0)
    assert Budget.lasting(7.0) == Budget(7.0, 155.0, 0.0)
    for endless in (Budget.lasting(None), Budget(None, 0.0, reserve_seconds=10.0)):
        assert endless.remaining() == math.inf


@pytest.mark.parametrize(("limit", "expected"), [(20.0, 5.0), (900.0, 9.0), (86_400.0, 600.0)])
def test_the_default_reserve_is_one_percent_within_bounds(limit: float, expected: float) -> None:
    assert default_reserve(limit) == pytest.approx(expected)


@pytest.mark.parametrize(("reserve", "least"), [(5.0, 2.0), (10.0, 2.0), (100.0, 20.0), (1.0, 1.0), (0.0, 0.0)])
def test_a_process_is_stopped_with_a_part_of_its_reserve_left(
    reserve: float, least: float, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    timer, alarm = Mock(), Mock()
    monkeypatch.setattr("threading.Timer", timer)
    monkeypatch.setattr("signal.setitimer", alarm)
    start_watchdog(160.0, reserve, Path())
    assert timer.call_args.args[0] == pytest.approx(60.0 - least)
    assert alarm.call_args.args[1] == pytest.approx(60.0 - least / 2)
    timer.return_value.start.assert_called_once_with()


WATCHED = """
import ctypes, os, sys, time
from pathlib import Path
from pipeline.system.time_limit import start_watchdog
start_watchdog(time.monotonic() + 6.0, 20.0, Path(sys.argv[1]))
{work}
"""
SLEEP = "import time; time.sleep(30)"
WORKS = {
    SLEEP: 1,
    "ctypes.PyDLL(None).sleep(30)": -signal.SIGALRM,  # C code that never lets another thread run
    f"os.execv(sys.executable, [sys.executable, '-c', {SLEEP!r}])": -signal.SIGALRM,
}


def test_a_process_ends_before_its_limit_whatever_it_is_doing(tmp_path: Path) -> None:
    started = time.monotonic()
    commands = [[sys.executable, "-c", WATCHED.format(work=work), tmp_path] for work in WORKS]
    processes = [subprocess.Popen(each, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, text=True) for each in commands]
    for process, code in zip(processes, WORKS.values(), strict=True):
        _, said = process.communicate()
        assert process.returncode == code
        assert ("the time limit is reached; stopping at once, there is no result yet" in said) == (code == 1)
    assert time.monotonic() - started < 25


def test_the_clock_of_a_process_begins_before_its_first_line() -> None:
    code = "import time; time.sleep(0.7); import pipeline.__main__ as program; print(time.monotonic() - program._STARTED)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, check=True)
    assert 0.7 <= float(done.stdout) < 60
