"""Values as people read them: names and paths from outside on one line, durations, sizes."""

import math
import re
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from augment.errors import InputError

SHOWN_NAME_CHARACTERS = 60
_PLAIN_NAME = re.compile(rf"[A-Za-z0-9_./-]{{1,{SHOWN_NAME_CHARACTERS}}}")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple = 2, 4, 3, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = SHOWN_NAME_CHARACTERS


def show_name(name: str) -> str:
    """Return a task id, key or file name from outside as at most 60 printable characters, quoted unless it is plain."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    quoted = repr(name[: SHOWN_NAME_CHARACTERS + 1])  # of more than 60 characters, the last is cut off below
    return quoted if len(quoted) <= SHOWN_NAME_CHARACTERS else quoted[: SHOWN_NAME_CHARACTERS - 3] + "..."


def show_path(path: object) -> str:
    """Return a path in full and on one line, quoted if it has characters that do not print."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def show_value(value: object) -> str:
    """Return a value from outside as Python writes it, shortened to a line, however large and deep it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of thousands of digits"


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
MOST_SECONDS = 10_000 * 3600.0


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `25m` or `11h30m`. Raises InputError for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise InputError(f"a duration reads like 90s, 25m or 11h30m, got {show_value(text)}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total > MOST_SECONDS:
        raise InputError(f"a duration is 10,000 hours at most, got {show_value(text)}")
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


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def show_names(names: Sequence[str]) -> str:
    """Return the first three of `names`, made printable, and dots for the others."""
    return ", ".join(map(show_name, names[:3])) + ", ..." * (len(names) > 3)


def plural_range(least: int, most: int, noun: str) -> str:
    """Return a range of counts with its noun: 4 views, 1 to 8 views."""
    return plural(most, noun) if least == most else f"{least:,} to {plural(most, noun)}"


def size_text(grid: npt.NDArray[Any]) -> str:
    """Return the size of `grid` as people write it: height x width."""
    return f"{grid.shape[0]} x {grid.shape[1]}"


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}


def show_kind(value: object) -> str:
    """Return what a JSON value is, in words: an object, a list, a string, a number, a boolean or null."""
    return "null" if value is None else _KINDS[type(value)]
