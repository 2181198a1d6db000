"""The run that faults are injected into: seconds of work, fixed by settings, so that two runs can be compared bit by bit.

Nothing in it depends on the speed of the machine: it has no time limit, but a number of steps, of views, and of steps between
checkpoints. This module starts it, injects faults and checks its results.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augment.task import Task
from pipeline.data.sources import Selection, load_source
from pipeline.tensor_files import read_tensors
from pipeline.training.checkpoint import read_state
from pipeline.training.metrics import read_metrics
from pipeline.weights.find import newest_checkpoint
from submission.format import check_submission
from tests.pipeline.tiny import set_options

ROOT = Path(__file__).parents[2]
SOURCE, MAX_SIDE = "arc1:evaluation", 6
STEPS, CHECKPOINT_STEPS = 62, 5
SETTINGS = (
    *(f"train.steps={STEPS}", f"train.checkpoint_steps={CHECKPOINT_STEPS}", "train.checkpoint_seconds=0", "train.packs=2"),
    *("train.pack_tokens=160", "train.segments=4", "train.log_steps=2", "train.precision=float32", "build.augmentations=50"),
    *("model.hidden_size=64", "model.heads=4", "predict.views=6", "predict.round_views=2", "predict.segments=2"),
)
VARIANTS = {"one process": (), "two processes": ("--processes", "2")}
MARK = "ARC_TORTURED"
"""Environment variable that marks every process of a run."""
NO_SUBMISSION = "no submission"


@dataclass(frozen=True)
class Strike:
    """A signal to all processes of a run at one moment."""

    stage: str
    """start, build, train, checkpoint, predict, vote or write."""
    count: int = 1
    """Which beginning of the stage."""
    delay: float = 0.0
    """Seconds after that."""
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Plan:
    """Faults injected from inside a run (inside/sitecustomize.py)."""

    strike: Strike | None = None
    fail: dict[str, Any] | None = None
    """{"what": "write config[.]json~", "errno": 28, "times": 1}: the pattern of what fails, and how often."""
    slow: float = 0.0
    """Longest delay of a file operation, in seconds."""
    room: tuple[str, int] | None = None
    """(file, bytes): once the file is renamed into place, the address space is limited to so many bytes more than in use."""
    stalls: tuple[float, float] | None = None
    """All of Python stops for up to so many seconds, with so many in between on average."""


@dataclass
class Tortured:
    """A started run, its output and its file operations."""

    out: Path
    process: "subprocess.Popen[bytes]"
    mark: str
    started: float
    output_file: Path
    log: Path
    seconds: float = field(default=0.0)

    def wait(self, timeout: float = 300.0) -> int:
        """Wait for its end, kill what is left of it, and return the exit code."""
        try:
            self.process.wait(timeout)
        finally:
            self.seconds = time.monotonic() - self.started
            self.end()
        return self.process.returncode

    def end(self) -> None:
        """Kill all its processes."""
        for _ in range(3):
            for pid in marked(self.mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """Return what it wrote to stdout and stderr."""
        return self.output_file.read_text(errors="replace")

    def events(self) -> list[tuple[float, int, str, str, str]]:
        """Return (seconds since the start, process, rank or -, operation, file) of each file operation in its folder."""
        lines = [line.split(" ", 4) for line in self.log.read_text().splitlines()] if self.log.is_file() else []
        return [(float(when) - self.started, int(pid), rank, kind, name) for when, pid, rank, kind, name in lines]

    def strikes(self) -> list[str]:
        """Return the stages in which a signal was sent."""
        return [name for _, _, _, kind, name in self.events() if kind == "strike"]


def start(
    arguments: Sequence[object],
    out: Path,
    plan: Plan | None = None,
    beside: Path | None = None,
    wrapper: Sequence[str] = (),
) -> Tortured:
    """Start `python -m pipeline` with these arguments and `--out OUT`, in a session of its own.

    Its output goes into the folder `beside`, by default that of `out`. `wrapper` is a command that starts another one.
    """
    mark = uuid.uuid4().hex
    place = (beside or out.parent) / f"{out.name}-{mark[:8]}"
    output_file, log = place.with_suffix(".output"), place.with_suffix(".events")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark, "PYTHONPATH": f"{ROOT}"}
    if plan:
        inside = {**asdict(plan), "folder": str(out.resolve()), "log": str(log), "parent": os.getpid()}
        variables |= {"ARC_TORTURE": json.dumps(inside), "PYTHONPATH": f"{Path(__file__).parent / 'inside'}:{ROOT}"}
        if plan.room:
            variables["LD_PRELOAD"] = ""  # as the program has it where memory is limited from its start
    command = [*wrapper, sys.executable, "-m", "pipeline", *map(str, arguments), "--out", str(out)]
    with output_file.open("wb") as file:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    return Tortured(out, process, mark, started, output_file, log)


def run_arguments(variant: str = "one process", settings: Sequence[str] = SETTINGS) -> list[str]:
    """Return the arguments of the run, without --out; it resumes an earlier start."""
    chosen = set_options(settings)
    source = ["--source", SOURCE, "--max-side", str(MAX_SIDE)]
    return ["run", *source, "--preset", "demo", *chosen, *VARIANTS[variant], "--resume"]


@cache
def tasks(max_side: int | None = MAX_SIDE) -> tuple[Task, ...]:
    """Return the tasks of the run."""
    return tuple(Selection(max_side).apply(load_source(SOURCE, with_solutions=False)).tasks)


def marked(mark: str) -> Iterator[int]:
    """Yield the processes of a run, in any session."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def problem_with(out: Path, max_side: int | None = MAX_SIDE) -> str | None:
    """Return what is wrong with a run folder while no process works there: submission or newest checkpoint not valid."""
    if not (out / "submission.json").exists():
        return NO_SUBMISSION
    try:
        check_submission(out / "submission.json", tasks(max_side))
        newest = newest_checkpoint(out)
        if newest:
            read_state(newest)
            for path in newest.glob("*.safetensors"):
                read_tensors(path)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def faults_of_end(run: Tortured, code: int, max_side: int | None = MAX_SIDE) -> list[str]:
    """Return what is wrong with how a run ended: exit code other than 0 and 1, a traceback, or its results."""
    tail, problem = run.output()[-1500:], problem_with(run.out, max_side)
    problems = [] if code in (0, 1) else [f"exit code {code}: {tail}"]
    if "Traceback" in run.output():
        problems.append(f"a traceback: {tail}")
    return problems + ([problem] if problem else [])


def resume(out: Path, reference: Path, variant: str = "one process", lost: Sequence[str] = ()) -> list[str]:
    """Resume a run without faults; return what is wrong with its end, and how its results differ from `reference`."""
    run = start(run_arguments(variant), out)
    code = run.wait()
    if code or "Traceback" in run.output():
        return [f"resumed, it ended with exit code {code}: {run.output()[-500:]}"]
    different = [name for name in differences(reference, out) if name not in lost]
    return [f"resumed, it differs from an undisturbed run in {', '.join(different)}"] if different else []


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs in the results of two finished runs: bytes of files, tensors of the last checkpoint, losses."""
    found = []
    names = ("submission.json", "votes.json", "score.json", "config.json", "drafts.safetensors")
    for name in (*names, "dataset/store.safetensors", "dataset/manifest.json"):
        if not (other / name).is_file() or (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    rounds = [sorted(path.name for path in (run / "candidates").iterdir()) for run in (one, other)]
    if rounds[0] != rounds[1]:
        found.append(f"candidates: {rounds}")
    else:
        found += [name for name in rounds[0] if not _equal(*(run / "candidates" / name for run in (one, other)))]
    last = [newest_checkpoint(run) for run in (one, other)]
    files = [sorted(path.name for path in folder.glob("*.safetensors")) if folder else [] for folder in last]
    if files[0] != files[1] or not files[0] or last[0].name != last[1].name:  # type: ignore[union-attr]
        found.append(f"checkpoints: {last}")
    else:
        found += [name for name in files[0] if not _equal(*(folder / name for folder in last if folder))]
    if losses(one) != losses(other):
        found.append("metrics.jsonl")
    return found


def _equal(one: Path, other: Path) -> bool:
    (first, _), (second, _) = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(out: Path) -> list[tuple[int, float, float]]:
    """Return (step, loss, share of sequences exactly right) of every line of metrics; none where there is no file."""
    return [(line["step"], line["loss"], line["exact"]) for line in read_metrics(out / "metrics.jsonl")]


def summary(values: Sequence[float]) -> str:
    """Return least, median and most of `values`."""
    if not values:
        return "-"
    return f"{min(values):.1f}, {np.median(values):.1f}, {max(values):.1f}"
