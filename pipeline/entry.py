"""The first steps of a command, before torch is imported: what it is asked for, its time limit, its folder.

For the command `run` that includes a complete fallback submission.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from eval.replace import remove_unfinished
from pipeline.budget import Budget, default_reserve
from pipeline.data.puzzles import is_puzzle_source
from pipeline.data.select import Selection
from pipeline.launch import is_first_process, is_launched
from pipeline.occupied import Occupation, occupied
from pipeline.opening import AnyChallenge, Challenge, PuzzleChallenge, open_run
from pipeline.record import leave_record
from submission.duration import parse_duration

_WRITERS = ("run", "build", "train", "predict")
"""Commands that work in their folder --out for long."""


@contextmanager
def enter(arguments: argparse.Namespace) -> Iterator[Occupation | None]:
    """Hold the lock of the folder that a command works in; for the command `run`, leave a complete fallback submission there.

    Before anything slow is imported or started. Processes that a launcher of ours has started join in its lock; those of
    other launchers leave it to the first of them.
    """
    if arguments.command not in _WRITERS or not (is_first_process() or is_launched()):
        yield None
    elif is_launched():
        with occupied(arguments.out, share=True) as occupation:
            yield occupation
    elif arguments.command != "run":
        with occupied(arguments.out) as occupation:
            remove_unfinished(arguments.out)
            yield occupation
    else:
        if arguments.weights and not arguments.weights.exists():
            raise FileNotFoundError(f"{arguments.weights}: no such weights file or folder")
        with open_run(challenge_of(arguments), arguments.out, arguments.resume) as occupation:
            leave_record(arguments, arguments.resume)
            yield occupation


def run_budget(arguments: argparse.Namespace, started: float) -> Budget:
    """Return the time limit of the command `run` and what is kept free at its end. Raises ValueError."""
    budget = Budget(parse_duration(arguments.time_limit) if arguments.time_limit else None, started)
    reserve = parse_duration(arguments.reserve) if arguments.reserve else None
    if budget.limit_seconds is None:
        return budget
    return replace(budget, reserve_seconds=default_reserve(budget.limit_seconds) if reserve is None else reserve)


def challenge_of(arguments: argparse.Namespace) -> AnyChallenge:
    """Return what a run has to solve. Raises ValueError like `are_puzzles`."""
    sources = tuple(arguments.source)
    if are_puzzles(arguments):
        return PuzzleChallenge(sources, arguments.test_limit)
    return Challenge(sources, selection_of(arguments))


def are_puzzles(arguments: argparse.Namespace) -> bool:
    """Return whether the sources are puzzles. Raises ValueError where they are mixed, or have options of the other kind."""
    specs = [*(arguments.source or ()), *getattr(arguments, "train_source", ())]
    puzzles = {spec for spec in specs if is_puzzle_source(spec)}
    if puzzles and len(puzzles) < len(set(specs)):
        raise ValueError(f"puzzles and ARC tasks do not go together: {', '.join(sorted(set(specs)))}")
    options = ("max_side", "hold_out") if puzzles else ("limit", "test_limit")
    for option in options:
        if getattr(arguments, option, None) not in (None, False):
            name, kind = f"--{option.replace('_', '-')}", "ARC tasks" if puzzles else "puzzles"
            raise ValueError(f"{name} is for {kind} alone")
    return bool(puzzles)


def selection_of(arguments: argparse.Namespace) -> Selection:
    """Return which tasks of the sources a command is about."""
    return Selection(arguments.max_side, arguments.hold_out)
