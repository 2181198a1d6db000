"""The time limit of a run: how much of it is left (Budget), and what enforces it at the latest (the watchdog)."""

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """The wall clock of a run, in monotonic time. `limit_seconds` None means that only the number of steps ends it."""

    limit_seconds: float | None
    started: float
    """`time.monotonic()` at the first line of the run."""
    reserve_seconds: float = 0.0
    """Kept free at the end, for writing files and for clocks that disagree."""

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Return the seconds left before the reserve begins; infinite without a limit."""
        if self.limit_seconds is None:
            return float("inf")
        return self.limit_seconds - self.reserve_seconds - self.elapsed()

    @staticmethod
    def lasting(seconds: float | None) -> "Budget":
        """Return a budget without reserve that starts now; with None one without a limit."""
        return Budget(seconds, time.monotonic())


NO_LIMIT = Budget(None, 0.0)


def default_reserve(limit_seconds: float) -> float:
    """Return the default reserve of a time limit in seconds: 1% of it, at least 5 seconds, at most 10 minutes."""
    return min(max(0.01 * limit_seconds, 5.0), 600.0)


LEAST_SHARE, LEAST_SECONDS = 0.2, 2.0
"""At least this share of the reserve, and this many seconds of it, are left when the process is stopped."""


def start_watchdog(limit: float, reserve_seconds: float, out: Path) -> None:
    """End the process before the monotonic time `limit`, whatever it is doing then: a result in `out` is always complete.

    Where C code never lets a thread run, the kernel kills the process with an alarm, halfway between the stop and the limit;
    the alarm also survives `exec`.
    """
    latest = limit - max(LEAST_SHARE * reserve_seconds, min(reserve_seconds, LEAST_SECONDS))
    signal.setitimer(signal.ITIMER_REAL, max(0.001, (latest + limit) / 2 - time.monotonic()))
    timer = threading.Timer(latest - time.monotonic(), _stop, [out])
    timer.daemon = True
    timer.start()


def _stop(out: Path) -> None:
    try:
        there = any((out / name).is_file() for name in ("submission.json", "predictions.csv"))
        left = "the result on disk is complete" if there else "there is no result yet: the tasks were still being read"
        logger.error("the time limit is reached; stopping at once, %s", left)
    finally:
        os._exit(1)
