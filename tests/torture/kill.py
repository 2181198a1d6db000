"""Runs that are killed again and again, at every stage, and have to end as one that was left alone."""

import random
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.demo import Plan, Strike, differences, problem_with, run_arguments, start

ROUND = (
    *(("start", 1), ("write", 1), ("build", 1), ("start", 1), ("train", 3), ("checkpoint", 2), ("train", 4), ("checkpoint", 2)),
    *(("train", 4), ("checkpoint", 2), ("train", 4), ("checkpoint", 3), ("predict", 1), ("vote", 1), ("write", 1)),
    *(("predict", 1), ("vote", 1), ("write", 2)),
)
"""The stages in which one run is killed, one start after the other, and for how many times each may begin before that."""
LONGEST_DELAY = {
    "start": 1.5, "build": 0.2, "train": 0.08, "checkpoint": 0.03, "predict": 0.1, "vote": 0.01, "write": 0.004,
}  # fmt: skip


@dataclass
class Outcome:
    """What became of one run, over all its starts."""

    variant: str
    struck: list[str] = field(default_factory=list)
    """Stages in which it was hit."""
    first_seconds: list[float] = field(default_factory=list)
    """Of each first start: until a complete submission stood."""
    before_submission: list[float] = field(default_factory=list)
    """Of each kill before there was a submission: how long after the start."""
    ending_seconds: list[float] = field(default_factory=list)
    """From a signal that can be heard to the end."""
    problems: list[str] = field(default_factory=list)


def choose_strike(stage: str, most: int, rng: random.Random, number: int = signal.SIGKILL) -> Strike:
    """Return a moment of `stage`: exactly at its begin in one of three cases, else some time after it."""
    delay = 0.0 if stage != "start" and rng.random() < 1 / 3 else rng.uniform(0.0, LONGEST_DELAY[stage])
    return Strike(stage, rng.randint(1, most), delay, number)


def torture(folder: Path, variant: str, seed: int, references: Mapping[str, Path]) -> Outcome:
    """Kill one run in each stage of a round, resume it every time, then let it end and compare it with its reference."""
    rng, outcome = random.Random(seed), Outcome(variant)
    out = folder / f"{variant.replace(' ', '-')}-{seed}"
    for stage, most in ROUND:
        run = start(run_arguments(variant), out, Plan(choose_strike(stage, most, rng)))
        code = run.wait()
        outcome.struck += run.strikes()
        stood = [when for when, _, _, kind, name in run.events() if (kind, name) == ("rename", "submission.json")]
        try:
            problem = problem_with(out)
        except FileNotFoundError:
            problem = "no submission" if stood and len(stood) > 1 else None
            outcome.before_submission.append(run.seconds)
        if stood and not outcome.first_seconds:
            outcome.first_seconds.append(stood[0])
        if not run.strikes() and code != 0:
            problem = f"it ended by itself with exit code {code}: {run.said()[-500:]}"
        if problem:
            outcome.problems.append(f"{out.name}, killed while in {stage}: {problem}")
        if not run.strikes():  # the stage was over before this start
            break
    run = start(run_arguments(variant), out)
    code = run.wait()
    if code or "Traceback" in run.said():
        outcome.problems.append(f"{out.name}: resumed, it ended with exit code {code}: {run.said()[-500:]}")
    else:
        different = differences(references[variant], out)
        if different:
            outcome.problems.append(f"{out.name}: resumed, it differs from one left alone in {', '.join(different)}")
    if not outcome.problems:
        shutil.rmtree(out)
    return outcome


def make_reference(folder: Path, variant: str) -> Path:
    """Return a run that nobody disturbed."""
    out = folder / f"reference-{variant.replace(' ', '-')}"
    run = start(run_arguments(variant), out)
    if run.wait():
        raise RuntimeError(f"the reference failed: {run.said()[-2000:]}")
    return out


def torture_many(folder: Path, variants: Mapping[str, int], seed: int, jobs: int, kills: int) -> Iterator[Outcome]:
    """Yield what became of runs, some of each variant at a time, until there were so many kills."""
    references = {variant: make_reference(folder, variant) for variant in variants}
    struck = 0
    while struck < kills:
        chosen = [variant for variant, count in variants.items() for _ in range(count)]
        with ThreadPoolExecutor(jobs) as pool:
            seeds = range(seed, seed + len(chosen))
            for outcome in pool.map(lambda pair: torture(folder, *pair, references), zip(chosen, seeds, strict=True)):
                struck += len(outcome.struck)
                yield outcome
        seed += len(chosen)
