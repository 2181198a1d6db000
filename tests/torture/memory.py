"""Runs whose memory is limited before the first step: they use more micro-batches, or end with a clear message."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.demo import SETTINGS, Plan, faults_of_end, run_arguments, start

ROOM_MB = (40, 60, 80, 100, 120, 140, 160, 200, 250, 300, 400, 600)
"""Address space beyond what the run uses at that moment."""
PACK_TOKENS = 20_000
_REPEATED = re.compile(r"it is repeated with (\d+) micro-batches")
_HALVED = re.compile(r"out of memory: packs of \d+ tokens from now on")


@dataclass
class Squeezed:
    """What happened to a run with little memory."""

    room_mb: int
    code: int = 0
    micro_batches: int = 1
    """Of a pack, in the end."""
    halved: int = 0
    """Packs of predictions that were halved."""
    message: str = ""
    """The last line, where it gave up."""
    problems: list[str] = field(default_factory=list)


def squeeze(folder: Path, room_mb: int) -> Squeezed:
    """Run with `room_mb` of memory for training and prediction."""
    settings = [*SETTINGS, f"train.pack_tokens={PACK_TOKENS}", "train.packs=1", "train.steps=4", "train.checkpoint_steps=2"]
    settings += ["predict.views=64", "predict.round_views=64"]
    run = start(run_arguments(settings=settings), folder / f"squeezed-{room_mb}", Plan(room=("config.json", room_mb << 20)))
    found = Squeezed(room_mb, run.wait())
    found.micro_batches = max(map(int, _REPEATED.findall(run.output())), default=1)
    found.halved = len(_HALVED.findall(run.output()))
    found.problems = faults_of_end(run, found.code)
    if found.code == 1:
        found.message = next((line for line in reversed(run.output().splitlines()) if "out of memory" in line), "")
        if not found.message:
            found.problems.append(f"it does not report that memory is short: {run.output()[-1500:]}")
    if not found.problems:
        shutil.rmtree(run.out)
    return found


def squeeze_many(folder: Path, jobs: int) -> Iterator[Squeezed]:
    """Yield the outcomes of runs with each amount of memory."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda room: squeeze(folder, room), ROOM_MB)
