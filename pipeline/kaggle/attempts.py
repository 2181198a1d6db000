"""One start of the program from a Kaggle notebook, and whether and how to start it again.

`pipeline.kaggle.kernel` decides when; here is how a process group is started, listened to and ended, and the table of what to
change after a failure.
"""

import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

BAD_INPUT = 2
"""Exit code of the program for what it cannot start with."""

MOST_STARTS = 10

MOST_IDLE_STARTS = 6
"""Starts in a row that brought neither a checkpoint nor predictions."""

MOST_PIECES = 64

LOG_BYTES = 8_000_000

TAIL_LINES = 200

MARK = "ARC_KERNEL_START"
"""Environment variable by which everything that a start left behind is found again."""


_INNER_CODE = re.compile(r"(?:non-zero exit status|exitcode\s*:)\s*(-?\d+)")

_KILLED = "process was killed by SIGKILL"
"""What pipeline.launch says of one of its processes; its own exit code is 1 then."""
_MEMORY_SIGNS = ("out of memory", "OutOfMemoryError", "can't allocate memory", "MemoryError")

_PIECES = re.compile(r"computed in (\d+) pieces|repeated with (\d+) pieces|train\.pieces=(\d+);")
"""What a run says of the pieces that it computes packs in."""


@dataclass(frozen=True)
class Setup:
    """What can be changed when a start has failed."""

    gpus: int
    """Training processes, one for each GPU; 0: one process on the CPU."""
    pieces: int = 0
    """`train.pieces`; 0 is measured."""
    weights: bool = False
    overrides: bool = False
    further_tasks: bool = True
    """Trained on besides those to be solved."""
    fresh: bool = False
    """In a run directory of its own, since that of the first start cannot be resumed."""


@dataclass(frozen=True)
class Attempt:
    """How a start ended."""

    code: int | None
    """Exit code, negative for a signal; None when it was ended at the time limit."""
    progressed: bool
    """It left a new checkpoint or a new round of predictions."""
    out_of_memory: bool
    pieces: int = 1
    """That packs were computed in, as far as it said so."""

    def __str__(self) -> str:
        memory = ", out of memory" if self.out_of_memory else ""
        if self.code is None:
            return "ended at the time limit"
        return (f"killed by signal {-self.code}" if self.code < 0 else f"exit code {self.code}") + memory

    @property
    def killed(self) -> bool:
        """Whether it was ended from outside for good, as a machine does that is out of memory."""
        return self.code in (-9, 137)


def next_setup(setup: Setup, attempts: Sequence[Attempt]) -> tuple[Setup, str] | None:
    """Return what to start next after `attempts`, and in words what is different; None to leave it at that."""
    last, idle = attempts[-1], 0
    for attempt in reversed(attempts):
        if attempt.progressed:
            break
        idle += 1
    over = last.code in (0, None) or len(attempts) >= MOST_STARTS or idle >= MOST_IDLE_STARTS
    memory = last.out_of_memory or (last.killed and sum(attempt.killed for attempt in attempts) > 1)
    smaller = replace(setup, pieces=2 * max(setup.pieces, last.pieces))
    refused, stuck = last.code == BAD_INPUT, idle >= 2
    changes: list[tuple[bool, Setup, str]] = [
        (over, setup, ""),
        ((refused or stuck) and setup.weights, replace(setup, weights=False), "without the weights"),
        (refused and setup.overrides, replace(setup, overrides=False), "without the overrides of the settings"),
        (refused and setup.further_tasks, replace(setup, further_tasks=False), "without further training tasks"),
        (refused and not setup.fresh, replace(setup, fresh=True), "in a fresh folder"),
        (refused, setup, ""),
        (memory and smaller.pieces <= MOST_PIECES, smaller, f"packs in {smaller.pieces} pieces"),
        (stuck and setup.gpus > 1, replace(setup, gpus=1), "on one GPU"),
        (stuck and setup.gpus == 1, Setup(0), "on the CPU"),
    ]
    for applies, changed, words in changes:
        if applies:
            return (changed, words) if words else None
    return setup, "as before"


class Log:
    """What a run says: on the notebook's output, in a file of bounded size, and the last lines in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.written = 0
        self.broken = ""
        path.unlink(missing_ok=True)

    def say(self, line: str) -> None:
        """Add a line; a file that cannot be written is said once and does not stop anything."""
        self.tail.append(line)
        print(line, flush=True)
        if self.written > LOG_BYTES:
            return
        self._write(f"{line}\n")
        if self.written > LOG_BYTES:
            self._write("[the middle is left out here]\n")

    def close(self) -> None:
        """Add the last lines to a file that was cut."""
        if self.written > LOG_BYTES:
            self._write("\n".join(self.tail) + "\n")

    def _write(self, text: str) -> None:
        content = text.encode(errors="replace")
        self.written += len(content)
        if self.broken:
            return
        try:
            with self.path.open("ab") as file:
                file.write(content)
        except OSError as error:
            self.broken = f"{self.path}: {error.strerror}; the log goes on in the notebook's output alone"
            self.tail.append(self.broken)
            print(self.broken, flush=True)


class Start:
    """A process group that is running, its output on its way to a log."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Log) -> None:
        """Start `command` in `folder`. Raises OSError where that cannot be."""
        self.mark = uuid.uuid4().hex
        self.began = time.monotonic()
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)
        self.process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**environment, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self.reader.start()

    def _read(self, log: Log) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self.lines.append(line)
            log.say(line)

    def wait(self, seconds: float) -> int | None:
        """Return the exit code if it ends within `seconds`, else None."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self, patience: float = 10.0) -> int:
        """End everything that it started: politely first where it still runs, then for good. Return the exit code."""
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            self.wait(patience)
        for _ in range(3):  # what forks meanwhile is found the next time
            for process in _marked(self.mark):
                with suppress(psutil.Error):  # gone already
                    process.kill()
        self._signal(signal.SIGKILL)
        code = self.process.wait()
        self.reader.join(timeout=5.0)
        return code

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self.process.pid, number)

    def attempt(self, code: int | None, progressed: bool) -> Attempt:
        """Return how it ended, by its exit code and by what it said."""
        said = "\n".join(self.lines)
        if code not in (None, 0):
            inner = _INNER_CODE.findall(said)  # the launcher has exit codes of its own
            code = -9 if _KILLED in said else int(inner[-1]) if inner else -9 if "SIGKILL" in said else code
        memory = any(sign in said for sign in _MEMORY_SIGNS)
        pieces = [int(number) for groups in _PIECES.findall(said) for number in groups if number]
        return Attempt(code, progressed, memory, max(pieces, default=1))


def _marked(mark: str) -> list[psutil.Process]:
    """Return the processes that inherited a mark, those in sessions of their own too."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # not ours, or gone
    return found
