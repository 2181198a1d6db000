"""Runs with a time limit that are slowed down: none ends late, none without a valid submission."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import orjson

from tests.pipeline.tiny import set_options
from tests.torture.demo import SOURCE, VARIANTS, Plan, Tortured, faults_of_end, marked, start, summary, tasks

LIMITS = (20.0, 300.0)
SIDES = (6, 10, 30)
NO_STALL_SECONDS = 2.0
"""No process is stopped so shortly before the limit, since a stopped process cannot end. The program keeps a longer reserve."""
SLOW_DOWNS = ("none", "stopped", "hogs", "slow disk", "stalls", "all of them")
_BURN = """
import os, random, sys, time
rng, parent = random.Random(sys.argv[1]), os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + rng.uniform(0.5, 10.0)
    while time.monotonic() < end:
        pass
    time.sleep(rng.uniform(0.1, 5.0))
"""
"""Uses a core now and then, until its parent has ended."""


@dataclass
class Timed:
    """What happened to a run with a time limit."""

    limit: float
    used: float
    slow_down: str
    variant: str
    max_side: int
    code: int
    watchdog: bool
    """Whether its watchdog ended it before it was done."""
    first_seconds: float | None
    """Until a complete submission existed."""
    predicted: float
    """Share of the test inputs."""
    stopped_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def arguments_of(limit: float, max_side: int, variant: str) -> list[str]:
    """Return the arguments of a run with a time limit, without --out."""
    settings = ["train.packs=2", "train.checkpoint_seconds=15"]
    chosen = set_options(settings)
    source = ["--source", SOURCE, "--max-side", str(max_side)]
    return ["run", *source, "--preset", "demo", *chosen, *VARIANTS[variant], "--time-limit", f"{limit:.0f}s"]


def time_run(folder: Path, seed: int) -> Timed:
    """Run with a random limit and a random slow-down; check what is left."""
    rng = random.Random(seed)
    limit = float(round(LIMITS[0] * (LIMITS[1] / LIMITS[0]) ** rng.random()))
    slow_down = SLOW_DOWNS[seed % len(SLOW_DOWNS)]
    variant = rng.choice(["one process"] * 4 + ["two processes"] * 2)
    max_side = rng.choice(SIDES)
    every = slow_down == "all of them"
    plan = Plan(
        slow=0.3 if slow_down == "slow disk" or every else 0.0,
        stalls=(1.0, 3.0) if slow_down == "stalls" or every else None,
    )
    out = folder / f"timed-{seed}"
    tasks(max_side)  # read before the clock runs
    run = start(arguments_of(limit, max_side, variant), out, plan)
    stopped = 0.0
    hogs: list[subprocess.Popen[bytes]] = []
    try:
        if slow_down == "hogs" or every:
            hogs = [subprocess.Popen([sys.executable, "-c", _BURN, str(rng.random())]) for _ in range(2)]
        while run.process.poll() is None and time.monotonic() - run.started < limit + 60:
            if slow_down == "stopped" or every:
                stopped += _stop_for_a_while(run, limit, rng)
            time.sleep(0.05)
        late = run.process.poll() is None
    finally:
        code = run.wait()
        for hog in hogs:
            hog.kill()
            hog.wait()
    return _judge(run, Timed(limit, run.seconds, slow_down, variant, max_side, code, False, None, 0.0, stopped), late)


def _judge(run: Tortured, timed: Timed, late: bool) -> Timed:
    stood = [when for when, _, _, kind, name in run.events() if (kind, name) == ("rename", "submission.json")]
    timed.first_seconds = stood[0] if stood else None
    timed.watchdog = "the time limit is reached; stopping at once" in run.output() or timed.code == -signal.SIGALRM
    if late or timed.used > timed.limit:
        timed.problems.append(f"it took {timed.used:.1f} of {timed.limit:.0f} s")
    if timed.code == 1 and not timed.watchdog:
        timed.problems.append(f"exit code 1: {run.output()[-500:]}")
    timed.problems += faults_of_end(run, 0 if timed.watchdog else timed.code, timed.max_side)
    votes = run.out / "votes.json"
    if votes.is_file():
        found = orjson.loads(votes.read_bytes())
        inputs = sum(len(tests) for tests in found["tests"].values())
        timed.predicted = 1 - len(found["without_prediction"]) / inputs
    if not timed.problems:
        shutil.rmtree(run.out)
    return timed


def _stop_for_a_while(run: Tortured, limit: float, rng: random.Random) -> float:
    """Now and then stop all processes of a run for up to a tenth of the limit; return the seconds."""
    if rng.random() > 0.05 / (limit / 8):  # some eight times
        return 0.0
    seconds = min(rng.uniform(0.1, limit / 10), run.started + limit - NO_STALL_SECONDS - time.monotonic())
    if seconds <= 0:
        return 0.0
    for number, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
        for pid in marked(run.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause)
    return seconds


def time_many(folder: Path, runs: int, seed: int, jobs: int) -> Iterator[Timed]:
    """Yield the outcomes of `runs` runs, `jobs` at a time, long and short ones mixed.

    A process watches each run: threads would delay one another and measure that.
    """
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(time_run, folder), range(seed, seed + runs))


def table(timed: Sequence[Timed]) -> list[str]:
    """Return the table of used and allowed time, by limit and by slow-down, as lines of Markdown."""
    lines = ["| limit | runs | late | without a valid file | used / allowed: least, median, most | least seconds to spare | "
             "ended by the watchdog | every test input predicted | none predicted |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    edges = (20, 40, 80, 160, 301)
    groups = [(f"{low} to {high - (high == 301)} s", [run for run in timed if low <= run.limit < high])
              for low, high in pairwise(edges)]  # fmt: skip
    groups += [(f"slowed down: {name}", [run for run in timed if run.slow_down == name]) for name in SLOW_DOWNS]
    groups.append(("**all**", list(timed)))
    for name, group in groups:
        if group:
            late = sum(run.used > run.limit for run in group)
            bad = sum(bool(run.problems) and run.used <= run.limit for run in group)
            cells = [
                *(name, len(group), late, bad, summary([100 * run.used / run.limit for run in group]) + " %"),
                f"{min(run.limit - run.used for run in group):.1f}",
                sum(run.watchdog for run in group),
                sum(run.predicted == 1 for run in group),
                sum(run.predicted == 0 for run in group),
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines
