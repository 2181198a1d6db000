"""Durations as people write them, and a clock that counts down."""

import math
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.formatting import format_duration, parse_duration
from pipeline.system.time_limit import Budget, Deadline, Watchdog, default_reserve, stop_at


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("25m", 1500), ("11h30m", 41_400), ("12h", 43_200), ("1h2m3s", 3723), (" 1.5H ", 5400), ("2m0.5s", 120.5)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "90", "h", "1d", "-5m", "5m1h", "1h 30m", "1h30", "1,5h", "1.h", ".5h", "1e3s", "inf", "10mm"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a duration reads like 90s, 25m or 11h30m, got "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (8.4, "8s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.4, "59m59s"),
        (3600, "1h00m"),
        (41_459, "11h30m"),
        (-3, "0s"),
    ],
)
def test_a_duration_is_written_as_people_read_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_an_infinite_duration_is_no_limit() -> None:
    assert format_duration(math.inf) == "no limit"


@given(st.integers(0, 10**6))
def test_what_is_written_is_read_back_to_the_second_or_the_minute(seconds: int) -> None:
    lost = seconds - parse_duration(format_duration(seconds))
    assert lost == 0 if seconds < 3600 else 0 <= lost < 60


@given(st.integers(0, 99), st.integers(0, 999), st.integers(0, 999))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, to be set."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_budget_counts_down_to_its_reserve(clock: list[float]) -> None:
    budget = Budget(60.0, 100.0, reserve_seconds=10.0)
    assert (budget.elapsed(), budget.remaining()) == (0.0, 50.0)
    clock[0] = 140.0
    assert (budget.elapsed(), budget.remaining()) == (40.0, 10.0)
    clock[0] = 155.0
    assert budget.remaining() == -5.0


def test_a_budget_without_limit_never_ends(clock: list[float]) -> None:
    budget = Budget(None, 0.0, reserve_seconds=10.0)
    assert (budget.elapsed(), budget.remaining()) == (100.0, math.inf)


def test_a_reserve_longer_than_the_limit_leaves_nothing(clock: list[float]) -> None:
    budget = Budget(5.0, 100.0, reserve_seconds=10.0)
    assert budget.remaining() == -5.0


def test_a_part_of_a_budget_starts_now_without_reserve(clock: list[float]) -> None:
    whole = Budget(60.0, 0.0, reserve_seconds=10.0)
    assert whole.until(7.0) == Budget(7.0, 100.0, 0.0)
    assert whole.until(None).remaining() == math.inf


@pytest.mark.parametrize(
    ("reserve", "most", "least"), [(5.0, 4.0, 2.0), (10.0, 8.0, 2.0), (100.0, 80.0, 20.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)]
)
def test_a_run_is_stopped_with_a_part_of_its_reserve_left(reserve: float, most: float, least: float) -> None:
    deadline = Budget(60.0, 100.0, reserve).deadline()
    assert deadline is not None
    assert (160.0 - deadline.earliest, 160.0 - deadline.latest) == (pytest.approx(most), pytest.approx(least))
    assert Budget(None, 100.0, reserve).deadline() is None


@pytest.mark.parametrize(("limit", "expected"), [(20.0, 5.0), (600.0, 18.0), (43_200.0, 1200.0)])
def test_three_percent_are_kept_free_at_the_end_within_bounds(limit: float, expected: float) -> None:
    assert default_reserve(limit) == pytest.approx(expected)


class Ended(Exception):
    """Raised in place of ending the process."""


@pytest.fixture
def endings(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[float]":
    """The times at which processes would have ended."""
    times: queue.Queue[float] = queue.Queue()

    def end(code: int) -> None:
        times.put(time.monotonic())
        raise Ended

    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr("threading.excepthook", lambda caught: None)
    return times


def test_a_process_ends_at_its_last_moment_and_not_after_it_has_left(endings: "queue.Queue[float]") -> None:
    now = time.monotonic()
    with stop_at(Deadline(now, now + 0.05, now + 1.0)):
        pass
    with stop_at(None), pytest.raises(queue.Empty):
        endings.get(timeout=0.3)
    with stop_at(Deadline(now - 2.0, now - 1.0, now)):  # it is over already
        endings.get(timeout=5.0)


@pytest.mark.parametrize(("late", "expected"), [(0.0, 58.0), (0.25, 57.25), (7.0, 57.0)])
def test_a_process_that_wakes_late_ends_earlier(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, late: float, expected: float
) -> None:
    deadline = Budget(60.0, 100.0, 5.0).deadline()
    assert deadline is not None
    watchdog, ticks = Watchdog(deadline), 0

    def wait(seconds: float) -> bool:
        nonlocal ticks
        ticks += 1
        clock[0] += seconds + (late if ticks == 200 else 0.0)  # once, after some fifty seconds
        return False

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(watchdog.called_off, "wait", wait)
    monkeypatch.setattr("os._exit", end)
    with pytest.raises(Ended, match="1"):
        watchdog.run()
    assert clock[0] - 100.0 == pytest.approx(expected, abs=0.05)


def test_lateness_is_forgotten(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = Watchdog(Deadline(100.0, 500.0, 502.0))
    late = iter([10.0])

    def wait(seconds: float) -> bool:
        clock[0] += seconds + next(late, 0.0)
        return False

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(watchdog.called_off, "wait", wait)
    monkeypatch.setattr("os._exit", end)
    with pytest.raises(Ended):
        watchdog.run()
    assert clock[0] == pytest.approx(500.0, abs=0.1)


def test_a_process_that_does_nothing_any_more_is_ended_by_the_system_between_its_last_moment_and_its_limit() -> None:
    program = (
        "import ctypes, sys, time\n"
        "from pipeline.system.time_limit import Budget, Watchdog\n"
        "deadline = Budget(2.0, time.monotonic(), 1.0).deadline()\n"
        "deadline.set_alarm()\n"
        "Watchdog(deadline).start()\n"
        "ctypes.PyDLL(None).sleep(30)\n"  # and keeps Python to itself
    )
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == -signal.SIGALRM
    assert time.monotonic() - started < 20
