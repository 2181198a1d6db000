"""metrics.jsonl read again, as training left it: for reports and curves, without torch."""

from pathlib import Path
from typing import Any

import orjson

from augment.outside import read_file


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
