"""The command line: parses arguments, locks the folder, starts the clock, calls a command. Bad input: one line, exit code 2."""

import argparse
import io
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from augment.errors import InputError
from eval.files import remove_unfinished
from eval.formatting import show_path
from pipeline.cli.kaggle import add_kaggle
from pipeline.cli.options import (
    PROGRAM,
    SOURCES_AND_PUZZLES_HELP,
    are_puzzles,
    budget_of,
    check_networks,
    complete_settings,
    config_of,
)
from pipeline.cli.scores import add_compare, add_curve, add_memory, add_record, add_score
from pipeline.cli.show import add_debug, add_report, add_show
from pipeline.cli.stages import add_build, add_predict, add_run, add_train, add_vote, job_of
from pipeline.cli.tools import add_audit, add_bench, add_canvas, add_doctor, add_export, add_import_checkpoint
from pipeline.config import CONFIG_FILE, read_config, require_end, resumed
from pipeline.inference.facts import CANDIDATES, FACTS_FILE, VOTES_FILE
from pipeline.jobs.networks import NETWORKS_FOLDER
from pipeline.jobs.run_record import RECORD_FILE, leave_record
from pipeline.system.folder_lock import FolderLock
from pipeline.system.launch import STARTED, TRACEBACKS, start_processes
from pipeline.system.output import discard_output
from pipeline.system.progress_bar import is_main_process
from pipeline.system.signals import interruptible
from pipeline.system.time_limit import start_watchdog
from pipeline.training.metrics import METRICS_FILE
from pipeline.training.trackers import SENT_FILE, tracked
from pipeline.weights.find import CHECKPOINTS, find_weights, newest_checkpoint

_FIRST_STEPS = f"""\
first steps:
  {PROGRAM} run --source arc1:training --source arc1:evaluation --max-side 6 --preset demo --time-limit 10m --out runs/first
    (then open runs/first/report.html in a browser, or stay in the terminal:)
  {PROGRAM} show --run runs/first
  {PROGRAM} debug --task 25ff71a9 --source arc1:training
"""


class _LogFormatter(logging.Formatter):
    """The time, the level from warnings on, the message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{record.asctime} {level}{record.message}"


def main(argv: list[str] | None = None, started: float | None = None) -> int:
    """Run one command; return its exit code: 0 success, 1 a failure of its own, 2 bad input (one line).

    Without `argv` it is the program itself: it reads sys.argv, and a run's clock began at `started` (monotonic).
    """
    started = time.monotonic() if started is None else started
    if argv is None:
        started = float(os.environ.get(STARTED, started))  # of the first process of a launch
    arguments = _parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else argv
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_LogFormatter("%(asctime)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.WARNING, handlers=[log])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal shows every character
    try:
        with ExitStack() as entered:
            entered.enter_context(interruptible())
            if arguments.command in ("run", "train"):
                complete_settings(arguments)
            if arguments.command == "run":
                check_networks(arguments)
                budget = budget_of(arguments, started)
                if argv is None and budget.limit_seconds is not None:  # from here, since importing torch takes time too
                    start_watchdog(started + budget.limit_seconds, budget.reserve_seconds, arguments.out)
            lock = entered.enter_context(enter(arguments))
            watched = tracked(getattr(arguments, "tracker", None), getattr(arguments, "out", None))
            if argv is None and "processes" in arguments:
                start_processes(arguments.processes, arguments.words, started, lock)
            entered.enter_context(watched)
            return arguments.handler(arguments, started)
    except (InputError, FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if TRACEBACKS in os.environ:
            traceback.print_exc()
        print(f"{PROGRAM} {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if is_main_process():
            cause = f"; {interrupt}" if str(interrupt) else ""
            print(f"{PROGRAM} {arguments.command}: interrupted{cause}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        discard_output()
        return 1
    except (OSError, FloatingPointError, MemoryError) as error:
        if is_main_process() or not isinstance(error, ConnectionError):  # of a lost process one line is enough
            print(f"{PROGRAM} {arguments.command}: {str(error) or 'out of memory'}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="From ARC tasks to submission.json with a tiny recursive network trained from scratch.",
        epilog=_FIRST_STEPS + SOURCES_AND_PUZZLES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        add_run, add_report, add_show, add_compare, add_debug, add_build, add_train, add_predict, add_vote, add_score,
        add_kaggle, add_audit, add_canvas, add_curve, add_memory, add_record, add_import_checkpoint, add_export, add_bench,
        add_doctor,
    ):  # fmt: skip
        add(commands)
    return parser


@contextmanager
def enter(arguments: argparse.Namespace) -> Iterator[FolderLock | None]:
    """Hold the lock of the folder that a command works in; for the command `run`, write a complete fallback submission first.

    Nothing slow is imported or started before. Processes of our launcher share its lock; of another launcher only rank 0 takes
    it. Raises InputError where another process works in the folder, or where it holds a run that is not to be resumed.
    """
    launched = STARTED in os.environ
    if arguments.command not in ("run", "build", "train", "predict") or not (is_main_process() or launched):
        yield None
    elif launched:
        with FolderLock(arguments.out, shared=True) as lock:
            yield lock
    elif arguments.command != "run":
        with FolderLock(arguments.out) as lock:
            remove_unfinished(arguments.out)
            if arguments.command == "train" and not arguments.resume:
                _begin_training(arguments.out)
            if arguments.command == "predict" and (arguments.out / RECORD_FILE).exists():
                _require_own_prediction(arguments.out, arguments.weights, arguments.resume)
            yield lock
    else:
        if arguments.weights and not arguments.resume:  # a run that has begun may do without
            find_weights(arguments.weights)
        out, leave_fallback = arguments.out, job_of(arguments, "drop").fallback()
        config = resumed(read_config(out / CONFIG_FILE), arguments.set)[0] if arguments.begun else config_of(arguments)
        require_end(config, None if arguments.time_limit is None else math.inf)  # what is refused leaves no record
        with FolderLock(out) as lock:
            if not arguments.resume and any((out / name).exists() for name in (CONFIG_FILE, CHECKPOINTS, NETWORKS_FOLDER)):
                raise InputError(f"{out} holds a run already: continue it with --resume, or choose another --out")
            if not arguments.resume and any((out / name).exists() for name in (CANDIDATES, VOTES_FILE, FACTS_FILE)):
                raise InputError(f"{out} holds predictions already: choose another --out")
            other, kind = ("submission.json", "ARC tasks") if are_puzzles(arguments) else ("predictions.csv", "puzzles")
            if arguments.resume and (out / other).exists():
                raise InputError(f"{out} holds a run on {kind}; resume with the sources of the run")
            for folder in (out, out / "dataset", out / CANDIDATES):
                remove_unfinished(folder)
            leave_fallback(out, arguments.resume)
            leave_record(arguments)
            yield lock


def _require_own_prediction(run: Path, weights: Path, resume: bool) -> None:
    """Raise InputError where a prediction in the folder of a `run` would replace what other networks or views have voted."""
    path = find_weights(weights)
    if run.resolve() not in (path.resolve(), *path.resolve().parents):
        raise InputError(f"{run} holds a run, whose votes those of {show_path(path)} would replace: choose another --out")
    if not resume:
        raise InputError(f"{run} holds a run, whose votes these would replace: choose another --out, or --resume")
    if (run / NETWORKS_FOLDER).exists():
        raise InputError(f"{run} holds a run of several networks, whose votes one would replace: choose another --out")


def _begin_training(out: Path) -> None:
    """Remove what an earlier training in `out` logged. Raises InputError where it left checkpoints."""
    if newest_checkpoint(out):
        raise InputError(f"{out} holds checkpoints already: continue with --resume, or choose another --out")
    for name in (METRICS_FILE, SENT_FILE):
        (out / name).unlink(missing_ok=True)
