"""The start of a run, before torch is imported: locks its folder and writes a complete result without predictions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.files import remove_unfinished
from pipeline.jobs.arc import Challenge
from pipeline.jobs.puzzles import PuzzleChallenge
from pipeline.system.folder_lock import FolderLock


@contextmanager
def open_run(challenge: Challenge | PuzzleChallenge, out: Path, resume: bool) -> Iterator[FolderLock]:
    """Make and lock the folder `out` of a run, and write a complete result without solutions; a resumed run keeps its own.

    Raises ValueError when `out` holds a run that is not to be resumed, one for other tasks, or one that is at work.
    """
    leave_fallback = challenge.fallback()
    with FolderLock(out) as lock:
        if not resume and ((out / "config.json").exists() or (out / "checkpoints").exists()):
            raise ValueError(f"{out} holds a run already: continue it with --resume, or choose another --out")
        for folder in (out, out / "dataset", out / "candidates"):
            remove_unfinished(folder)
        leave_fallback(out, resume)
        yield lock
