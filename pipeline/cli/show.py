"""The commands that look back: `show` draws a task and what became of it, `compare` puts runs side by side."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from augment.grid import Grid, grid_key
from augment.task import Task, TaskId
from augment.transform import Transform, transform_from_int, transform_to_int
from eval.formatting import show_name, show_path
from eval.report.screenshot import BROWSER_VARIABLE, draw_page, need_browser
from eval.terminal import draw_text, look_of
from eval.verdict import Attempt, Verdict
from pipeline.data.sources import SOURCES_HELP, find_task
from pipeline.reports.run_folder import Asked, RunFolder, asked_tasks, places_of
from pipeline.system.progress_bar import doing
from submission.format import PartialSubmission, read_submission


def show(arguments: argparse.Namespace, _: float) -> int:
    """Draw a task, or list the tasks of a run, those that were missed by least first."""
    if arguments.task is None:
        if arguments.run is None:
            raise ValueError("which task? name it, or name a run with --run to see a list of its tasks")
        return _list_tasks(arguments)
    transform = parse_transform(arguments.transform) if arguments.transform else None
    if arguments.run is not None:
        task, verdicts = examine(RunFolder(arguments.run, arguments.data), arguments.task, arguments.source or ())
        where = str(arguments.run)
    else:
        task, source = find_task(arguments.task, arguments.source or ())
        submission = read_submission(arguments.submission, allow_missing=True) if arguments.submission else {}
        verdicts = verdicts_of(Asked(task, source.solutions.get(task.id)), submission)
        where = source.name
    title = f"Task {task.id} of {where}"
    if transform is not None:
        task, verdicts = transform.apply_task(task), [verdict.seen_through(transform) for verdict in verdicts]
        title += f", seen through transform {transform.code} ({transform_to_int(transform)})"
    if arguments.png:
        _draw_png(task, verdicts, title, arguments.png)
        print(arguments.png)
    else:
        for line in draw_text(task, verdicts, title, look_of(sys.stdout, arguments.color)):
            print(line)
    return 0


def parse_transform(code: str) -> Transform:
    """Return the transform of a code, text such as 3.463582197 or the integer of it. Raises ValueError for neither."""
    if code.isascii() and code.isdigit():
        return transform_from_int(int(code))
    return Transform.parse(code)


def examine(folder: RunFolder, task_id: TaskId, specs: Sequence[str]) -> tuple[Task, list[Verdict]]:
    """Return a task of a run and what became of its tests. Raises ValueError where the run does not have it."""
    if task_id not in folder.submission:
        solved = list(folder.submission)
        named = ", ".join(solved[:5]) + (", ..." if len(solved) > 5 else "")
        raise ValueError(f"{folder.path} has no task {task_id!r}; it solves {len(solved)} tasks: {named}")
    for asked in asked_tasks(folder, specs):
        if asked.task.id == task_id:
            return asked.task, verdicts_of(asked, folder.submission, folder)
    raise ValueError(f"{folder.path}: nothing here says what task {task_id!r} is: name its source with --source")


def verdicts_of(asked: Asked, submission: PartialSubmission, folder: RunFolder | None = None) -> list[Verdict]:
    """Return what became of each test of a task; with votes where `folder` has them."""
    ballot = folder.ballot if folder else None
    task, given, verdicts = asked.task, submission.get(asked.task.id, []), []
    if given and len(given) != len(task.test):
        where = f"{show_path(folder.submission_path)}: " if folder else ""
        raise ValueError(f"{where}task {show_name(task.id)}: {len(task.test)} test inputs, but attempts for {len(given)}")
    for index in range(len(task.test)):
        grids = given[index] if given else ()
        truth = asked.truth[index] if asked.truth else None
        if ballot is None:
            verdicts.append(Verdict(tuple(map(Attempt, grids)), truth))
            continue
        places = places_of(ballot, task.id, index)
        attempts = tuple(Attempt(grid, _votes(grid, places)) for grid in grids)
        votes, place = places.get(grid_key(truth), (0, None)) if truth is not None else (None, None)
        verdicts.append(Verdict(attempts, truth, ballot.tally(task.id, index).candidates, votes, place))
    return verdicts


def _votes(grid: Grid | None, places: dict[bytes, tuple[int, int]]) -> int | None:
    return None if grid is None else places.get(grid_key(grid), (0, 0))[0]


def _list_tasks(arguments: argparse.Namespace) -> int:
    """Print a line for each test of a run: missed ones first, those with the fewest wrong cells on top."""
    folder = RunFolder(arguments.run, arguments.data)
    rows = [
        (asked.task.id, number, len(asked.task.test), verdict)
        for asked in asked_tasks(folder, arguments.source or ())
        for number, verdict in enumerate(verdicts_of(asked, folder.submission), start=1)
    ]
    rows.sort(key=lambda row: (row[3].solved, row[3].cells_off, row[0], row[1]))
    width = max(len(task_id) for task_id, *_ in rows)
    for task_id, number, count, verdict in rows:
        name = f"{task_id:{width}}" + (f" test {number}" if count > 1 else "       ")
        print(f"{name}  {verdict.summary()}")
    known = [verdict for *_, verdict in rows if verdict.truth is not None]
    print(f"{sum(verdict.solved for verdict in known)} of {len(known)} test outputs solved; show one with: show TASK --run DIR")
    return 0


def _draw_png(task: Task, verdicts: Sequence[Verdict], title: str, path: Path) -> None:
    from eval.draw import draw_task  # matplotlib is slow to import

    path.parent.mkdir(parents=True, exist_ok=True)
    attempts = [[attempt.grid for attempt in verdict.attempts] for verdict in verdicts]
    truths = [verdict.truth for verdict in verdicts if verdict.truth is not None]
    notes = [[verdict.votes_of(attempt) for attempt in verdict.attempts] for verdict in verdicts]
    solutions = {task.id: tuple(truths)} if len(truths) == len(task.test) else {}
    draw_task(task, attempts, solutions, path, notes=notes, title=title)


def debug_command(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.jobs.debug import debug

    return debug(arguments, started)


FILTERS = ("all", "solved", "first", "second", "part", "unsolved", "near", "size", "disagree", "fallback")
"""Of the page, as its addresses name them."""

_EXAMPLES = """\
example:
  python -m pipeline report runs/first
  python -m pipeline report runs/first --png pictures/summary.png
  python -m pipeline report runs/first --png pictures/misses.png --filter near --dark
"""


def add_report(commands: Any) -> None:
    """Add the command to the parser."""
    summary = "write report.html into a run directory: score, curves, votes, and every task with its attempts and drafts"
    parser = commands.add_parser(
        "report",
        help=summary,
        description=summary,
        epilog=f"{_EXAMPLES}\n{SOURCES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="a run directory; every run ends with a report already")
    also = "where to find solutions that the sources of the run do not hold, or its tasks; may be repeated"
    parser.add_argument("--source", action="append", default=[], metavar="S", help=also)
    picture = (
        f"draw the summary into a picture as well, by the Chromium or Chrome of this machine ({BROWSER_VARIABLE} names one)"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help=picture)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--task", metavar="ID", help="draw this task, not the summary")
    part.add_argument(
        "--filter", choices=FILTERS, metavar="NAME", help=f"draw the first tasks of a filter: {', '.join(FILTERS)}"
    )
    parser.add_argument("--width", type=int, default=1200, metavar="N", help="of the picture, in pixels (default: 1200)")
    parser.add_argument("--dark", action="store_true", help="draw the page as dark desktops show it")


def report(arguments: argparse.Namespace, _: float) -> int:
    """Write the page, draw it if asked to, and tell where it is."""
    if arguments.png is None and (arguments.task or arguments.filter or arguments.dark):
        raise ValueError("--task, --filter and --dark are for a picture: name its file with --png")
    if arguments.png is not None:
        need_browser()
        if not 300 <= arguments.width <= 4000:
            raise ValueError(f"--width must be between 300 and 4000 pixels, got {arguments.width}")
    from pipeline.reports.report import write_report

    started = time.monotonic()
    with doing("reading the run"):
        path = write_report(arguments.run, arguments.source)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s; open it in a browser")
    if arguments.png is not None:
        part = f"task={arguments.task}" if arguments.task else f"filter={arguments.filter}" if arguments.filter else ""
        with doing("drawing the picture"):
            draw_page(path, part, arguments.png, arguments.width, arguments.dark)
        print(f"{arguments.png}: {arguments.png.stat().st_size / 1e3:.0f} kB")
    return 0


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", nargs="?", help="a task id; with --run it may be left out, for a list of tasks")
    where = "where the task is (default: the public tasks, or what the run says it solves); may be repeated"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--run", type=Path, metavar="DIR", help="a run: its attempts, their votes, and why they are wrong")
    given.add_argument("--submission", type=Path, metavar="FILE", help="the attempts of a submission.json of any system")
    _add_data(parser)
    view = "draw the view through a transform: its code, such as 3.463582197, or the integer of it"
    parser.add_argument("--transform", metavar="CODE", help=view)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a picture, not text")
    color = "colors of a terminal (default: auto, off where the output is no terminal, or NO_COLOR is set): digits without"
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help=color)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="runs, predictions or submission.json files")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument(
        "--source", action="append", metavar="S", help="where the solutions are (default: the runs' public sources)"
    )
    truth.add_argument("--solutions", type=Path, metavar="FILE", help="a solutions file as Kaggle's")
    parser.add_argument("--max-side", type=int, metavar="N", help="judge only tasks without a side over N")
    parser.add_argument("--hold-out", action="store_true", help="judge by the last demonstrations, as runs with --hold-out")
    _add_data(parser)
    parser.add_argument("--pool", type=Path, metavar="FILE", help="write the submission that the votes of all runs choose")
    parser.add_argument("--ranking", default="count", help="of pooled votes: count, probability-sum or mean-probability")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison here as well")


def _add_data(parser: argparse.ArgumentParser) -> None:
    beside = "the dataset that was predicted, where DIR is of predict and has none of its own"
    parser.add_argument("--data", type=Path, metavar="DIR", help=beside)


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, metavar="ID", help="a task id, such as 25ff71a9")
    where = "where the task is (default: the public tasks); may be repeated"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    parser.add_argument(
        "--preset", metavar="P", help="settings by name (default: demo); those of the weights where these are given"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="start from these; a run or checkpoint folder will do")
    parser.add_argument(
        "--time-limit", default="1m", metavar="DURATION", help="of training (default: 1m); 0s asks the weights as they are"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the preset's first weights and of what is drawn (default: 0)")
    setting = "override a setting (pipeline/config.py); may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help=setting)
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colors of a terminal")
