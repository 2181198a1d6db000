"""One reader under fuzzing: its valid files, how they are damaged, and what counts as survived.

An input is (reader, seed, number) and always the same files. A reader survives it by accepting it or refusing it in one clear
line, within bounded time and memory.
"""

import contextlib
import io
import os
import signal
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from augment.errors import InputError
from submission.client import KaggleError
from tests.fuzz.mutate import Rng, mutate_json, mutate_json_lines, pick
from tests.fuzz.tensors import mutate_tensors

REFUSALS = (InputError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, KaggleError)
"""Exceptions that the command line reports in one line."""
MOST_CHARACTERS = 600
"""Length of a line without the names of folders in it."""
MOST_SECONDS = 60.0
"""Wall clock: a reader that blocks uses no processor time."""
PLACES = ("missing", "folder", "loop", "endless", "pipe", "sparse", "elsewhere")
"""What may be in a file's place: nothing, a folder, a link to itself, one to /dev/zero, a pipe, 20 GB, a link elsewhere."""
PLACE_SHARE = 0.03
Damage = Callable[[Rng, bytes], bytes]
BY_SUFFIX: Mapping[str, Damage] = {".json": mutate_json, ".jsonl": mutate_json_lines, ".safetensors": mutate_tensors}


@dataclass(frozen=True)
class Reader:
    """A reader, how to make its files, and how to damage them."""

    name: str
    prepare: Callable[[Path, Rng], object]
    """Write valid files into a folder."""
    damaged: tuple[str, ...]
    """Files, relative to the folder, of which one or two are damaged."""
    read: Callable[[Path], object]
    """Read the folder as the program does; any exception outside `REFUSALS` is a failure."""
    command: Callable[[Path], list[str]]
    """The command that reads the same files."""
    damages: Mapping[str, Damage] = field(default_factory=dict)
    """How to damage files whose suffix does not decide it."""
    renew: int = 500
    """Inputs after which new valid files are made."""
    slow: int = 1
    """How many times fewer inputs it gets, because it is slow."""
    places: bool = True
    """Whether something else may be in a file's place."""


class Hang(BaseException):
    """A reader took too long. A BaseException, so that no `except Exception` takes it for a refusal."""


def generator(reader: Reader, seed: int, number: int) -> Rng:
    return np.random.default_rng([seed, zlib.crc32(reader.name.encode()), number])


class Workplace:
    """A folder that gets one input after the other."""

    def __init__(self, reader: Reader, folder: Path, seed: int) -> None:
        self.reader, self.folder, self.seed = reader, folder, seed
        self.batch = -1
        self.originals: dict[str, bytes] = {}

    def lay_out(self, number: int) -> list[str]:
        """Put the input `number` into the folder; return descriptions of the damage."""
        if self.batch != (batch := number // self.reader.renew):
            self.batch = batch
            self.reader.prepare(self.folder, generator(self.reader, self.seed, -1 - batch & 0xFFFF_FFFF))
            self.originals = {name: (self.folder / name).read_bytes() for name in self.reader.damaged}
        rng = generator(self.reader, self.seed, number)
        names = rng.permutation(len(self.reader.damaged))[: 1 + (rng.random() < 0.15)]
        damage_done = []
        for name in sorted(self.reader.damaged[each] for each in names):
            path, place = self.folder / name, str(pick(rng, PLACES))
            if self.reader.places and rng.random() < PLACE_SHARE:
                put(place, path)
                damage_done.append(f"{name}: {place}")
            else:
                damage = self.reader.damages.get(name) or BY_SUFFIX[path.suffix]
                path.write_bytes(damage(rng, self.originals[name]))
                damage_done.append(name)
        return damage_done

    def restore(self) -> None:
        for name, content in self.originals.items():
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.is_symlink() or not path.is_file():
                path.unlink(missing_ok=True)
            path.write_bytes(content)


def put(place: str, path: Path) -> None:
    """Put something at `path` that is not a regular file, or far too large."""
    path.unlink(missing_ok=True)
    links = {"loop": path.name, "endless": "/dev/zero", "elsewhere": "/etc/hostname"}
    if place in links:
        path.symlink_to(links[place])
    elif place == "folder":
        path.mkdir()
    elif place == "pipe":
        os.mkfifo(path)
    elif place == "sparse":
        path.touch()
        os.truncate(path, 20 << 30)


def try_to_read(reader: Reader, folder: Path) -> tuple[bool, str]:
    """Read `folder`; return whether it was accepted, and otherwise what is wrong with the refusal, if anything."""
    nowhere = io.StringIO()
    try:
        with (
            time_limit(MOST_SECONDS),
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            reader.read(folder)
        return True, ""
    except Hang:
        return False, f"still reading after {MOST_SECONDS:.0f} s"
    except REFUSALS as error:
        return False, fault_of_line(str(error), type(error), folder)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - everything else is a failure
        return False, f"{type(error).__name__}: {str(error)[:200]}"


def fault_of_line(line: str, kind: type[BaseException], folder: Path) -> str:
    """Return what is wrong with a refusal: it should be one clear line that names a file. Empty if nothing is."""
    shown = line.replace(str(folder), "")
    if not line.isprintable():
        return f"not one printable line: {line[:200]!r}"
    if len(shown) > MOST_CHARACTERS:
        return f"a line of {len(shown)} characters: {shown[:200]}"
    if shown == line:
        return f"names no file: {kind.__name__}: {line[:200]}"
    return ""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang if the block takes longer; works only while it runs Python code now and then."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
