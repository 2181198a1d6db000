"""One run at a time in a folder: a lock that the system takes back when the processes that hold it have ended, however they do.

Taken by the command line before anything is written. The file `.lock` stays in the folder; what counts is not whether it is
there, but whether somebody holds the lock on it.
"""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"

_UNKNOWN_HERE = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EBADF}
"""What file systems say that have no locks."""


class Occupation:
    """The lock of one folder, held by this process. A launcher shares it with the processes that it starts."""

    def __init__(self, folder: Path, share: bool = False) -> None:
        """Take the lock; with `share` together with others that share it. Raises ValueError where somebody else holds it."""
        self.folder = folder
        self.number = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._lock(fcntl.LOCK_SH if share else fcntl.LOCK_EX)
            if not share:
                self._sign()
        except BaseException:
            os.close(self.number)
            raise

    def share_with_children(self) -> None:
        """Keep the lock in the program that replaces this one, and let what it starts hold it too."""
        self._lock(fcntl.LOCK_SH)
        os.set_inheritable(self.number, True)

    def leave(self) -> None:
        """Give the lock back."""
        os.close(self.number)

    def _lock(self, kind: int) -> None:
        try:
            fcntl.flock(self.number, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            at_work = f"another run is at work here ({self._holder()})"
            raise ValueError(f"{self.folder}: {at_work}; wait until it has ended, or choose another --out") from None
        except OSError as error:
            if error.errno not in _UNKNOWN_HERE:
                raise
            logger.warning("%s: cannot be locked (%s); let no other run work here", self.folder, error.strerror)

    def _sign(self) -> None:
        """Leave word of who holds the lock, for others to read; a full disk does not keep anybody from working."""
        try:
            os.ftruncate(self.number, 0)
            os.pwrite(self.number, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except OSError as error:
            logger.warning("%s: %s", self.folder / LOCK_FILE, error.strerror)

    def _holder(self) -> str:
        return os.pread(self.number, 200, 0).decode(errors="replace") or "it does not say which"


@contextmanager
def occupied(folder: Path, share: bool = False) -> Iterator[Occupation]:
    """Hold the lock of `folder`, which is made if need be, while the block runs. See `Occupation`."""
    folder.mkdir(parents=True, exist_ok=True)
    occupation = Occupation(folder, share)
    try:
        yield occupation
    finally:
        occupation.leave()
