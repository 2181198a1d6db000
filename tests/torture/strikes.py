"""Runs that are killed, or asked to end by SIGTERM or Ctrl-C, at every stage; resumed, they end like an undisturbed run."""

import random
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.weights.find import newest_checkpoint
from tests.torture.demo import (
    NO_SUBMISSION,
    Plan,
    Strike,
    Tortured,
    faults_of_end,
    problem_with,
    resume,
    run_arguments,
    start,
)

KILLS = (
    *(("start", 1), ("write", 1), ("build", 1), ("start", 1), ("train", 3), ("checkpoint", 2), ("train", 4), ("checkpoint", 2)),
    *(("train", 4), ("checkpoint", 2), ("train", 4), ("checkpoint", 3), ("predict", 1), ("vote", 1), ("write", 1)),
    *(("predict", 1), ("vote", 1), ("write", 2)),
)
"""The stages in which one run is killed, one per start, and how many times each may begin before that."""
INTERRUPTS = (
    ("build", 1), ("train", 4), ("checkpoint", 2), ("train", 4), ("checkpoint", 2), ("predict", 1), ("vote", 1), ("write", 2),
)  # fmt: skip
LONGEST_DELAY = {
    "start": 1.5, "build": 0.2, "train": 0.08, "checkpoint": 0.03, "predict": 0.1, "vote": 0.01, "write": 0.004,
}  # fmt: skip
_WRITTEN = re.compile(r"the checkpoint of step (\d+) is written")


@dataclass
class Outcome:
    """What happened to one run over all its starts."""

    variant: str
    what: str
    struck: list[str] = field(default_factory=list)
    """Stages in which a signal was sent."""
    first_seconds: list[float] = field(default_factory=list)
    """From the first start until a complete submission existed."""
    before_submission: list[float] = field(default_factory=list)
    """From the start to each kill that came before there was a submission."""
    ending_seconds: list[float] = field(default_factory=list)
    """From SIGTERM or Ctrl-C to the end."""
    problems: list[str] = field(default_factory=list)


def torture(folder: Path, variant: str, seed: int, reference: Path, kill: bool) -> Outcome:
    """Send one run a signal in each stage and resume it every time, then let it end and compare it with `reference`."""
    rng, outcome = random.Random(seed), Outcome(variant, "killed" if kill else "asked to end")
    out = folder / f"{variant.replace(' ', '-')}-{seed}"
    for number, (stage, most) in enumerate(KILLS if kill else INTERRUPTS):
        sent = signal.SIGKILL if kill else (signal.SIGTERM, signal.SIGINT)[(number + seed) % 2]
        # at the beginning of the stage in one of three cases, otherwise some time after it
        delay = 0.0 if stage != "start" and rng.random() < 1 / 3 else rng.uniform(0.0, LONGEST_DELAY[stage])
        run = start(run_arguments(variant), out, Plan(Strike(stage, rng.randint(1, most), delay, sent)))
        code = run.wait()
        outcome.struck += run.strikes()
        found = (_after_kill if kill else _after_interrupt)(run, code, outcome)
        outcome.problems += [f"{out.name}, {sent.name} in {stage}: {problem}" for problem in found]
        if not run.strikes():  # the stage was over before this start
            break
    outcome.problems += [f"{out.name}: {problem}" for problem in resume(out, reference, variant)]
    if not outcome.problems:
        shutil.rmtree(out)
    return outcome


def _after_kill(run: Tortured, code: int, outcome: Outcome) -> list[str]:
    stood = [when for when, _, _, kind, name in run.events() if (kind, name) == ("rename", "submission.json")]
    if stood and not outcome.first_seconds:
        outcome.first_seconds.append(stood[0])
    if not run.strikes() and code != 0:
        return [f"it ended by itself with exit code {code}: {run.output()[-500:]}"]
    problem = problem_with(run.out)
    if problem == NO_SUBMISSION and len(stood) <= 1:
        outcome.before_submission.append(run.seconds)
        return []
    return [problem] if problem else []


def _after_interrupt(run: Tortured, code: int, outcome: Outcome) -> list[str]:
    hits = [when for when, _, _, kind, _ in run.events() if kind == "strike"]
    if not hits:
        return []
    outcome.ending_seconds.append(run.seconds - hits[0])
    problems = faults_of_end(run, code)
    written, newest = _WRITTEN.search(run.output()), newest_checkpoint(run.out)
    trained = [name for when, _, _, kind, name in run.events() if when < hits[0] and kind == "mkdir" and ".step-" in name]
    if trained and run.strikes()[0] in ("train", "checkpoint") and not written:
        problems.append(f"it reports no checkpoint: {run.output()[-500:]}")
    if written and (not newest or newest.name != f"step-{int(written[1]):08d}"):
        problems.append(f"the checkpoint that it reports does not exist: {newest}")
    return problems


def make_reference(folder: Path, variant: str) -> Path:
    """Return an undisturbed run."""
    out = folder / f"reference-{variant.replace(' ', '-')}"
    run = start(run_arguments(variant), out)
    if run.wait():
        raise RuntimeError(f"the reference failed: {run.output()[-2000:]}")
    return out


def strike_many(folder: Path, seed: int, jobs: int, kills: int = 0) -> Iterator[Outcome]:
    """Yield the outcomes of runs that are killed until there are `kills` kills; without, of one round of interrupted runs."""
    variants = ["one process"] * 4 + ["two processes"] * (2 if kills else 3)
    references = {variant: make_reference(folder, variant) for variant in set(variants)}

    def one(variant: str, seed: int) -> Outcome:
        return torture(folder, variant, seed, references[variant], kill=kills > 0)

    struck, first = 0, True
    while first or struck < kills:
        with ThreadPoolExecutor(jobs) as pool:
            for outcome in pool.map(one, variants, range(seed, seed + len(variants))):
                struck += len(outcome.struck)
                yield outcome
        seed, first = seed + len(variants), False
