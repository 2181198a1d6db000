"""Runs whose memory is limited before the first step: steps are repeated in more pieces, or the run ends with a clear line."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.demo import SETTINGS, Plan, problem_with, run_arguments, start

ROOM_MB = (40, 60, 80, 100, 120, 140, 160, 200, 250, 300, 400, 600)
"""Address space beyond what a run has then."""
PACK_TOKENS = 20_000
_REPEATED = re.compile(r"it is repeated with (\d+) pieces")
_HALVED = re.compile(r"out of memory: packs of \d+ tokens from now on")


@dataclass
class Squeezed:
    """What became of a run with little memory."""

    room_mb: int
    code: int = 0
    pieces: int = 1
    """Into which packs were cut in the end."""
    halved: int = 0
    """Packs of predictions that were halved."""
    said: str = ""
    """The last line, where it gave up."""
    problems: list[str] = field(default_factory=list)


def squeeze(folder: Path, room_mb: int) -> Squeezed:
    """Run with so much room for training and prediction."""
    settings = [*SETTINGS, f"train.pack_tokens={PACK_TOKENS}", "train.packs=1", "train.steps=4", "train.checkpoint_steps=2"]
    settings += ["predict.views=64", "predict.round_views=64"]
    out = folder / f"squeezed-{room_mb}"
    run = start(run_arguments(settings=settings), out, Plan(room=("config.json", room_mb << 20)))
    found = Squeezed(room_mb, run.wait())
    said = run.said()
    pieces = [int(number) for number in _REPEATED.findall(said)]
    found.pieces, found.halved = max(pieces, default=1), len(_HALVED.findall(said))
    if found.code not in (0, 1):
        found.problems.append(f"exit code {found.code}: {said[-1500:]}")
    if found.code == 1:
        found.said = next((line for line in reversed(said.splitlines()) if "memory" in line), "")
        if not found.said:
            found.problems.append(f"it does not say that the memory is too small: {said[-1500:]}")
    if "Traceback" in said:
        found.problems.append(f"a traceback: {said[-2500:]}")
    try:
        problem = problem_with(out)
    except FileNotFoundError:
        problem = "no submission"
    found.problems += [problem] if problem else []
    if not found.problems:
        shutil.rmtree(out)
    return found


def squeeze_many(folder: Path, jobs: int) -> Iterator[Squeezed]:
    """Yield what became of runs with each amount of room."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda room: squeeze(folder, room), ROOM_MB)
