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
from contextlib import suppress
from pathlib import Path

import psutil

POLL_SECONDS = 0.05
MARK = "ARC_REHEARSAL"
_killed: dict[str, str] = {}
"""What was killed by `kill_each_training`, by the checkpoint that had been written."""


def main() -> None:
    """Try to inject the fault until the program is at that point, and record it."""
    fault, kaggle, scratch, results = sys.argv[1], *map(Path, sys.argv[2:])
    while not (done := INJECTIONS[fault](kaggle, scratch)):
        time.sleep(POLL_SECONDS)
    (results / "fault.json").write_text(json.dumps({"fault": fault, "done": done}))


def kill_new_rank(kaggle: Path, scratch: Path) -> str:
    """Kill the process of the highest rank, and none of the launchers, as soon as it is started."""
    ranks = []
    for process, words, environment in _programs():
        rank = environment.get("RANK", "")
        if not any("launch" in word for word in words) and (rank or "--processes" not in words):
            ranks.append((int(rank or 0), process.pid))
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


def kill_each_training(kaggle: Path, scratch: Path) -> str:
    """Kill all processes of the program after each new checkpoint, ten times, after which the notebook stops to train."""
    newest = max((path.name for path in scratch.glob("arc-run/run/checkpoints/step-*")), default="")
    if newest > max(_killed, default=""):
        _killed[newest] = _kill_program()
    return "; ".join(_killed.values()) if len(_killed) == 10 else ""


def corrupt_checkpoint(kaggle: Path, scratch: Path) -> str:
    """Kill the program after its second checkpoint, and flip bytes in that."""
    found = sorted(scratch.glob("arc-run/run/checkpoints/step-*"))
    if len(found) < 2:
        return ""
    path = found[-1] / "training.safetensors"
    killed = _kill_program()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 64)
    return f"{killed}, then overwrote 64 bytes of {path.name} of {found[-1].name}"


def full_disk(kaggle: Path, scratch: Path) -> str:
    """Fill working folder and scratch to the last byte once the program trains."""
    if not ((kaggle / "working" / "submission.json").is_file() and (scratch / "arc-run" / "run" / "metrics.jsonl").is_file()):
        return ""
    filled = [_fill(kaggle / "working" / "filler"), _fill(scratch / "filler")]
    return f"filled working with {filled[0]} and scratch with {filled[1]} bytes"


def _kill_program() -> str:
    killed = [process for process, *_ in _programs()]
    for process in killed:
        process.kill()
    return f"killed processes {[process.pid for process in killed]}"


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


def _programs() -> Iterator[tuple[psutil.Process, list[str], dict[str, str]]]:
    """Yield the processes of `pipeline run` in this rehearsal, with the words of their command lines and their environments."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended
            words, environment = process.cmdline(), process.environ()
            if "pipeline" in words and "run" in words and environment.get(MARK) == os.environ[MARK]:
                yield process, words, environment


INJECTIONS: dict[str, Callable[[Path, Path], str]] = {
    "kill-rank": kill_rank,
    "kill-new-rank": kill_new_rank,
    "kill-training": kill_training,
    "kill-each-training": kill_each_training,
    "corrupt-checkpoint": corrupt_checkpoint,
    "full-disk": full_disk,
}

if __name__ == "__main__":
    main()
