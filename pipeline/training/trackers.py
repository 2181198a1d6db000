"""Trackers such as TensorBoard: they follow metrics.jsonl while a run writes it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import orjson

from augment.errors import InputError
from eval.files import replace_file
from pipeline.config import CONFIG_FILE
from pipeline.system.progress_bar import is_main_process
from pipeline.training.metrics import METRICS_FILE, read_further_metrics

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
SENT_FILE = "tracker.json"
"""The last step that each tracker has received, by its name."""


@contextmanager
def _following(name: str, out: Path) -> Iterator[None]:
    """Follow `out`/metrics.jsonl in a thread while the block runs, and send what is left at its end."""
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(name, out, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=30.0)


def tracked(name: str | None, out: Path | None) -> AbstractContextManager[None]:
    """Return a context in which the lines of `out`/metrics.jsonl are sent to the tracker `name`, by the first process.

    Raises InputError, of one line, where Accelerate has no tracker of this name or its package is missing.
    """
    if name is None or out is None:
        return nullcontext()
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # noqa: PLC0415  (slow to import)

    if name not in LOGGER_TYPE_TO_CLASS:
        raise InputError(f"unknown tracker {name!r}; one of: {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    builtin = LOGGER_TYPE_TO_CLASS[name].__module__.startswith("accelerate.")
    if builtin and name not in map(str, get_available_trackers()):
        raise InputError(f"tracker {name!r}: its package is not installed: pip install {name.replace('_', '-')}")
    return _following(name, out) if is_main_process() else nullcontext()


def follow(name: str, out: Path, ended: threading.Event) -> None:
    """Send every line of `out`/metrics.jsonl to the tracker `name`, also new ones, until `ended` is set and all are sent.

    A resumed run sends no step twice. A tracker that keeps files has them in the folder of its name in `out`.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # noqa: PLC0415  (slow to import)

    try:
        kind, run = LOGGER_TYPE_TO_CLASS[name], out.resolve().name or "run"
        tracker = kind(run, str(out / name)) if kind.requires_logging_directory else kind(run)
        tracker.start()
        sent = orjson.loads((out / SENT_FILE).read_bytes()) if (out / SENT_FILE).is_file() else {}
        last, config = sent.get(name, -1), out / CONFIG_FILE
        configured, place = last >= 0, (0, 0)
        while True:
            finishing = ended.is_set()
            if not configured and config.is_file():
                configured = True
                sections = orjson.loads(config.read_bytes()).items()
                tracker.store_init_configuration({f"{s}.{key}": value for s, part in sections for key, value in part.items()})
            lines, place = read_further_metrics(out / METRICS_FILE, place)
            new = [line for line in lines if isinstance(line.get("step"), int) and line["step"] > last]
            for line in new:
                last = line.pop("step")
                tracker.log({key: value for key, value in line.items() if isinstance(value, int | float)}, step=last)
            if new:
                replace_file(out / SENT_FILE, orjson.dumps(sent | {name: last}))
            if finishing:
                break
            ended.wait(POLL_SECONDS)
        tracker.finish()
    except Exception:  # trackers raise what they like, and none of it may end a run
        logger.warning("the tracker %s failed and gets nothing more; metrics.jsonl has it all", name, exc_info=True)
