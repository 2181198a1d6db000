"""Standard output that may be closed or full: what is printed there must not end a run, whose files are what counts."""

import logging
import os

logger = logging.getLogger(__name__)


def print_result(text: str) -> None:
    """Print `text`; where nobody reads it any more, or a disk is full, the log says so and no further output is written."""
    try:
        print(text, flush=True)
    except OSError as error:
        logger.warning("the score cannot be printed: %s", error.strerror)
        discard_output()


def discard_output() -> None:
    """Discard what is printed from now on, and what is still to be written when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
