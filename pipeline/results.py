"""Results that a command leaves where it was told to, by `--json FILE` and its kind."""

from pathlib import Path

import orjson

from eval.replace import replace_file


def write_result(path: Path, value: object) -> None:
    """Write JSON to `path`: a file is replaced in one step; a link, a pipe or a device (/dev/stdout) is written to.

    Raises OSError.
    """
    content = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
    else:
        replace_file(path, content)
