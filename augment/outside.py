"""What comes from outside: files, read whole but within bounds, and names and values of theirs, shown on one line.

Under every reader of the project. Whatever lies at a path, reading it ends soon and takes no more memory than is said here.
"""

import re
import reprlib
import stat
from pathlib import Path

MOST_BYTES = 1 << 30
"""Largest file that is read whole: a hundred times the public tasks."""
MOST_JSON_BYTES = 1 << 30
"""Memory that a JSON document may take: some 200 MB of tasks as text."""

SHOWN_NAME_CHARACTERS = 60

_PLAIN_NAME = re.compile(rf"[A-Za-z0-9_./-]{{1,{SHOWN_NAME_CHARACTERS}}}")
_LIST_BYTES, _OBJECT_BYTES, _TEXT_BYTES, _FRACTION_BYTES, _ITEM_BYTES = 64, 240, 60, 24, 8
# What Python takes at least for a list, an object that is not empty, a text, a number with a point, a place in a list.

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple = 2, 4, 3, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = SHOWN_NAME_CHARACTERS


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the bytes of the file at `path`.

    Raises FileNotFoundError where there is none, and ValueError where it is no regular file (a pipe would never end), cannot be
    read, or has more than `most_bytes`; one line that begins with the path.
    """
    size = require_file(path)
    if size > most_bytes:
        raise ValueError(f"{show_path(path)}: too large: {size:,} bytes, and {most_bytes:,} are read at most")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{show_path(path)}: cannot be read: {error.strerror or type(error).__name__}") from error


def require_file(path: Path) -> int:
    """Return the bytes that the regular file at `path` has. Raises FileNotFoundError or ValueError as `read_file` does."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{show_path(path)}: no such file") from None
    except OSError as error:
        raise ValueError(f"{show_path(path)}: cannot be read: {error.strerror or type(error).__name__}") from error
    except ValueError:  # a character that no path can have
        raise FileNotFoundError(f"{show_path(path)}: no such file") from None
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{show_path(path)}: is a folder, and a file is expected")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{show_path(path)}: is no regular file")
    return status.st_size


def require_modest(data: bytes, where: str) -> None:
    """Raise ValueError, beginning with `where`, if the JSON text `data` would take more memory than `MOST_JSON_BYTES`.

    A few hundred kilobytes of a zip may be a quarter of a gigabyte of `[],[],[],`, and that some gigabytes of lists.
    """
    if len(data) * _OBJECT_BYTES <= MOST_JSON_BYTES:  # whatever it holds
        return
    places = data.count(b",") + data.count(b"[") + data.count(b"{")
    needed = places * _ITEM_BYTES + data.count(b"[") * _LIST_BYTES + data.count(b"{") * _OBJECT_BYTES
    needed += data.count(b'"') // 2 * _TEXT_BYTES + data.count(b".") * _FRACTION_BYTES + len(data)
    if needed > MOST_JSON_BYTES:
        raise ValueError(
            f"{where}: too large: its values would take {needed / 1e9:.1f} GB of memory, and {MOST_JSON_BYTES / 1e9:.1f} GB "
            "is the most"
        )


def show_name(name: str) -> str:
    """Return a task id, key or file name from outside as at most 60 printable characters, quoted unless it is plain."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    quoted = repr(name[: SHOWN_NAME_CHARACTERS + 1])  # of more than 60 characters, the last is cut off below
    return quoted if len(quoted) <= SHOWN_NAME_CHARACTERS else quoted[: SHOWN_NAME_CHARACTERS - 3] + "..."


def show_path(path: object) -> str:
    """Return a path in full and on one line, quoted if it has characters that do not print."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def show_value(value: object) -> str:
    """Return a value from outside as Python writes it, shortened to a line, however large and deep it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of thousands of digits"
