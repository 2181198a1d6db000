"""Bounded reads, atomic writes and strict JSON.

Reading takes a bounded amount of time and memory, whatever lies at the path. A reader of a file that this program replaces
finds either the old content or all of the new.
"""

import codecs
import errno
import json
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from eval.formatting import show_kind, show_name, show_path

_UNFINISHED = re.compile(r"\..+\.\d+-\d+\.tmp")


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` with a file of `content` in one step and sync it to disk. Fails as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def leave_file(path: Path, content: bytes) -> None:
    """Write an output file, making its folder: as `replace_file`, but through a link, pipe or device such as /dev/stdout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
    else:
        replace_file(path, content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for the block to write, then move it to `path` in one step and sync both to disk.

    On failure `path` is unchanged and no temporary file is left. An OSError names `path`; other errors pass unchanged.
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
        with suppress(OSError):  # nothing was written
            temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that killed programs left in `folder`. No other process may be writing there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""Errors of file systems that sync files and no folders."""


def sync(path: Path) -> None:
    """Sync a file to disk, or the entries of a folder where its file system can."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC or not path.is_dir():
            raise
    finally:
        os.close(number)


def expand(text: str) -> Path:
    """Return `text` as a path, with the home folder in place of a leading ~ or ~user."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser fails where there is no such user)


MOST_BYTES = 1 << 30
"""Largest file that is read whole: a hundred times the public tasks."""
MOST_JSON_BYTES = 1 << 30
"""Memory that a JSON document may take: some 200 MB of tasks as text."""
_LIST_BYTES, _OBJECT_BYTES, _TEXT_BYTES, _FRACTION_BYTES, _ITEM_BYTES = 64, 240, 60, 24, 8
# Least memory that Python takes for a list, an object that is not empty, a string, a float, a slot of a list.


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the bytes of the file at `path`.

    Raises FileNotFoundError where there is none, and InputError where it is no regular file (a pipe would never end), cannot be
    read, or has more than `most_bytes`; one line that begins with the path.
    """
    size = require_file(path)
    if size > most_bytes:
        raise InputError(f"{show_path(path)}: too large: {size:,} bytes, and {most_bytes:,} are read at most")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{show_path(path)}: cannot be read: {error.strerror or type(error).__name__}") from error


def require_file(path: Path) -> int:
    """Return the size in bytes of the regular file at `path`. Raises FileNotFoundError or InputError as `read_file` does."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a character that no path can have
        raise FileNotFoundError(f"{show_path(path)}: no such file") from None
    except OSError as error:
        raise InputError(f"{show_path(path)}: cannot be read: {error.strerror or type(error).__name__}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{show_path(path)}: is a folder, and a file is expected")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{show_path(path)}: is no regular file")
    return status.st_size


def require_modest(data: bytes, where: str) -> None:
    """Raise InputError if the JSON `data` would take over `MOST_JSON_BYTES`: a small zip may hold gigabytes of `[],[],`."""
    if len(data) * _OBJECT_BYTES <= MOST_JSON_BYTES:  # whatever it holds
        return
    places = data.count(b",") + data.count(b"[") + data.count(b"{")
    needed = places * _ITEM_BYTES + data.count(b"[") * _LIST_BYTES + data.count(b"{") * _OBJECT_BYTES
    needed += data.count(b'"') // 2 * _TEXT_BYTES + data.count(b".") * _FRACTION_BYTES + len(data)
    if needed > MOST_JSON_BYTES:
        raise InputError(
            f"{where}: too large: its values would take {needed / 1e9:.1f} GB of memory, and {MOST_JSON_BYTES / 1e9:.1f} GB "
            "is the most"
        )


def parse_json(data: bytes, where: str) -> object:
    """Return the JSON document `data`.

    Raises an InputError of one line that begins with `where` and gives the position, unless `data` is UTF-8 (a byte order mark
    is passed over), JSON without NaN or Infinity, less than about a thousand levels deep and of bounded size, and no object in
    it has a key twice.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    require_modest(data, where)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as fault:
            raise InputError(f"{where}: not UTF-8: {fault.reason} at byte {fault.start}") from error
        raise InputError(f"{where}: not JSON: {error}") from error
    if data.count(b'"') != 2 * _count_strings(document):
        _reject_repeated_keys(data, where)
    return document


def read_json(path: Path) -> object:
    """Return the JSON document in a file. Raises FileNotFoundError, and InputError of one line that begins with the path."""
    return parse_json(read_file(path), show_path(path))


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises as `read_json` does, and for a document of another kind."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{show_path(path)}: expected an object, got {show_kind(document)}")
    return document


def _count_strings(document: object) -> int:
    """Return how many strings `document` holds; it may miss some in lists that begin with something else.

    Each had two quotes in the text. Where these are all its quotes, no string was lost to a repeated key. (Quotes inside
    strings and strings in lists make more quotes, never fewer.)
    """
    count, pending = 0, [document]
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


def _reject_repeated_keys(data: bytes, where: str) -> None:
    """Raise InputError if an object in the JSON text `data` has a key twice. Three times slower than parsing it."""
    repeated: dict[int, tuple[object, str]] = {}  # by the id of an object: itself, so that it keeps its id, and the key

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) < len(pairs):
            repeated[id(built)] = built, Counter(key for key, _ in pairs).most_common(1)[0][0]
        return built

    try:
        document = json.loads(data.decode(), object_pairs_hook=build)
    except RecursionError as error:
        raise InputError(f"{where}: objects and lists are nested too deeply") from error
    pending: list[tuple[tuple[str, ...], object]] = [((), document)]
    while pending and repeated:
        place, node = pending.pop()
        if id(node) in repeated:
            inside = f"in {', '.join(place)}: " if place else ""
            raise InputError(f"{where}: {inside}{show_name(repeated[id(node)][1])} appears twice")
        if isinstance(node, dict | list):
            items = list(node.items() if isinstance(node, dict) else enumerate(node))
            pending.extend(((*place, show_name(str(key)))[:4], value) for key, value in reversed(items))


def write_result(path: Path, value: object) -> None:
    """Write JSON to `path` as `leave_file` does. Raises OSError."""
    leave_file(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with JSON with sorted keys, as `replace_file` does."""
    replace_file(path, orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
