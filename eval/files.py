"""Files: read whole but within bounds, replaced in one step. JSON from outside, read strictly.

Whatever lies at a path, reading it ends soon and takes a bounded amount of memory. A reader of a file that this
program replaces finds the old content or the whole of the new.
"""

import json
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import orjson

from eval.formatting import _SHORT, SHOWN_NAME_CHARACTERS, show_kind, show_name, show_path

_UNFINISHED = re.compile(r"\..+\.\d+-\d+\.tmp")


def replace_file(path: Path, content: bytes) -> None:
    """Put a file with `content` at `path` in one step, and on disk by the time that this returns.

    On failure `path` is as before and nothing is left beside it. Raises OSError that names `path`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def leave_file(path: Path, content: bytes) -> None:
    """Leave `content` where somebody asked for it: as `replace_file`; a link, pipe or device (/dev/stdout) is written to."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
    else:
        replace_file(path, content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place for a new file, and put it at `path` in one step when the block has written it.

    When the block, the disk or the replacement fails, `path` is as before and nothing is left beside it. An OSError names
    `path`; every other error of the block stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        with suppress(OSError):  # of a place where nothing could be written either
            temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what programs left in `folder` that were killed while they wrote; nobody may be writing there now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def expand(text: str) -> Path:
    """Return `text` as a path, with the home folder in place of a leading ~ or ~user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user: the folder is really called ~name
        return Path(text)


MOST_BYTES = 1 << 30
"""Largest file that is read whole: a hundred times the public tasks."""

MOST_JSON_BYTES = 1 << 30
"""Memory that a JSON document may take: some 200 MB of tasks as text."""

_LIST_BYTES, _OBJECT_BYTES, _TEXT_BYTES, _FRACTION_BYTES, _ITEM_BYTES = 64, 240, 60, 24, 8
# What Python takes at least for a list, an object that is not empty, a text, a number with a point, a place in a list.

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


MOST_HEADER_BYTES = 100_000_000
"""As safetensors itself has it."""


def damage_of(path: Path) -> str | None:
    """Return in words what is wrong with the frame of a safetensors file, None where its lengths agree.

    Raises FileNotFoundError or ValueError where there is no file.
    """
    size = require_file(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"cut short, {size} bytes"
        if length > MOST_HEADER_BYTES:
            return f"a header of {length} bytes"
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
            return "not a safetensors file"
    end = 8 + length + max(ends, default=0)
    return None if size == end else f"{size} bytes, not {end}"


__all__ = ["parse_json", "read_json", "read_object", "show_kind", "show_name", "show_path"]


def parse_json(data: bytes, where: str) -> object:
    """Return the JSON document `data`.

    Raises a ValueError of one line that begins with `where` and gives the position, unless `data` is UTF-8, JSON without
    NaN or Infinity, less than about a thousand levels deep and of bounded size, and no object in it has a key twice.
    """
    require_modest(data, where)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{where}: {_describe_fault(data, error)}") from error
    if data.count(b'"') != 2 * _count_strings(document):
        _reject_repeated_keys(data, where)
    return document


def read_json(path: Path) -> object:
    """Return the JSON document in a file. Raises FileNotFoundError, and ValueError of one line that begins with the path."""
    return parse_json(read_file(path), show_path(path))


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises as `read_json` does, and for a document of another kind."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{show_path(path)}: expected an object, got {show_kind(document)}")
    return document


def _describe_fault(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return f"not UTF-8: {fault.reason} at byte {fault.start}"
    return f"not JSON: {error}"


def _count_strings(document: object) -> int:
    """Return how many strings `document` holds, of which it may miss some inside lists that begin with something else.

    Every one of them had two quotes in the text. If that makes all the quotes there are, the text had no other string, so
    none that was lost because its key came again. (Quotes inside strings and strings in lists make more quotes, never fewer.)
    """
    count = 0
    pending = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            count += len(node) + sum(isinstance(value, str) for value in node.values())
            pending.extend(node.values())
        elif isinstance(node, list) and node and isinstance(node[0], dict):
            pending.extend(node)
        elif isinstance(node, list) and node and isinstance(node[0], str):
            count += sum(isinstance(value, str) for value in node)
    return count


class _JsonObject(dict[str, object]):
    """A JSON object that remembers a key that it held more than once; `repeated` is None if there is none."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated: str | None = None
        if len(self) < len(pairs):
            self.repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def _reject_repeated_keys(data: bytes, where: str) -> None:
    """Raise ValueError if an object in `data`, which is JSON, has a key twice. Three times slower than reading it."""
    try:
        document = json.loads(data.decode(), object_pairs_hook=_JsonObject)
    except RecursionError as error:
        raise ValueError(f"{where}: objects and lists are nested too deeply") from error
    pending: list[tuple[tuple[str, ...], object]] = [((), document)]
    while pending:
        place, node = pending.pop()
        items: list[tuple[str, object]] = []
        if isinstance(node, _JsonObject):
            if node.repeated is not None:
                _raise_repeated(where, place, node.repeated)
            items = list(node.items())
        elif isinstance(node, list):
            items = [(str(i), value) for i, value in enumerate(node)]
        pending.extend(((*place, show_name(key))[:4], value) for key, value in reversed(items))


def _raise_repeated(where: str, place: tuple[str, ...], key: str) -> NoReturn:
    inside = f"in {', '.join(place)}: " if place else ""
    raise ValueError(f"{where}: {inside}{show_name(key)} appears twice")


def write_result(path: Path, value: object) -> None:
    """Write JSON to `path` in one step. Raises OSError."""
    leave_file(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and replace `path` with it when it is complete and on disk."""
    replace_file(path, orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
