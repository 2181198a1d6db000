"""Files that are replaced in one step: whoever reads one finds what was there before or the whole of the new.

The one way in which this program leaves files, from submissions to checkpoints; it lives in the first room that writes any.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
