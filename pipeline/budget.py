"""The clock as an input: what is left of a run's time limit, and what ends it there at the latest."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LAST_SECONDS = 2.0
"""Of the reserve, for a process to end in on a machine that is busy."""


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

    def last_moment(self) -> float | None:
        """Return the monotonic time at which a run has to be stopped: 20% of the reserve, at least 2 seconds, are left then."""
        if self.limit_seconds is None:
            return None
        kept = max(0.2 * self.reserve_seconds, min(self.reserve_seconds, LAST_SECONDS))
        return self.started + self.limit_seconds - kept

    def until(self, seconds_from_now: float | None) -> "Budget":
        """Return a budget without reserve that starts now and lasts `seconds_from_now`."""
        return Budget(seconds_from_now, time.monotonic())


def default_reserve(limit_seconds: float) -> float:
    """Return the seconds of a time limit that are kept free at its end: 3%, at least 5 seconds, at most 20 minutes."""
    return min(max(0.03 * limit_seconds, 5.0), 1200.0)


def end_at(last_moment: float) -> threading.Timer:
    """End the process at a monotonic time, whatever it is doing then: the result on disk is complete at all times."""

    def stop() -> None:
        try:
            logger.error("the time limit is reached; stopping at once, the result on disk is complete")
        finally:
            os._exit(1)

    timer = threading.Timer(max(0.0, last_moment - time.monotonic()), stop)
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def stop_at(last_moment: float | None) -> Iterator[None]:
    """As `end_at`, if the block takes so long; None for no end."""
    timer = None if last_moment is None else end_at(last_moment)
    try:
        yield
    finally:
        if timer:
            timer.cancel()
