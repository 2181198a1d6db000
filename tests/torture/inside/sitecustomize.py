"""Injects faults from inside a run: Python imports this file at its start, where its folder is first on PYTHONPATH.

Logs every file operation in the run's folder and carries out the `Plan` of tests.torture.demo, which the variable ARC_TORTURE
holds as JSON. Imports nothing of the project, so that faults can come before the project's first line.
"""
# ruff: noqa: PTH109,PTH115,PTH118,PTH123 - pathlib has audit events of its own

import ctypes
import json
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR
RANK = os.environ.get("RANK")
LAPS = ("start", "build", "train", "predict", "write")
"""The stage that follows the first, second, ... write of run.json by a process."""


class FaultInjector:
    """Audit hook: called for every file that Python opens, renames or removes."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.folder = plan["folder"]
        self.log = os.open(plan["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.stage, self.laps, self.seen, self.failed = "start", 0, 0, 0
        self.busy = False
        if RANK is None and os.getppid() == plan["parent"]:
            self.strike_if_planned()
        if plan.get("stalls"):
            threading.Thread(target=self.stall, args=plan["stalls"], daemon=True).start()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _PATHS or self.busy:
            return
        self.busy = True
        try:
            kind, path = _PATHS[event](arguments)
            if kind and path.startswith(f"{self.folder}/"):
                self.before_operation(kind, re.sub(r"(^|/)\.([^/]+)\.\d+-\d+\.tmp$", r"\1\2~", path[len(self.folder) + 1 :]))
        finally:
            self.busy = False

    def before_operation(self, kind: str, name: str) -> None:
        """Log a file operation and inject what is planned; the name of a temporary file ends in `~`."""
        self.write_log(kind, name)
        time.sleep(self.plan.get("slow", 0.0) * random.random())
        fault = self.plan.get("fail")
        if fault and re.fullmatch(fault["what"], f"{kind} {name}") and self.failed < fault["times"]:
            self.failed += 1
            self.write_log("refused", name)
            raise OSError(fault["errno"], os.strerror(fault["errno"]), name)
        stage = self.next_stage(kind, name)
        if stage and RANK in (None, "0"):
            self.stage = stage
            self.strike_if_planned()
        if self.plan.get("room") and (kind, name) == ("rename", self.plan["room"][0]):
            limit_memory(self.plan["room"][1])

    def next_stage(self, kind: str, name: str) -> str | None:
        """Return the stage that begins with this operation, if any."""
        if (kind, name) == ("rename", "run.json"):
            self.laps += 1
            return LAPS[min(self.laps + (RANK is not None), len(LAPS)) - 1]
        rules = (
            ("write", r"dataset/.*", "build"),
            ("mkdir", r"checkpoints/\.step-\d+", "checkpoint"),
            ("rename", r"checkpoints/step-\d+", "train"),
            ("write", r"metrics\.jsonl|config\.json~", "train"),
            ("write", r"predicting", "predict"),
            ("rename", r"candidates/.*", "vote"),
            ("rename", r"votes\.json", "predict"),
            ("write", r"(submission\.json|votes\.json|score\.json|report\.html)~", "write"),
        )
        return next((stage for what, pattern, stage in rules if what == kind and re.fullmatch(pattern, name)), None)

    def strike_if_planned(self) -> None:
        """Strike at the n-th beginning of the planned stage."""
        strike = self.plan.get("strike")
        if not strike or strike["stage"] != self.stage:
            return
        self.seen += 1
        if self.seen == strike["count"] and not strike["delay"]:
            self.strike(strike["signal"])
        elif self.seen == strike["count"]:
            threading.Timer(strike["delay"], self.strike, (strike["signal"],)).start()

    def strike(self, number: int) -> None:
        """Send a signal to all processes of this run."""
        self.write_log("strike", self.stage)
        if number != signal.SIGKILL and RANK is not None:
            os.kill(os.getppid(), number)  # the launcher passes it on
        else:
            os.killpg(os.getpgid(0), number)

    def stall(self, longest: float, pause: float) -> None:
        """Stop all of Python now and then, like a slow call that holds the GIL."""
        usleep = ctypes.PyDLL(None).usleep
        while True:
            time.sleep(2 * pause * random.random())
            usleep(int(1e6 * longest * random.random()))

    def write_log(self, kind: str, name: str) -> None:
        """Add a line to the log."""
        os.write(self.log, f"{time.monotonic():.6f} {os.getpid()} {RANK or '-'} {kind} {name}\n".encode())


def limit_memory(room: int) -> None:
    """Limit the address space to `room` bytes more than in use, after loading what torch loads late."""
    import torch._dynamo  # noqa: PLC0415, F401

    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))


def _absolute(path: Any, folder: Any = -1) -> str:
    if isinstance(path, int):
        return ""
    text = os.fsdecode(path)
    base = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(base, text))


def _opened(arguments: tuple[Any, ...]) -> tuple[str, str]:
    path, mode, flags = arguments
    writes = flags & WRITING or (isinstance(mode, str) and set(mode) & set("wax+"))
    return ("write" if writes else "", _absolute(path) if writes else "")


_PATHS = {
    "open": _opened,
    "os.rename": lambda arguments: ("rename", _absolute(arguments[1], arguments[3])),
    "os.mkdir": lambda arguments: ("mkdir", _absolute(arguments[0], arguments[2])),
    "os.remove": lambda arguments: ("remove", _absolute(arguments[0], arguments[1])),
    "os.rmdir": lambda arguments: ("remove", _absolute(arguments[0], arguments[1])),
}
"""Audit event -> (operation, path)."""

if "ARC_TORTURE" in os.environ:
    sys.addaudithook(FaultInjector(json.loads(os.environ["ARC_TORTURE"])))
