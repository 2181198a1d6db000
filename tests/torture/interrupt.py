"""Runs that are asked to end, by SIGTERM or Ctrl-C, at every stage: they do so in seconds, and lose nothing."""

import random
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.weights import newest_checkpoint
from tests.torture.demo import Plan, differences, problem_with, run_arguments, start
from tests.torture.kill import Outcome, choose_strike, make_reference

ROUND = (
    ("build", 1), ("train", 4), ("checkpoint", 2), ("train", 4), ("checkpoint", 2), ("predict", 1), ("vote", 1), ("write", 2),
)  # fmt: skip
_WRITTEN = re.compile(r"the checkpoint of step (\d+) is written")


def interrupt(folder: Path, variant: str, seed: int, references: Mapping[str, Path]) -> Outcome:
    """Ask one run to end in each stage, resume it every time, then let it end and compare it with its reference."""
    rng, outcome = random.Random(seed), Outcome(variant)
    out = folder / f"asked-{variant.replace(' ', '-')}-{seed}"
    for number, (stage, most) in enumerate(ROUND):
        asked = (signal.SIGTERM, signal.SIGINT)[(number + seed) % 2]
        run = start(run_arguments(variant), out, Plan(choose_strike(stage, most, rng, asked)))
        code, said = run.wait(), run.said()
        hits = [when for when, _, _, kind, _ in run.events() if kind == "strike"]
        if not hits:
            break  # the stage was over before this start
        outcome.struck += run.strikes()
        outcome.ending_seconds.append(run.seconds - hits[0])
        name = f"{out.name}, {asked.name} while in {stage}"
        if code not in (0, 1):  # 0: it was about to end
            outcome.problems.append(f"{name}: exit code {code}: {said[-1500:]}")
        if "Traceback" in said:
            outcome.problems.append(f"{name}: a traceback: {said[-1500:]}")
        try:
            problem = problem_with(out)
        except FileNotFoundError:
            problem = "no submission"
        written, newest = _WRITTEN.search(said), newest_checkpoint(out / "checkpoints")
        trained = [name for when, _, _, kind, name in run.events() if when < hits[0] and kind == "mkdir" and ".step-" in name]
        if trained and run.strikes()[0] in ("train", "checkpoint") and not written:
            problem = problem or f"no word of a checkpoint: {said[-500:]}"
        if written and (not newest or newest.name != f"step-{int(written[1]):08d}"):
            problem = problem or f"the checkpoint that it speaks of is not there: {newest}"
        outcome.problems += [f"{name}: {problem}"] if problem else []
    run = start(run_arguments(variant), out)
    code = run.wait()
    different = differences(references[variant], out) if code == 0 else [f"exit code {code}: {run.said()[-500:]}"]
    if different:
        outcome.problems.append(f"{out.name}: resumed, it differs from one left alone: {', '.join(different)}")
    if not outcome.problems:
        shutil.rmtree(out)
    return outcome


def interrupt_many(folder: Path, variants: Mapping[str, int], seed: int, jobs: int) -> Iterator[Outcome]:
    """Yield what became of runs that were asked to end, so many of each variant."""
    references = {variant: make_reference(folder, variant) for variant in variants}
    chosen = [variant for variant, count in variants.items() for _ in range(count)]
    with ThreadPoolExecutor(jobs) as pool:
        pairs = zip(chosen, range(seed, seed + len(chosen)), strict=True)
        yield from pool.map(lambda pair: interrupt(folder, *pair, references), pairs)
