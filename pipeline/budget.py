"""The clock as an input: what is left of a run's time limit."""

import time
from dataclasses import dataclass


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

    def until(self, seconds_from_now: float | None) -> "Budget":
        """Return a budget without reserve that starts now and lasts `seconds_from_now`."""
        return Budget(seconds_from_now, time.monotonic())
