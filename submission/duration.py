"""Durations as people write them: 90s, 25m, 11h30m."""

import math
import re

from augment.outside import show_value

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")

MOST_SECONDS = 10_000 * 3600.0


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `25m` or `11h30m`. Raises ValueError for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise ValueError(f"a duration reads like 90s, 25m or 11h30m, got {show_value(text)}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total > MOST_SECONDS:
        raise ValueError(f"a duration is 10,000 hours at most, got {show_value(text)}")
    return total


def format_duration(seconds: float) -> str:
    """Return `seconds` as people read them: 8s, 3m05s, 11h30m, and "no limit" where they are infinite."""
    if math.isinf(seconds):
        return "no limit"
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"
