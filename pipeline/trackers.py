"""Sends the lines of metrics.jsonl to a tracker of Accelerate while a run writes them: `--tracker tensorboard`.

Beside training, which knows nothing of it: a thread reads what is new in the file every few seconds. The file stays the record;
a tracker that fails is told once and left alone, the run goes on. What has been sent is remembered in `tracker.json`, so that a
run that is resumed sends nothing twice.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import orjson

from eval.replace import replace_file
from pipeline.data.watch import speaks

POLL_SECONDS = 2.0
SENT_FILE = "tracker.json"

_PACKAGES = {"comet_ml": "comet-ml"}
"""Where the package to install is not called like the tracker."""

logger = logging.getLogger(__name__)


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
