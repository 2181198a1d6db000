"""Options that several commands share, and the budget, config and selection made from them."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from augment.errors import InputError
from eval.formatting import parse_duration, show_path
from pipeline.config import CONFIG_FILE, Config, for_another_run, last_of_each, override
from pipeline.data.puzzles.sources import PUZZLES_HELP, is_puzzle_source
from pipeline.data.sources import SOURCES_HELP
from pipeline.jobs.run_record import as_option, record_if_usable
from pipeline.presets import PRESETS, preset
from pipeline.system.time_limit import Budget, default_reserve
from pipeline.weights.find import newest_checkpoint, settings_of, shipped_names

PROGRAM = "python -m pipeline"
START_SECONDS = 5.0
"""What importing PyTorch and starting the engine take at least."""
Handler = Callable[[argparse.Namespace, float], int]
"""Takes the arguments of a command and the monotonic time of its start; returns the exit code."""
TASKS_HELP = f"\n{SOURCES_HELP}"
WEIGHTS_HELP = f"a weights file, a run or checkpoint folder, or weights of this program by name: {', '.join(shipped_names())}"
SOURCES_AND_PUZZLES_HELP = f"\n{SOURCES_HELP}{PUZZLES_HELP}"


def add_command(
    commands: Any,
    handler: Handler,
    name: str,
    summary: str,
    example: str,
    sources: str = SOURCES_AND_PUZZLES_HELP,
    program: str = PROGRAM,
) -> argparse.ArgumentParser:
    """Add a command that calls `handler`; return its parser. Lines of `example` after the first are whole commands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {program} {name} {example}\n{sources}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def add_sources(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add what is solved (where not `required`, perhaps nothing), what else is trained on, and what becomes of leaked pairs."""
    solved = "tasks to be solved: demonstrations are trained on, test inputs predicted; may be repeated"
    parser.add_argument("--source", action="append", default=[], required=required, metavar="S", help=solved)
    trained = "further tasks to train on, test pairs included; may be repeated"
    parser.add_argument("--train-source", action="append", default=[], metavar="S", help=trained)
    add_selection(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="of each --train-source of puzzles, draw N to train on")
    add_test_limit(parser)
    leakage = "what to do with training pairs that equal a scored test pair (default: run drops them, build refuses)"
    parser.add_argument("--leakage", choices=("refuse", "drop", "allow"), help=leakage)


def add_test_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test-limit", type=int, metavar="N", help="of each --source of puzzles, N, always the same")


def add_selection(parser: argparse.ArgumentParser) -> None:
    small = "of --source, keep tasks whose demonstrations and test inputs have no side over N"
    parser.add_argument("--max-side", type=int, metavar="N", help=small)
    held = "of --source, take the last demonstration of each task for its test, to choose settings by"
    parser.add_argument("--hold-out", action="store_true", help=held)


def add_config(parser: argparse.ArgumentParser) -> None:
    settings = f"settings by name (default: those that --weights come with): {', '.join(PRESETS)}"
    parser.add_argument("--preset", metavar="P", help=settings)
    parser.add_argument("--seed", type=int, metavar="N", help="of the first weights and of what is drawn (default: 0)")
    add_settings(parser)
    tracker = "send the lines of metrics.jsonl to a tracker of Accelerate as well: tensorboard, wandb, mlflow, ..."
    parser.add_argument("--tracker", metavar="NAME", help=tracker)


def add_settings(parser: argparse.ArgumentParser, setting: str = "override a setting of the preset, or of the weights") -> None:
    setting += " (pipeline/config.py); may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help=setting)


def add_processes(parser: argparse.ArgumentParser) -> None:
    several = "number of processes on a machine without GPUs (with GPUs: accelerate launch -m pipeline ...)"
    parser.add_argument("--processes", type=int, metavar="N", help=several)


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="FILE", help=f"start from these: {WEIGHTS_HELP}")


def add_data(parser: argparse.ArgumentParser) -> None:
    beside = "the dataset that was predicted, where DIR is of predict and has none of its own"
    parser.add_argument("--data", type=Path, metavar="DIR", help=beside)


def budget_of(arguments: argparse.Namespace, started: float) -> Budget:
    """Return the time limit of a command and, for `run`, what is kept free at its end. Raises InputError."""
    limit = parse_duration(arguments.time_limit) if arguments.time_limit else None
    if limit is None and getattr(arguments, "reserve", None):
        raise InputError("--reserve is kept free of a --time-limit, and there is none")
    if limit is None or "reserve" not in arguments:
        return Budget(limit, started)
    if arguments.reserve:
        reserve = parse_duration(arguments.reserve)
        if reserve >= limit:
            raise InputError(f"--reserve {arguments.reserve} leaves nothing of --time-limit {arguments.time_limit}")
        return Budget(limit, started, reserve)
    reserve = default_reserve(limit)
    if limit < START_SECONDS + reserve and not arguments.resume:
        raise InputError(
            f"--time-limit {arguments.time_limit} is too short: to start takes seconds, and {reserve:.0f}s are kept free at "
            f"the end (--reserve sets another time); {START_SECONDS + reserve:.0f}s is the least"
        )
    return Budget(limit, started, reserve)


def config_of(arguments: argparse.Namespace, default: str = "") -> Config:
    """Return the settings of a command, by its preset, else of its weights, else by the preset `default`.

    Of several networks they are those of the first. Raises InputError or FileNotFoundError where they are not usable.
    """
    seed = (getattr(arguments, "seed", 0) or 0) * getattr(arguments, "networks", 1)
    if arguments.weights and not arguments.preset:
        return override(for_another_run(settings_of(arguments.weights), seed), arguments.set)
    return override(preset(arguments.preset or default, seed), arguments.set)


def complete_settings(arguments: argparse.Namespace) -> None:
    """Fill in, for a run that is resumed, what it was begun with and the command leaves out; note whether it has `begun`.

    What has begun keeps its config.json. Raises InputError where a command has neither preset nor weights.
    """
    out, is_run = arguments.out, arguments.command == "run"
    arguments.begun = arguments.resume and (out / CONFIG_FILE).is_file()
    if not is_run:
        arguments.begun = arguments.begun and newest_checkpoint(out) is not None
    record = record_if_usable(out) if is_run and arguments.resume else None
    if record:
        if not arguments.begun:
            arguments.set = list(last_of_each((*record.settings, *arguments.set)))
        known: dict[str, object] = {"seed": record.seed, "networks": record.networks, "max_side": record.max_side}
        if arguments.begun or not arguments.weights:
            known["preset"] = record.preset
        if record.weights and (arguments.begun or arguments.preset in (None, record.preset)):
            known["weights"] = Path(record.weights)
        known |= {"hold_out": record.hold_out, "train_source": record.train_sources}
        known |= {"limit": record.limit, "test_limit": record.test_limit}
        for name, value in known.items():
            given = getattr(arguments, name)
            if value and (given is None or given is False or given == []):
                setattr(arguments, name, list(value) if isinstance(value, tuple) else value)
                arguments.words = [*arguments.words, *as_option(name, value)]
    if not (arguments.preset or arguments.weights or arguments.begun):
        missing = f"there is no run in {show_path(out)} to resume; a new one needs a preset: " if arguments.resume else ""
        raise InputError(f"{missing}--preset is required, unless --weights bring their settings")
    if is_run:
        arguments.seed, arguments.networks = arguments.seed or 0, 1 if arguments.networks is None else arguments.networks


def check_networks(arguments: argparse.Namespace) -> None:
    """Raise InputError where a run cannot train so many networks side by side."""
    count = arguments.networks
    if count < 1:
        raise InputError(f"--networks must be at least 1, got {count}")
    if count > 1 and are_puzzles(arguments):
        raise InputError("--networks is for ARC tasks only")
    if count > 1 and (arguments.processes not in (None, 1) or "LOCAL_RANK" in os.environ):
        raise InputError(
            f"--networks {count} starts a process for each network itself: no --processes, no accelerate launch "
            "(--networks 1 goes on with the first network of a run)"
        )


def are_puzzles(arguments: argparse.Namespace) -> bool:
    """Return whether the sources are puzzles. Raises InputError where they are mixed, or have options of the other kind."""
    specs = [*(arguments.source or ()), *getattr(arguments, "train_source", ())]
    puzzles = {spec for spec in specs if is_puzzle_source(spec)}
    if puzzles and len(puzzles) < len(set(specs)):
        raise InputError(f"puzzles and ARC tasks do not go together: {', '.join(sorted(set(specs)))}")
    options = ("max_side", "hold_out") if puzzles else ("limit", "test_limit")
    for option in options:
        if getattr(arguments, option, None) not in (None, False):
            name, kind = f"--{option.replace('_', '-')}", "ARC tasks" if puzzles else "puzzles"
            raise InputError(f"{name} is for {kind} only")
    return bool(puzzles)
