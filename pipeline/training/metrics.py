"""How far training is, what its steps came to, and how that is told: metrics.jsonl, and a bar or lines of the log.

Filled by pipeline.training.trainer, step by step.
"""

import errno
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from eval.files import read_file, replace_file
from eval.formatting import format_duration
from pipeline.system.progress_bar import has_bars, make_bar, speaks

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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that are objects; none where there is no file, and not the line that was cut short."""
    lines = read_file(path).splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


POLL_SECONDS = 2.0

SENT_FILE = "tracker.json"

_PACKAGES = {"comet_ml": "comet-ml"}
"""Where the package to install is not called like the tracker."""


def check_tracker(name: str) -> None:
    """Raise ValueError, of one line, where there is no tracker of this name or its package is missing."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # noqa: PLC0415  (slow to import)

    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"unknown tracker {name!r}; one of: {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    builtin = LOGGER_TYPE_TO_CLASS[name].__module__.startswith("accelerate.")
    if builtin and name not in map(str, get_available_trackers()):
        raise ValueError(f"tracker {name!r}: its package is not installed: pip install {_PACKAGES.get(name, name)}")


def tracked(name: str | None, out: Path | None) -> AbstractContextManager[None]:
    """Return the context in which a command runs: it follows `out`/metrics.jsonl, in the first process, if there is a name.

    Raises ValueError like `check_tracker`.
    """
    if name is None or out is None:
        return nullcontext()
    check_tracker(name)
    return tracking(name, out) if speaks() else nullcontext()


@contextmanager
def tracking(name: str, out: Path) -> Iterator[None]:
    """Follow `out`/metrics.jsonl while the block runs."""
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(out / "metrics.jsonl", name, out, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=30.0)


def follow(metrics: Path, name: str, out: Path, ended: threading.Event) -> None:
    """Send every line of `metrics` to the tracker `name`, also those to come, until `ended` is set and all are sent.

    A tracker that keeps files puts them into a folder of `out` that is called like it.
    """
    try:
        tracker = _start(name, out)
        sent = _read_sent(out / SENT_FILE)
        offset, last, configured = 0, sent.get(name, -1), False
        while True:
            finishing = ended.is_set()
            if not configured and (out / "config.json").is_file():
                configured = True
                if last < 0:
                    tracker.store_init_configuration(_flat(orjson.loads((out / "config.json").read_bytes())))
            lines, offset = _read_new(metrics, offset)
            new = [line for line in map(_parse, lines) if line and line["step"] > last]
            for line in new:
                values = {key: value for key, value in line.items() if key != "step" and isinstance(value, int | float)}
                tracker.log(values, step=line["step"])
                last = line["step"]
            if new:
                replace_file(out / SENT_FILE, orjson.dumps(sent | {name: last}))
            if finishing:
                break
            ended.wait(POLL_SECONDS)
        tracker.finish()
    except Exception:  # trackers raise what they like, and none of it shall end a run
        logger.warning("the tracker %s failed and gets nothing more; metrics.jsonl has it all", name, exc_info=True)


def _start(name: str, out: Path) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # noqa: PLC0415  (slow to import)

    kind = LOGGER_TYPE_TO_CLASS[name]
    run = out.resolve().name or "run"
    tracker = kind(run, str(out / name)) if kind.requires_logging_directory else kind(run)
    tracker.start()
    return tracker


def _read_new(path: Path, offset: int) -> tuple[list[bytes], int]:
    """Return the complete lines after `offset` and where they end; from the start where the file has become shorter."""
    if not path.is_file():
        return [], 0
    content = path.read_bytes()
    if len(content) < offset:
        offset = 0  # a run that is resumed drops the lines after its checkpoint
    end = content.rfind(b"\n") + 1
    return content[offset:end].splitlines(), max(offset, end)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line of metrics, None where it was cut short."""
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def _read_sent(path: Path) -> dict[str, int]:
    """Return the last step that each tracker has got."""
    values = orjson.loads(path.read_bytes()) if path.is_file() else {}
    return {name: step for name, step in values.items() if isinstance(step, int)}


def _flat(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a config as one level of section.field."""
    return {f"{section}.{name}": value for section, part in config.items() for name, value in part.items()}
