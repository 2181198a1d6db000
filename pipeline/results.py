"""Results that a command leaves where it was told to, by `--json FILE`."""

from pathlib import Path

import orjson

from eval.replace import leave_file


def write_result(path: Path, value: object) -> None:
    """Write JSON to `path` in one step. Raises OSError."""
    leave_file(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))
