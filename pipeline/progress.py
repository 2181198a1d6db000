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
        self.broken = False
        """Whether the last line could not be written, or not in full."""
        shown = path is not None and has_bars() and logger.isEnabledFor(logging.INFO)
        self.bar: Any = make_bar(total=100, unit="%", desc="train", bar_format=_BAR) if shown else None
        self.told = -math.inf

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.metrics:
            self.metrics.close()

    def write(self, line: dict[str, float], done: float, left: float) -> None:
        """Add a line; `done` 0..1 is the share of the run, `left` the seconds that remain, or infinity.

        Training does not depend on it: that the disk takes no more is said once, and lines are missing until it does again.
        """
        if self.path is None:
            return
        try:
            self._append(self.path, orjson.dumps(line) + b"\n")
            self.broken = False
        except OSError as error:
            if not self.broken:
                logger.warning("%s: lines are missing from step %d on: %s", self.path, line["step"], error.strerror)
            self.broken = True
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

    def _append(self, path: Path, line: bytes) -> None:
        """Write a line after the last whole one. Raises OSError."""
        if self.metrics is None:
            self.metrics = path.open("ab", buffering=0)
        content = b"\n" + line if self.broken else line  # what there is of the last one is none
        if self.metrics.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
