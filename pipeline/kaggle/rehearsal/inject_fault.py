"""Injects a fault into a running notebook from outside: `python inject_fault.py FAULT KAGGLE SCRATCH RESULTS`.

It sees the processes and files of the notebook, and writes what it did to RESULTS/fault.json. Imports nothing of the project.
"""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.05
MARK = "ARC_REHEARSAL"


def main() -> None:
    """Try the fault until its moment has come, and record it."""
    fault, kaggle, scratch, results = sys.argv[1], *map(Path, sys.argv[2:])
    while not (deed := DEEDS[fault](kaggle, scratch)):
        time.sleep(POLL_SECONDS)
    (results / "fault.json").write_text(json.dumps({"fault": fault, "deed": deed}))


def kill_new_rank(kaggle: Path, scratch: Path) -> str:
    """Kill the process of the highest rank, and none of the launchers, as soon as it is started."""
    ranks = []
    for pid, words in _programs():
        rank = _variable(pid, "RANK")
        if not any("launch" in word for word in words) and (rank or "--processes" not in words):
            ranks.append((int(rank or 0), pid))
    if not ranks:
        return ""
    os.kill(max(ranks)[1], signal.SIGKILL)
    return "killed rank {} (process {})".format(*max(ranks))


def kill_rank(kaggle: Path, scratch: Path) -> str:
    """Kill the process of the highest rank after the first round of predictions."""
    return kill_new_rank(kaggle, scratch) if list(scratch.glob("arc-run/run/candidates/round-*.safetensors")) else ""


def kill_training(kaggle: Path, scratch: Path) -> str:
    """Kill all processes of the program after the first checkpoint."""
    return _kill_program() if list(scratch.glob("arc-run/run/checkpoints/step-*")) else ""


def corrupt_checkpoint(kaggle: Path, scratch: Path) -> str:
    """Kill the program after its second checkpoint, and flip bytes in that."""
    found = sorted(scratch.glob("arc-run/run/checkpoints/step-*"))
    if len(found) < 2:
        return ""
    path = found[-1] / "training.safetensors"
    deed = _kill_program()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 64)
    return f"{deed}, then overwrote 64 bytes of {path.name} of {found[-1].name}"


def full_disk(kaggle: Path, scratch: Path) -> str:
    """Fill working folder and scratch to the last byte once the program trains."""
    if not ((kaggle / "working" / "submission.json").is_file() and (scratch / "arc-run" / "run" / "metrics.jsonl").is_file()):
        return ""
    filled = [_fill(kaggle / "working" / "filler"), _fill(scratch / "filler")]
    return f"filled working with {filled[0]} and scratch with {filled[1]} bytes"


def _kill_program() -> str:
    killed = [pid for pid, _ in _programs()]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return f"killed processes {killed}"


def _fill(path: Path) -> int:
    written = 0
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    written += file.write(b"\0" * size)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    break
    return written


def _programs() -> Iterator[tuple[int, list[str]]]:
    """Yield the processes of `pipeline run` in this rehearsal, with the words of their command lines."""
    for pid in [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]:
        words = _words(pid, "cmdline")
        if "pipeline" in words and "run" in words and _variable(pid, MARK) == os.environ[MARK]:
            yield pid, words


def _variable(pid: int, name: str) -> str:
    """Return the environment variable `name` that a process was started with, "" where it has none or has ended."""
    return next((word.partition("=")[2] for word in _words(pid, "environ") if word.startswith(f"{name}=")), "")


def _words(pid: int, file: str) -> list[str]:
    try:
        return Path("/proc", str(pid), file).read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []  # it has ended


DEEDS: dict[str, Callable[[Path, Path], str]] = {
    "kill-rank": kill_rank,
    "kill-new-rank": kill_new_rank,
    "kill-training": kill_training,
    "corrupt-checkpoint": corrupt_checkpoint,
    "full-disk": full_disk,
}

if __name__ == "__main__":
    main()
