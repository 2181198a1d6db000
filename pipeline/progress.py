"""How far training is, what its steps came to, and how that is told: metrics.jsonl, and a bar or lines of the log.

Filled by pipeline.train, step by step.
"""

import errno
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from pipeline.data.watch import has_bars, make_bar
from submission.duration import format_duration

logger = logging.getLogger(__name__)

LINE_SECONDS = 20.0
"""Between lines of progress where there is neither a terminal nor a notebook to draw a bar in."""

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
    sequences: int = 0
    last: dict[str, float] = field(default_factory=dict)
    """The last line of metrics."""


def metrics_line(totals: Totals, progress: Progress, seconds: float, factor: float) -> dict[str, float]:
    """Return a line of metrics: means of what the last `seconds` came to, with the `factor` on all rates."""
    count = totals.sequences
    return {
        "step": progress.step,
        "loss": round(totals.token_loss / count, 5),
        "halting_loss": round(totals.halting_loss / count, 5),
        "exact": round(totals.exact / count, 5),
        "segments": round(totals.segments / count, 3),
        "sequences_per_second": round(count / seconds, 2),
        "tokens_per_second": round(totals.tokens / seconds, 1),
        "rate_factor": round(factor, 5),
        "seconds": round(progress.seconds, 2),
    }


class Journal:
    """Writes the lines of metrics and shows the last one. A context; silent where it has no path, outside the main process."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.metrics: RawIOBase | None = None
        self.unwritten = b""
        """What the disk has not taken yet: lines, of the first maybe the rest alone."""
        shown = path is not None and has_bars() and logger.isEnabledFor(logging.INFO)
        self.bar: Any = make_bar(total=100, unit="%", desc="train", bar_format=_BAR) if shown else None
        self.told = -math.inf

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.unwritten:
            self._append(b"")
        if self.unwritten:
            logger.warning("%s: the last %d lines are lost", self.path, self.unwritten.count(b"\n"))
        if self.metrics:
            self.metrics.close()

    def write(self, line: dict[str, float], done: float, left: float) -> None:
        """Add a line; `done` 0..1 is the share of the run, `left` the seconds that remain, or infinity.

        Training does not depend on it: that the disk takes no more is said once, and lines wait until it does again.
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
        elif time.monotonic() - self.told > LINE_SECONDS:  # a plain line now and then
            self.told = time.monotonic()
            logger.info("train %3.0f%%: %s", 100 * done, text)

    def _append(self, lines: bytes) -> OSError | None:
        """Write what waits, and then `lines`; return what kept some of it from being written."""
        assert self.path is not None
        self.unwritten += lines
        try:
            if self.metrics is None:
                self.metrics = self.path.open("ab", buffering=0)
            self.unwritten = self.unwritten[self.metrics.write(self.unwritten) :]
        except OSError as error:
            return error
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if self.unwritten else None
