"""run.json: the command of a run and the seconds of its stages over all starts. Written first, before torch is imported."""

import argparse
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from eval.decode import read_dataclass
from eval.files import replace_file
from eval.formatting import MOST_SECONDS, show_path, show_value
from pipeline.config import CONFIG_FILE, last_of_each, read_config, resumed
from pipeline.data.sources import Selection
from pipeline.inference.facts import CANDIDATES
from pipeline.weights.find import newest_checkpoint

logger = logging.getLogger(__name__)

RECORD_FILE = "run.json"
PREDICTING = "predicting"
"""The file of a run directory that is there from the end of training to the end of prediction, of all networks of a run."""


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says of a run; benchmark_record makes a folder of records/ from some."""

    sources: tuple[str, ...]
    """What was to be solved."""
    train_sources: tuple[str, ...] = ()
    max_side: int | None = None
    hold_out: bool = False
    limit: int | None = None
    """Of puzzles to train on, drawn from each source; None for all."""
    test_limit: int | None = None
    """Of puzzles to solve, likewise."""
    preset: str = ""
    """Empty where the settings are those of `weights`."""
    settings: tuple[str, ...] = ()
    """SECTION.FIELD=VALUE, over those."""
    seed: int = 0
    networks: int = 1
    """That were trained side by side."""
    time_limit: str = ""
    """As it was given; empty for none."""
    reserve: str = ""
    """The same."""
    weights: str = ""
    """What training started from; empty for nothing."""
    started: str = ""
    """Date and time, UTC, of the latest start."""
    starts: int = 1
    """How often the run was started, the first time included."""
    device: str = ""
    fallbacks: tuple[str, ...] = ()
    """What the last training did in a slower way than it was meant to, and why."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of each stage, in order, over all starts."""

    def __post_init__(self) -> None:
        Selection(self.max_side, self.hold_out)  # refuses what cannot be
        if not all(0 <= seconds <= MOST_SECONDS for seconds in self.seconds.values()):
            raise InputError(f"seconds cannot be {show_value(self.seconds)}")

    @property
    def selection(self) -> Selection:
        """Which tasks of the sources were to be solved."""
        return Selection(self.max_side, self.hold_out)


def as_option(name: str, value: object) -> list[str]:
    """Return the words of an option on a command line: none for None, False and "", all of several values."""
    if value is None or value is False or value == "":
        return []
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    return [word for each in (value if isinstance(value, tuple | list) else (value,)) for word in (option, str(each))]


def leave_record(arguments: argparse.Namespace) -> None:
    """Write the record of the command `run` into its folder.

    The record of a run that is resumed keeps what the run was begun with, and the seconds of its stages; the log names what the
    command asks for differently. Raises InputError for a damaged config.json.
    """
    given = RunRecord(
        sources=tuple(arguments.source),
        train_sources=tuple(arguments.train_source),
        max_side=arguments.max_side,
        hold_out=arguments.hold_out,
        limit=arguments.limit,
        test_limit=arguments.test_limit,
        preset=arguments.preset or "",
        settings=tuple(arguments.set),
        seed=arguments.seed,
        networks=arguments.networks,
        time_limit=arguments.time_limit or "",
        reserve=arguments.reserve or "",
        weights=str(arguments.weights or ""),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    earlier, stored = record_if_usable(arguments.out) if arguments.resume else None, arguments.out / CONFIG_FILE
    if earlier is None:
        _write(arguments.out, given)
        return
    if stored.is_file():
        if given.weights and not newest_checkpoint(arguments.out):
            earlier = replace(earlier, weights=given.weights)  # nothing has begun with others
        for name in ("preset", "seed", "train_sources", "weights"):
            kept, other = (_shown(getattr(record, name)) for record in (earlier, given))
            if kept != other and (name, other) != ("weights", "none"):
                logger.warning("%s %s: the run that is resumed has %s, and keeps that", name.replace("_", " "), other, kept)
        _, refused = resumed(read_config(stored), given.settings)
        taken = tuple(setting for setting in given.settings if setting not in refused)
        settings = last_of_each((*earlier.settings, *taken))
        now = ("networks", "time_limit", "reserve", "started")
        given = replace(earlier, settings=settings, **{name: getattr(given, name) for name in now})
    _write(arguments.out, replace(given, starts=earlier.starts + 1, device=earlier.device, seconds=earlier.seconds))


def _shown(value: object) -> str:
    return (" + ".join(value) if isinstance(value, tuple) else str(value)) or "none"


class Stopwatch:
    """Adds the seconds of each stage to the record of a run. Does nothing without a folder, or without a record in it."""

    def __init__(self, folder: Path | None, started: float) -> None:
        """`started` is the monotonic time at which the first stage began."""
        self.folder, self.since = folder, started

    def lap(self, stage: str, **known: Any) -> None:
        """Add the seconds since the last call to those of `stage`, with other fields of the record that are `known` now."""
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        record = record_if_usable(self.folder) if self.folder else None
        if self.folder and record:
            added = {**record.seconds, stage: round(record.seconds.get(stage, 0.0) + seconds, 3)}
            _write(self.folder, replace(record, seconds=added, **known))


def record_if_usable(folder: Path) -> RunRecord | None:
    """Return the record in `folder`, None where it is missing or damaged: a run goes on without it."""
    try:
        return read_dataclass(RunRecord, folder / RECORD_FILE)
    except (InputError, OSError) as error:
        logger.warning("%s", error)
        return None


def _write(folder: Path, record: RunRecord) -> None:
    try:
        replace_file(folder / RECORD_FILE, orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except (OSError, orjson.JSONEncodeError) as error:
        logger.warning("%s is not kept: %s", RECORD_FILE, error)


def require_own_folder(path: Path) -> None:
    """Raise InputError where the votes and the score beside a new submission `path` would replace those of another one."""
    if not path.name:
        raise InputError(f"{show_path(path)}: expected the name of a file")
    other = path.with_name("submission.json")
    if path.name != other.name and other.exists():
        raise InputError(f"{show_path(path)}: its folder has the votes of {show_path(other)}; choose another one")
    if path.with_name(RECORD_FILE).exists() or path.with_name(CANDIDATES).exists():
        raise InputError(f"{show_path(path)}: its folder has predictions, whose votes these would replace; choose another one")
