"""The clock as an input: what is left of a run's time limit, and what ends it there at the latest."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LAST_SECONDS = 2.0
"""Of the reserve, for a process to end in; on a machine that is not busy a hundredth of it would do."""

EARLIEST_SHARE = 0.8
"""Of the reserve, that is left at the earliest when a run is stopped."""

TICK_SECONDS = 0.25

LATENESS = 4.0
"""A process that wakes late ends slowly: it is stopped earlier by so many times the worst lateness of late."""

FORGETTING = 0.99
"""Of the worst lateness, what is left after a tick."""


@dataclass(frozen=True)
class Deadline:
    """The monotonic times between which a run has to be stopped, the later, the better the machine keeps up; and its limit."""

    earliest: float
    latest: float
    limit: float

    def set_alarm(self) -> None:
        """Have the system kill this process between `latest` and `limit`, should it not even come to stopping itself.

        It holds in the program that replaces this one, too.
        """
        signal.setitimer(signal.ITIMER_REAL, max(0.001, (self.latest + self.limit) / 2 - time.monotonic()))


@dataclass(frozen=True)
class Budget:
    """The wall clock of a run, by monotonic time. `limit_seconds` None means that only steps end it."""

    limit_seconds: float | None
    started: float
    """`time.monotonic()` at the first line of the run."""
    reserve_seconds: float = 0.0
    """Kept free at the end, for writing and for clocks that disagree."""

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Return the seconds left before the reserve begins; infinite without a limit."""
        if self.limit_seconds is None:
            return float("inf")
        return self.limit_seconds - self.reserve_seconds - self.elapsed()

    def deadline(self) -> Deadline | None:
        """Return when a run has to be stopped: at least 20% of the reserve, or 2 seconds of it, are left then."""
        if self.limit_seconds is None:
            return None
        limit, reserve = self.started + self.limit_seconds, self.reserve_seconds
        latest = limit - max((1 - EARLIEST_SHARE) * reserve, min(reserve, LAST_SECONDS))
        return Deadline(min(latest, limit - EARLIEST_SHARE * reserve), latest, limit)

    def until(self, seconds_from_now: float | None) -> "Budget":
        """Return a budget without reserve that starts now and lasts `seconds_from_now`."""
        return Budget(seconds_from_now, time.monotonic())


def default_reserve(limit_seconds: float) -> float:
    """Return the seconds of a time limit that are kept free at its end: 3%, at least 5 seconds, at most 20 minutes."""
    return min(max(0.03 * limit_seconds, 5.0), 1200.0)


class Watchdog(threading.Thread):
    """Ends the process within a deadline, whatever it is doing then: the result on disk is complete at all times."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(daemon=True)
        self.deadline = deadline
        self.called_off = threading.Event()

    def run(self) -> None:
        """Wait for the end, and watch how late this thread wakes up."""
        lateness = 0.0
        while True:
            now = time.monotonic()
            left = max(self.deadline.earliest, self.deadline.latest - LATENESS * lateness) - now
            if left <= 0:
                break
            pause = min(max(left, 0.01), TICK_SECONDS)
            if self.called_off.wait(pause):
                return
            passed = time.monotonic() - now
            lateness = max(passed - pause, lateness * FORGETTING ** (passed / TICK_SECONDS))
        try:
            logger.error("the time limit is reached; stopping at once, the result on disk is complete")
        finally:
            os._exit(1)


@contextmanager
def stop_at(deadline: Deadline | None) -> Iterator[None]:
    """Watch over a deadline while the block runs; None for none."""
    watchdog = None if deadline is None else Watchdog(deadline)
    if watchdog:
        watchdog.start()
    try:
        yield
    finally:
        if watchdog:
            watchdog.called_off.set()
