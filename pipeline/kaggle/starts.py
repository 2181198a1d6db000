"""One start of the program from a Kaggle notebook: its processes, its log, how it ended; and what to change after a failure."""

import math
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

BAD_INPUT = 2
"""Exit code of the program for what it cannot start with."""
MOST_STARTS = 12
"""Starts that fail before there are predictions by what they have trained."""
MOST_IDLE_STARTS = 12
"""Starts in a row that left neither a checkpoint nor predictions."""
STUCK_STARTS = 2
"""Starts in a row without progress before something other than the same is tried on one GPU or none."""
STUCK_STARTS_ON_GPUS = 4
"""The same on several: what hinders them may pass, and fewer of them train so much less."""
LONG_SECONDS = 1200.0
"""A start without progress that took so long, as one that hangs, is not repeated so often."""
PREDICT_SECONDS = 600.0
"""For predictions on the CPU before GPUs are tried again."""
PIECES = (8, 64)
"""Micro-batches per pack after the first and the second out-of-memory failure that the program did not handle itself."""
END_SECONDS = 10.0
"""Killed processes may take so long to end. One that waits for a broken driver never does."""
TAIL_LINES = 200
MARK = "ARC_KERNEL_START"
"""Environment variable by which every process of a start is found."""
_MEMORY_SIGNS = (
    "out of memory", "OutOfMemoryError", "MemoryError", "can't allocate memory", "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "could not create a primitive", "could not create a memory",
    "Out of memory trying to allocate",
)  # fmt: skip
"""In the log of a program that ran out of memory: what pipeline.device_limits looks for in an error, without its torch, and
what tcmalloc ends a process with."""
_SURVIVED = ("out of memory; it is repeated", "out of memory: packs of")
"""What the program says of memory that ran out where it goes on."""
_ASKED_PIECES = re.compile(r"go on with --resume --set train\.pieces=(\d{1,6})\b")
"""What it says where several processes would have to repeat a step in smaller micro-batches."""
_KILLED = "process was killed by SIGKILL"
"""What pipeline.system.launch prints of one of its processes; its own exit code is 1 then."""


@dataclass(frozen=True)
class Setup:
    """What can be changed after a failed start."""

    gpus: int
    """Processes, one for each GPU; 0: on the CPU."""
    device: int = 0
    """The place of the GPU where it is one of several."""
    pieces: int = 0
    """`train.pieces`; 0 is measured."""
    weights: bool = False
    overrides: bool = False
    further_tasks: bool = True
    """Trained on besides those to be solved."""
    fresh: int = 0
    """Which run directory, where those of earlier starts cannot be resumed."""
    predict_seconds: float = 0.0
    """At most, for predictions on the CPU with the checkpoint that is there; 0: it trains too."""

    @property
    def processes(self) -> int:
        """Of the start, each with a GPU; 0: it computes on the CPU."""
        return 0 if self.predict_seconds else self.gpus


@dataclass(frozen=True)
class EndedStart:
    """A start of the program that has ended."""

    code: int | None
    """Exit code, negative for a signal; None when it was ended at the time limit."""
    progressed: bool
    """It left a new checkpoint or a new round of predictions."""
    out_of_memory: bool
    command: Sequence[str] = ()
    seconds: float = 0.0
    why: str = ""
    pieces: int = 0
    """Micro-batches per pack that it asked to go on with; 0: it named none."""
    predicting: bool = False
    """It was one of predictions alone."""

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it, as when the machine is out of memory; more micro-batches may not help then."""
        return self.code in (-signal.SIGKILL, 128 + signal.SIGKILL)

    def __str__(self) -> str:
        memory = ", out of memory" if self.out_of_memory else ""
        if self.code is None:
            return "ended at the time limit"
        return (f"killed by signal {-self.code}" if self.code < 0 else f"exit code {self.code}") + memory


def count_idle(starts: Sequence[EndedStart]) -> int:
    """Return how many of the last starts, in a row, left neither a checkpoint nor predictions."""
    return _count_since(start.progressed for start in starts)


def _count_since(marks: Iterable[bool]) -> int:
    """Return how many `marks` there are after the last one that is true."""
    since = 0
    for mark in marks:
        since = 0 if mark else since + 1
    return since


def next_setup(setup: Setup, starts: Sequence[EndedStart], gpus: int) -> tuple[Setup, str] | None:
    """Return what to start next after `starts` on a machine with `gpus`, and in words what is different; None for nothing.

    What is trained is predicted on the CPU where GPUs fail again and again; after that they are tried again.
    """
    last, idle, all_gpus = starts[-1], count_idle(starts), gpus if setup.gpus else 0
    never, stuck = not any(start.progressed for start in starts), idle >= STUCK_STARTS
    gpus_stuck = setup.gpus > 1 and (idle >= STUCK_STARTS_ON_GPUS or (stuck and last.seconds >= LONG_SECONDS))
    predicted = any(start.code == 0 for start in starts)
    predicts = replace(setup, gpus=all_gpus, device=0, predict_seconds=PREDICT_SECONDS)
    ends = replace(predicts, predict_seconds=math.inf)
    trains = replace(setup, predict_seconds=0.0)
    alone, goes_on = "on the CPU, with predictions alone", "training goes on"
    if last.code is None or (last.code == 0 and setup.predict_seconds in (0, math.inf)):
        return None
    if idle >= MOST_IDLE_STARTS:
        return None if never or setup.predict_seconds == math.inf else (ends, alone)
    if last.code == 0:
        return trains, goes_on
    if _count_since(start.code == 0 for start in starts) >= MOST_STARTS and not setup.predict_seconds:
        return predicts, alone
    killed_on_cpu = last.killed and not setup.gpus and sum(start.killed for start in starts) > 1
    bad = last.code == BAD_INPUT
    refused = bad and never
    pieces = next((pieces for pieces in (last.pieces, *PIECES) if pieces > setup.pieces), 0)
    smaller = pieces and (last.out_of_memory or killed_on_cpu)
    anew = replace(setup, fresh=setup.fresh + 1, predict_seconds=0.0)
    on_cpu = replace(anew, gpus=0, device=0, pieces=0, weights=False, overrides=False)  # what is for GPUs takes too long there
    fault = stuck and setup.gpus <= 1 and not last.killed and not last.out_of_memory
    changes = [
        (setup.predict_seconds and (predicted or last.progressed), trains, goes_on),
        (setup.predict_seconds and not starts[-2].predicting, setup, "as before"),
        (setup.predict_seconds and bad and not setup.fresh, anew, "in a fresh folder"),
        (setup.predict_seconds, on_cpu, "on the CPU"),
        (refused and sum(start.code == BAD_INPUT for start in starts) == 1, setup, "as before"),  # what a disk denied may pass
        (refused and setup.overrides, replace(anew, overrides=False), "without the overrides of the settings"),
        (refused and setup.weights, replace(anew, weights=False), "without the weights"),
        (refused and setup.further_tasks, replace(anew, further_tasks=False), "without further training tasks"),
        (refused and not setup.fresh, anew, "in a fresh folder"),
        (smaller, replace(setup, pieces=pieces), f"packs in {pieces} micro-batches"),
        (stuck and bad and not never, ends if predicted else predicts, alone),
        (gpus_stuck, replace(setup, gpus=1), "on one GPU"),
        (stuck and setup.gpus == 1 and gpus > 1 and not setup.device, replace(setup, device=gpus - 1), "on another GPU"),
        (fault and never and setup.weights, replace(anew, gpus=all_gpus, device=0, weights=False), "without the weights"),
        (stuck and setup.gpus == 1 and not never, predicts, alone),
        (stuck and setup.gpus == 1, on_cpu, "on the CPU"),
        (True, setup, "as before"),
    ]
    return next((changed, words) for applies, changed, words in changes if applies)


class Log:
    """The output of a run: shown in the notebook and kept in a file, its last lines also in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, False
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        path.unlink(missing_ok=True)

    def say(self, line: str) -> None:
        """Add a line. A file that cannot be written is reported once and stops nothing."""
        self.tail.append(line)
        print(line, flush=True)
        if self.broken:
            return
        try:
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{line}\n")
        except OSError as error:
            self.broken = True
            self.say(f"{self.path}: {error.strerror}; from here on the log is only in the notebook's output")


def _holds_something(process: psutil.Process) -> bool:
    """Return whether a killed process may still have memory, ports and the lock of a folder."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Start:
    """A running process group whose output goes to a log."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Log) -> None:
        """Start `command` in `folder`. Raises OSError where that fails."""
        self.command, self.log = command, log
        self.mark = uuid.uuid4().hex
        self.began = self.heard = time.monotonic()
        """`heard`: when it last said something."""
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)
        self.process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**environment, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self.heard = time.monotonic()
            self.log.say(line.rstrip())

    def wait(self, seconds: float) -> int | None:
        """Return the exit code if it ends within `seconds`, else None."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        return self.process.returncode

    def end(self, patience: float = 10.0) -> int:
        """End all its processes: with SIGTERM where it still runs, after `patience` with SIGKILL. Return the exit code.

        What cannot be killed is left behind.
        """
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.wait(patience)
        killed = set()
        for _ in range(3):  # a process that is forked meanwhile is found the next time
            for process in psutil.process_iter():
                with suppress(psutil.Error, OSError):  # not ours, or gone
                    if process.environ().get(MARK) == self.mark:
                        process.kill()
                        killed.add(process)
        self.process.kill()
        latest = time.monotonic() + END_SECONDS
        while (left := sum(map(_holds_something, killed))) and time.monotonic() < latest:
            time.sleep(0.05)
        if left:
            self.log.say(f"warning: {left} killed processes do not end")
        code = self.wait(1.0)
        self.reader.join(timeout=5.0)
        return -signal.SIGKILL if code is None else code

    def ended(self, code: int | None, progressed: bool, why: str) -> EndedStart:
        """Return how it ended, by its exit code and its last lines; call it after `end`."""
        said = "\n".join(line for line in self.lines if not any(words in line for words in _SURVIVED))
        if code and _KILLED in said:
            code = -signal.SIGKILL
        memory = any(sign in said for sign in _MEMORY_SIGNS)
        pieces = max(map(int, _ASKED_PIECES.findall(said)), default=0)
        return EndedStart(code, progressed, memory, self.command, time.monotonic() - self.began, why, pieces)
