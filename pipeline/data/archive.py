"""Zip archives from outside, read in memory and within bounds.

Stands beside `sources`, which takes task files from folders and from archives alike. Nothing is unpacked to disk.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from augment.outside import require_file
from pipeline.data.strictjson import show_name, show_path

MAX_FILE_BYTES = 1 << 28
"""Largest file once unpacked; a Re-ARC task of 10,000 pairs is a tenth of it."""
MAX_TOTAL_BYTES = 1 << 32
"""Largest sum of the files once unpacked."""

ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises for damaged, encrypted and unsupported archives (NotImplementedError is a RuntimeError)."""


@dataclass(frozen=True, eq=False)
class Archive:
    """A zip archive that is open: the names of its files, and their bytes one at a time."""

    path: Path
    zip: zipfile.ZipFile
    entries: tuple[zipfile.ZipInfo, ...]
    """The files, in the order of the archive, without its folders."""

    @property
    def names(self) -> list[str]:
        """The names of the files, folders before them with slashes; a name may come twice, or be empty."""
        return [entry.filename for entry in self.entries]

    def where(self, index: int) -> str:
        """Return the file `names[index]` as messages show it: after the zip, like a file in a folder."""
        return f"{show_path(self.path)}/{show_name(self.entries[index].filename)}"

    def read(self, index: int) -> bytes:
        """Return the bytes of the file `names[index]`.

        Raises ValueError, naming it, if it is damaged, encrypted or compressed in an unusual way.
        """
        entry = self.entries[index]
        with _explain(f"{self.where(index)}: cannot be unpacked"):
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("neither stored nor deflated")
            with self.zip.open(entry) as file:
                return file.read(entry.file_size)  # bounded by what the directory said, whatever the stream would give


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open the zip at `path` and read its directory.

    Raises ValueError, naming the file, if it is no zip or what is in it would be larger than the bounds above; OSError if
    it cannot be read.
    """
    require_file(path)
    with path.open("rb") as file:
        with _explain(f"{show_path(path)}: not a zip archive"):
            archive = zipfile.ZipFile(file)
        # ZipInfo.is_dir fails on an empty name
        entries = tuple(entry for entry in archive.infolist() if not entry.filename.endswith("/"))
        largest = max((entry.file_size for entry in entries), default=0)
        total = sum(entry.file_size for entry in entries)
        if largest > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise ValueError(
                f"{show_path(path)}: too large: a file may have {MAX_FILE_BYTES} bytes unpacked and all of them "
                f"{MAX_TOTAL_BYTES}, these have up to {largest} and {total}"
            )
        yield Archive(path, archive, entries)


@contextmanager
def _explain(what: str) -> Iterator[None]:
    try:
        yield
    except ZIP_FAULTS as error:
        raise ValueError(f"{what}: {show_path(str(error)[:100])}") from error  # zipfile may quote all of a damaged file
