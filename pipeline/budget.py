"""The clock as an input: durations as people write them, and what is left of a run's time limit."""

import math
import re
import time
from dataclasses import dataclass

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `25m` or `11h30m`. Raises ValueError for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise ValueError(f"a duration reads like 90s, 25m or 11h30m, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def format_duration(seconds: float) -> str:
    """Return `seconds` as people read them: 8s, 3m05s, 11h30m, and "no limit" where they are infinite."""
    if math.isinf(seconds):
        return "no limit"
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


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
