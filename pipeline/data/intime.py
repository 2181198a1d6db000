"""Sources to be trained on, as far as there is time to read them."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from augment.outside import show_path

logger = logging.getLogger(__name__)

T = TypeVar("T")


def load_in_time(specs: Iterable[str], load: Callable[[str], T], seconds: float | None) -> list[T]:
    """Return what `load` makes of each source, in order. Those whose turn comes after `seconds` are left out, which is said."""
    started, loaded = time.monotonic(), list[T]()
    for spec in specs:
        elapsed = time.monotonic() - started
        if seconds is not None and loaded and elapsed > seconds:
            logger.warning("%s is left out: reading the sources before it took %.0f s", show_path(spec), elapsed)
        else:
            loaded.append(load(spec))
    return loaded
