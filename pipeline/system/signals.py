"""Ctrl-C and SIGTERM: both end the program in order, and training first writes a checkpoint.

Set up by the command line; where nothing is, as in a notebook, signals do what they do there.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE_SECONDS = 2.0
"""A signal so long after the first is from somebody who does not want to wait. Launchers send theirs at once."""


class _Listener:
    """Hears signals: raises KeyboardInterrupt, or only remembers while that is deferred."""

    def __init__(self) -> None:
        self.heard: float | None = None
        self.deferring = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, now = self.heard is None, time.monotonic()
        if first:
            self.heard = now
        impatient = not first and now - (self.heard or now) > PATIENCE_SECONDS
        if impatient or (first and not self.deferring):
            raise KeyboardInterrupt


_listeners: list[_Listener] = []
"""The one of the command that runs is the last: signals belong to a whole process."""


@contextmanager
def interruptible() -> Iterator[None]:
    """While the block runs, SIGTERM and Ctrl-C raise one KeyboardInterrupt; more of them come only from somebody impatient."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Listener()
    before = {number: signal.signal(number, listener) for number in (signal.SIGINT, signal.SIGTERM)}
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """While the block runs, nothing is raised; the function that it gets tells whether it should come to its end.

    A signal that was heard is raised after the block, as KeyboardInterrupt, with the words of its error where it failed.
    """
    if not _listeners:
        yield lambda: False
        return
    listener = _listeners[-1]
    listener.deferring = True
    try:
        yield lambda: listener.heard is not None
    except Exception as error:
        if listener.heard is not None:
            raise KeyboardInterrupt(str(error)) from error
        raise
    finally:
        listener.deferring = False
    if listener.heard is not None:
        raise KeyboardInterrupt
