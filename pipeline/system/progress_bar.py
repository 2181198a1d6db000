"""Progress of work over two seconds: a bar in a terminal or notebook, log lines elsewhere. Only rank 0 shows it."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from eval.formatting import format_duration

logger = logging.getLogger(__name__)

T = TypeVar("T")
SILENT_SECONDS = 2.0
"""Before anything is shown."""
LINE_SECONDS = 20.0
"""Between log lines."""


class Progress:
    """Counts and shows how much of some work is done. A context: leaving it removes the bar."""

    def __init__(self, what: str, total: int | None = None, unit: str = "") -> None:
        """`what` is a phrase such as "reading x.csv"; `total` is None where it is unknown; `unit` is a plural."""
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.started = time.monotonic()
        self.due = self.started + SILENT_SECONDS
        self.bar: Any = None
        if is_main_process() and has_bars():
            unit = f" {unit}" if unit else "it"
            self.bar = make_bar(total=total, desc=what, unit=unit, delay=SILENT_SECONDS, leave=False, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count)
        elif now >= self.due and is_main_process():
            self.due = now + LINE_SECONDS
            share = f" {self.done / self.total:.0%}" if self.total else ""
            of = "" if self.total is None else f" of {self.total}"
            passed = format_duration(now - self.started)
            logger.info("%s:%s %d%s %s, %s so far", self.what, share, self.done, of, self.unit, passed)


def watch(items: Iterable[T], what: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Yield `items` and show how many there were, of `total` or of their length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.add()


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Log now and then that `what` is being done and for how long, where there is nothing to count."""
    done, started = threading.Event(), time.monotonic()

    def log() -> None:
        pause = SILENT_SECONDS
        while not done.wait(pause):
            logger.info("%s: %s so far", what, format_duration(time.monotonic() - started))
            pause = LINE_SECONDS

    if is_main_process():
        threading.Thread(target=log, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def is_main_process() -> bool:
    """Return whether this is rank 0, the only process that shows progress."""
    return int(os.environ.get("RANK", "0")) == 0


def has_bars() -> bool:
    """Return whether progress is shown as bars: in a terminal or in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return sys.stderr.isatty() or (shell is not None and "IPKernelApp" in shell.config)


def make_bar(**options: Any) -> Any:
    """Return the bar of tqdm that fits the terminal or notebook, made with `options`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # a notebook without ipywidgets gets a text bar
        from tqdm.auto import tqdm  # noqa: PLC0415  (slow to import)
    return tqdm(**options)
