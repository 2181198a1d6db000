"""The commands `show`, `report` and `debug`."""

import argparse
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from augment.errors import InputError
from augment.task import TaskId
from augment.transform import Transform, transform_from_int, transform_to_int
from eval.formatting import parse_duration, show_name
from eval.report.screenshot import BROWSER_VARIABLE, draw_page, need_browser
from eval.results import TaskResult
from eval.terminal import draw_text, look_of
from pipeline.cli.options import TASKS_HELP, add_command, add_data, add_settings, add_weights, config_of
from pipeline.data.sources import find_task, load_source
from pipeline.reports.run_folder import KnownTask, RunFolder, result_of
from pipeline.system.progress_bar import doing
from submission.format import read_partial_submission

logger = logging.getLogger(__name__)

FILTERS = ("all", "solved", "first", "second", "part", "unsolved", "near", "size", "disagree", "fallback")
"""Of the page, as its addresses name them."""
PICTURE_WIDTH = 1200
IN_SLICES = ("train.log_steps=5", "train.steps=0")
"""What a training in slices of time changes."""


def add_show(commands: Any) -> None:
    summary = "draw a task in the terminal or to a picture; of a run, with its attempts, their votes and why they are wrong"
    example = (
        "007bbfb7 --source arc1:training\n  python -m pipeline show --run runs/demo-0\n"
        "  python -m pipeline show 4cd1b7b2 --run runs/demo-0 --png task.png"
    )
    parser = add_command(commands, show_command, "show", summary, example, TASKS_HELP)
    parser.add_argument("task", metavar="TASK", nargs="?", help="a task id; with --run it may be left out, for a list of tasks")
    where = "where the task is (default: the public tasks, or what the run says it solves); may be repeated"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--run", type=Path, metavar="DIR", help="a run: its attempts, their votes, and why they are wrong")
    given.add_argument("--submission", type=Path, metavar="FILE", help="the attempts of a submission.json of any system")
    add_data(parser)
    view = "draw the view through a transform: its code, such as 3.463582197, or the integer of it"
    parser.add_argument("--transform", metavar="CODE", help=view)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a picture, not text")
    color = "colors of a terminal (default: auto, off where the output is no terminal, or NO_COLOR is set): digits without"
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help=color)


def show_command(arguments: argparse.Namespace, _: float) -> int:
    """Draw one task in the terminal or to a picture, or list the tasks of a run."""
    if arguments.task is None:
        if arguments.run is None:
            raise InputError("which task? name it, or name a run with --run to see a list of its tasks")
        return _list_tasks(arguments)
    transform = parse_transform(arguments.transform) if arguments.transform else None
    if arguments.run is not None:
        result = find_result(RunFolder(arguments.run, arguments.data), arguments.task, arguments.source or ())
        where = str(arguments.run)
    else:
        task, source = find_task(arguments.task, arguments.source or ())
        submission = read_partial_submission(arguments.submission) if arguments.submission else {}
        result, where = result_of(KnownTask(task, source.solutions.get(task.id)), submission), source.name
        if not arguments.submission:
            result = replace(result, tests=tuple(replace(test, attempts=()) for test in result.tests))
    title = f"Task {show_name(result.task.id)} of {where}"
    if transform is not None:
        tests = tuple(test.seen_through(transform) for test in result.tests)
        result = TaskResult(transform.apply_task(result.task), tests)
        title += f", seen through transform {transform.code} ({transform_to_int(transform)})"
    if arguments.png:
        from eval.draw import draw_task  # matplotlib is slow to import

        attempts = [[attempt.grid for attempt in test.attempts] for test in result.tests]
        truths = tuple(test.truth for test in result.tests if test.truth is not None)
        notes = [[test.votes_of(attempt) for attempt in test.attempts] for test in result.tests]
        solutions = {result.task.id: truths} if result.known else {}
        draw_task(result.task, attempts, solutions, notes, title).leave(arguments.png)
        print(arguments.png)
    else:
        for line in draw_text(result, title, look_of(sys.stdout, arguments.color)):
            print(line)
    return 0


def parse_transform(code: str) -> Transform:
    """Return the transform of a code, text such as 3.463582197 or the integer of it. Raises InputError for neither."""
    if code.isascii() and code.isdigit() and len(code) < 100:
        return transform_from_int(int(code))
    return Transform.parse(code)


def find_result(folder: RunFolder, task_id: TaskId, specs: Sequence[str]) -> TaskResult:
    """Return the result of a task of a run, with votes where candidates were kept. Raises InputError where the run has none."""
    if task_id not in folder.submission:
        solved = list(folder.submission)
        named = ", ".join(map(show_name, solved[:5])) + (", ..." if len(solved) > 5 else "")
        raise InputError(f"{folder.path} has no task {task_id!r}; it solves {len(solved)} tasks: {named}")
    for known in _known_tasks(folder, specs):
        if known.task.id == task_id:
            return folder.result(known)
    raise InputError(f"{folder.path}: nothing here says what task {task_id!r} is: name its source with --source")


def _known_tasks(folder: RunFolder, specs: Sequence[str]) -> list[KnownTask]:
    notes: list[str] = []
    sources = [load_source(spec) for spec in specs] if specs else folder.load_sources(notes)[0]
    for note in notes:
        logger.warning("%s", note)
    return folder.tasks(sources, " + ".join(specs))


def _list_tasks(arguments: argparse.Namespace) -> int:
    """Print a line for each test of a run: missed ones first, those with the fewest wrong cells on top."""
    folder = RunFolder(arguments.run, arguments.data)
    results = [folder.result(known, with_votes=False) for known in _known_tasks(folder, arguments.source or ())]
    rows = [(result.task.id, number, test) for result in results for number, test in enumerate(result.tests, start=1)]
    rows.sort(key=lambda row: (row[2].solved, math.inf if row[2].missed_by is None else row[2].missed_by, row[0], row[1]))
    several = {result.task.id for result in results if len(result.tests) > 1}
    width = max(len(show_name(task_id)) for task_id, *_ in rows)
    for task_id, number, test in rows:
        print(f"{show_name(task_id):{width}}{f' test {number}' if task_id in several else '       '}  {test.summary()}")
    known = [test for *_, test in rows if test.truth is not None]
    solved = (
        f"{sum(test.solved for test in known)} of {len(known)} test outputs solved" if known else "no test output is known here"
    )
    print(f"{solved}; show one with: show TASK --run DIR")
    return 0


def add_report(commands: Any) -> None:
    summary = "write report.html into a run directory: score, curves, votes, and every task with its attempts and drafts"
    example = (
        "runs/first\n  python -m pipeline report runs/first --png pictures/summary.png\n"
        "  python -m pipeline report runs/first --png pictures/misses.png --filter near --dark"
    )
    parser = add_command(commands, report_command, "report", summary, example, TASKS_HELP)
    parser.add_argument("run", type=Path, metavar="DIR", help="a run directory; every run ends with a report already")
    also = "further sources of tasks or solutions; may be repeated"
    parser.add_argument("--source", action="append", default=[], metavar="S", help=also)
    picture = (
        f"draw the summary into a picture as well, by the Chromium or Chrome of this machine ({BROWSER_VARIABLE} names one)"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help=picture)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--task", metavar="ID", help="draw this task, not the summary")
    filtered = f"draw the first tasks of a filter: {', '.join(FILTERS)}"
    part.add_argument("--filter", choices=FILTERS, metavar="NAME", help=filtered)
    parser.add_argument("--width", type=int, metavar="N", help=f"of the picture, in pixels (default: {PICTURE_WIDTH})")
    parser.add_argument("--dark", action="store_true", help="draw the page as dark desktops show it")


def report_command(arguments: argparse.Namespace, _: float) -> int:
    """Write the page of a run, or draw parts of it to pictures."""
    if arguments.png is None and (arguments.task or arguments.filter or arguments.dark or arguments.width is not None):
        raise InputError("--task, --filter, --width and --dark require --png FILE")
    width = PICTURE_WIDTH if arguments.width is None else arguments.width
    if arguments.png is not None:
        need_browser()
        if not 300 <= width <= 4000:
            raise InputError(f"--width must be between 300 and 4000 pixels, got {width}")
    from pipeline.reports.report import write_report

    started = time.monotonic()
    with doing("reading the run"):
        path = write_report(arguments.run, arguments.source)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s; open it in a browser")
    if arguments.png is not None:
        part = f"task={arguments.task}" if arguments.task else f"filter={arguments.filter}" if arguments.filter else ""
        with doing("drawing the picture"):
            draw_page(path, part, arguments.png, width, arguments.dark)
        print(f"{arguments.png}: {arguments.png.stat().st_size / 1e3:.0f} kB")
    return 0


def add_debug(commands: Any) -> None:
    summary = "train on one task only and watch the drafts of its answer: the fastest way to understand the network"
    example = "--task 25ff71a9 --source arc1:training --time-limit 1m"
    parser = add_command(commands, debug_command, "debug", summary, example, TASKS_HELP)
    parser.add_argument("--task", required=True, metavar="ID", help="a task id, such as 25ff71a9")
    where = "where the task is (default: the public tasks); may be repeated"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    settings = "settings by name (default: those that --weights come with, or demo)"
    parser.add_argument("--preset", metavar="P", help=settings)
    add_weights(parser)
    limit = "of training (default: 1m); 0s predicts with the weights as they are"
    parser.add_argument("--time-limit", default="1m", metavar="DURATION", help=limit)
    parser.add_argument("--seed", type=int, default=0, help="of the preset's first weights and of what is drawn (default: 0)")
    add_settings(parser)
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colors of a terminal")


def debug_command(arguments: argparse.Namespace, _: float) -> int:
    """Train on one task, from weights if there are any, and print the drafts."""
    from pipeline.jobs.debug import debug

    seconds, look = parse_duration(arguments.time_limit), look_of(sys.stdout, arguments.color)
    task, source = find_task(arguments.task, arguments.source or ())
    arguments.set = [*IN_SLICES, *arguments.set]
    debug(task, source, config_of(arguments, "demo"), arguments.weights, seconds, look)
    return 0
