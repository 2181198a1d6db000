"""Metrics of a training run: metrics.jsonl, and progress on the terminal."""

import errno
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any

import orjson

from eval.files import read_file, replace_file
from eval.formatting import format_duration
from pipeline.system.progress_bar import LINE_SECONDS, has_bars, make_bar

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"

_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}"


@dataclass
class Totals:
    """Sums since the last line of metrics."""

    token_loss: float = 0.0
    halting_loss: float = 0.0
    exact: float = 0.0
    sequences: float = 0.0
    tokens: float = 0.0
    segments: float = 0.0
    seconds: float = 0.0
    """Of the steps, by the clock of the main process; what came before the first step does not count."""
    processor_seconds: float = 0.0

    def add(self, other: "Totals") -> None:
        """Add `other` in place."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Progress:
    """How far training is; what a resumed run continues from besides tensors."""

    step: int = 0
    seconds: float = 0.0
    """Training time so far, over all resumed parts."""
    setup_seconds: float = 0.0
    """Of these, what went into trials of memory and into compiling, before the first step of each part."""
    reached: float = 0.0
    """The largest share of the run that was done. A further leg makes the run longer and the share smaller."""
    processor_seconds: float = 0.0
    """Processor time of that, of all processes, up to the last line of metrics."""
    sequences: int = 0
    last: dict[str, float] = field(default_factory=dict)
    """The last line of metrics."""


def metrics_line(totals: Totals, progress: Progress, factor: float) -> dict[str, float]:
    """Return a line of metrics: means of the `totals` since the last one, with the `factor` on all learning rates."""
    count = totals.sequences
    return {
        "step": progress.step,
        "loss": round(totals.token_loss / count, 5),
        "halting_loss": round(totals.halting_loss / count, 5),
        "exact": round(totals.exact / count, 5),
        "segments": round(totals.segments / count, 3),
        "sequences_per_second": round(count / totals.seconds, 2),
        "tokens_per_second": round(totals.tokens / totals.seconds, 1),
        "rate_factor": round(factor, 5),
        "seconds": round(progress.seconds, 2),
        "processor_seconds": round(progress.processor_seconds, 2),
    }


class MetricsWriter:
    """Appends lines to metrics.jsonl and shows the last one. A context; silent without a path, outside the main process."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file: RawIOBase | None = None
        self.unwritten = b""
        """Lines that are not on the disk yet; of the first, possibly only the end."""
        shown = path is not None and has_bars() and logger.isEnabledFor(logging.INFO)
        self.bar: Any = make_bar(total=100, unit="%", desc="train", bar_format=_BAR) if shown else None
        self.shown_at = -math.inf

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.unwritten and self._append(b""):
            logger.warning("%s: the last %d lines are lost", self.path, self.unwritten.count(b"\n"))
        if self.file:
            self.file.close()

    def write(self, line: dict[str, float], done: float, left: float) -> None:
        """Add a line; `done` 0..1 is the share of the run, `left` the seconds that remain, or infinity.

        A full disk does not stop training: there is one warning, and lines are kept until they can be written.
        """
        if self.path is None:
            return
        waiting, problem = bool(self.unwritten), self._append(orjson.dumps(line) + b"\n")
        if problem and not waiting:
            logger.warning(
                "%s: lines wait from step %d on: %s: '%s'", self.path.name, line["step"], problem.strerror, self.path
            )
        text = (
            f"step {line['step']}, loss {line['loss']:.3f}, exact {line['exact']:.2f}, "
            f"{line['tokens_per_second'] / 1000:.1f}k tokens/s"
            + ("" if math.isinf(left) else f", {format_duration(left)} left")
        )
        if self.bar is not None:
            self.bar.n = round(100 * done, 1)
            self.bar.set_postfix_str(text)
        elif time.monotonic() - self.shown_at > LINE_SECONDS:
            self.shown_at = time.monotonic()
            logger.info("train %3.0f%%: %s", 100 * done, text)

    def _append(self, lines: bytes) -> OSError | None:
        """Write what is unwritten and then `lines`; return the error that kept some of it from being written."""
        assert self.path is not None
        self.unwritten += lines
        try:
            if self.file is None:
                self.file = self.path.open("ab", buffering=0)
            self.unwritten = self.unwritten[self.file.write(self.unwritten) :]
        except OSError as error:
            return error
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if self.unwritten else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that are objects; none where there is no file. One that was cut short is left out."""
    return _parse_lines(read_file(path)) if path.exists() else []


Place = tuple[int, int]
"""In a file: its number on the disk, and a byte."""


def read_further_metrics(path: Path, place: Place = (0, 0)) -> tuple[list[dict[str, Any]], Place]:
    """Return the lines from a `place` on, as `read_metrics` does, and where the next one begins.

    All of them where the file has been replaced, as where a resumed run computes some of its steps again.
    """
    if not path.exists():
        return [], place
    with path.open("rb") as file:
        number = os.fstat(file.fileno()).st_ino
        file.seek(place[1] if number == place[0] else 0)
        start, data = file.tell(), file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return _parse_lines(whole), (number, start + len(whole))


def _parse_lines(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.splitlines():
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


def drop_lines_after(path: Path, step: int) -> None:
    """Remove from metrics.jsonl the lines after `step`, which a resumed run computes again, and those that are damaged."""
    if path.is_file():
        kept = [line for line in read_metrics(path) if isinstance(line.get("step"), int) and line["step"] <= step]
        try:
            replace_file(path, b"".join(orjson.dumps(line) + b"\n" for line in kept))
        except OSError as error:
            logger.warning("%s; it has lines of steps that are computed again", error)
