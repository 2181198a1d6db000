"""The first second of a run, before torch is imported: its folder, and a complete result without predictions in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from eval.files import remove_unfinished
from pipeline.system.folder_lock import FolderLock


class Fallback(Protocol):
    """The result of a run that predicts nothing."""

    def leave(self, out: Path, resume: bool) -> None:
        """See to it that a complete result stands in `out`; a resumed run keeps the one that it has."""


class Challenge(Protocol):
    """What a run has to solve: tasks (pipeline.jobs.arc) or puzzles (pipeline.jobs.puzzles)."""

    def fallback(self) -> Fallback:
        """Return what is to be left before anything is tried. Raises ValueError for bad sources."""


@contextmanager
def open_run(challenge: Challenge, out: Path, resume: bool) -> Iterator[FolderLock]:
    """Make the folder `out` of a run, lock it, and see to it that a complete result stands there, without solutions.

    Raises ValueError when `out` holds a run that is not to be resumed, one for other tasks, or one that is at work.
    """
    _refuse_second(out, resume)
    fallback = challenge.fallback()
    with FolderLock(out) as lock:
        _refuse_second(out, resume)  # it may have begun and ended meanwhile
        for folder in (out, out / "dataset", out / "candidates"):
            remove_unfinished(folder)
        fallback.leave(out, resume)
        yield lock


def _refuse_second(out: Path, resume: bool) -> None:
    if not resume and ((out / "config.json").exists() or (out / "checkpoints").exists()):
        raise ValueError(f"{out} holds a run already: continue it with --resume, or choose another --out")
