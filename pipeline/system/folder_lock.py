"""Exclusive lock on a run folder (flock). The kernel releases it when its processes die: a killed run leaves no stale lock."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from augment.errors import InputError
from eval.formatting import show_path

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
"""Stays in the folder; its text names the process that locked it last."""
_UNSUPPORTED = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EBADF}
"""Errors of file systems without locks."""


class FolderLock:
    """The lock of a folder, which is made if need be, from construction to the end of the `with` block.

    Raises InputError where another process holds it. With `shared`, several processes of one launch hold it together.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InputError(f"{show_path(folder)}: a file, not a folder") from None
        self.folder = folder
        self.descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._lock(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if not shared:
            try:
                os.ftruncate(self.descriptor, 0)
                os.pwrite(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            except OSError as error:  # a full disk; the lock itself holds
                logger.warning("%s: %s", folder / LOCK_FILE, error.strerror)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def share_with_children(self) -> None:
        """Turn it into a shared lock that survives `exec` and is inherited by child processes."""
        self._lock(fcntl.LOCK_SH)
        os.set_inheritable(self.descriptor, True)

    def _lock(self, kind: int) -> None:
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.descriptor, 200, 0).decode(errors="replace") or "unknown process"
            problem = f"another run is at work here ({holder})"
            raise InputError(f"{self.folder}: {problem}; wait until it has ended, or choose another --out") from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logger.warning("%s: cannot be locked (%s); start no other run here", self.folder, error.strerror)
