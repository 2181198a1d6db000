"""Orderly shutdown on Ctrl-C and SIGTERM: both raise one KeyboardInterrupt, which training defers to the end of its step."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PATIENCE_SECONDS = 2.0
"""A further signal is ignored this long after the first, since launchers repeat theirs at once; later ones interrupt again."""

_ENDING = b"ending in order, after this step; interrupt again after two seconds to end at once, without a checkpoint\n"


class _Handler:
    """Raises KeyboardInterrupt at the first signal, or only records it while `deferred`."""

    def __init__(self) -> None:
        self.received: float | None = None
        """Monotonic time of the first signal."""
        self.deferred = False

    def __call__(self, *_: object) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received = now
            if self.deferred:
                if os.environ.get("RANK", "0") == "0":
                    with suppress(OSError):
                        os.write(2, _ENDING)  # not through a stream, which this may interrupt
                return
        elif now - self.received <= PATIENCE_SECONDS:
            return
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Handle SIGINT and SIGTERM while the block runs. Only the main thread gets signals; in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Defer the interrupt while the block runs; the function that is yielded returns whether the block should end soon.

    A signal that came meanwhile raises KeyboardInterrupt after the block, with the message of its error if it failed. Outside
    `interruptible` nothing changes.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if not isinstance(handler, _Handler):
        yield lambda: False
        return
    handler.deferred = True
    try:
        yield lambda: handler.received is not None
    except Exception as error:
        if handler.received is not None:
            raise KeyboardInterrupt(str(error)) from error
        raise
    finally:
        handler.deferred = False
    if handler.received is not None:
        raise KeyboardInterrupt
