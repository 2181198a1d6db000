"""The commands that look back: `show` draws a task and what became of it, `compare` puts runs side by side."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from augment.grid import Grid, grid_key
from augment.outside import show_name, show_path
from augment.task import Task, TaskId
from augment.transform import Transform, transform_from_int, transform_to_int
from eval.compare import compare, format_comparison
from eval.provenance import Scored
from eval.score import Predictions
from eval.terminal import look_of
from eval.verdict import Attempt, Verdict, draw_text
from pipeline.data.select import Selection, find_task
from pipeline.data.sources import load_source, read_solutions
from pipeline.data.versions import scored_outputs
from pipeline.results import write_result
from pipeline.run_folder import Asked, RunFolder, asked_tasks, places_of
from submission.format import PartialSubmission, fill_submission, read_submission


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
    from eval.draw import draw_task  # noqa: PLC0415  (matplotlib is slow to import)

    path.parent.mkdir(parents=True, exist_ok=True)
    attempts = [[attempt.grid for attempt in verdict.attempts] for verdict in verdicts]
    truths = [verdict.truth for verdict in verdicts if verdict.truth is not None]
    notes = [[verdict.votes_of(attempt) for attempt in verdict.attempts] for verdict in verdicts]
    solutions = {task.id: tuple(truths)} if len(truths) == len(task.test) else {}
    draw_task(task, attempts, solutions, path, notes=notes, title=title)


def compare_runs(arguments: argparse.Namespace, _: float) -> int:
    """Print, and store if asked to, what several runs or submissions solve, each, together and by pooled votes."""
    folders = [RunFolder(path, arguments.data) for path in arguments.runs]
    if len({folder.submission_path.resolve() for folder in folders}) < len(folders):
        raise ValueError("one of the runs is named twice")
    solutions, source, scored = _solutions(arguments, folders)
    voting = [folder for folder in folders if folder.candidates and folder.store]
    pooled: Predictions | None = None
    if arguments.pool and not voting:
        raise ValueError("there are no votes to pool: no folder has candidates, and a dataset beside them or in --data")
    if arguments.pool or len(voting) > 1:
        pooled = _pool(voting, arguments)
    names = [show_path(folder.path) for folder in folders]
    found = compare(
        {name: folder.submission for name, folder in zip(names, folders, strict=True)}, solutions, pooled, len(voting)
    )
    provenance = {name: folder.provenance for name, folder in zip(names, folders, strict=True)}
    found = replace(found, scored=scored, provenance=provenance)
    print(format_comparison(found, source, solutions))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_result(arguments.json, found.to_json() | {"source": source})
    if arguments.pool:
        print(f"\n{arguments.pool}: the attempts of the pooled votes, {len(pooled or {})} tasks")
    return 0


def _solutions(
    arguments: argparse.Namespace, folders: Sequence[RunFolder]
) -> tuple[dict[TaskId, tuple[Grid, ...]], str, Scored | None]:
    """Return what to judge by, its name and what it is: a file, the sources that are named, or the public ones of the runs."""
    if arguments.solutions:
        given = read_solutions(arguments.solutions)
        return given, str(arguments.solutions), scored_outputs(given)
    selection = Selection(arguments.max_side, arguments.hold_out)
    specs = arguments.source or list(dict.fromkeys(spec for folder in folders for spec in folder.public_sources()))
    if not specs:
        raise ValueError("the runs do not say where their tasks come from: name the sources with --source")
    chosen = selection if arguments.max_side or arguments.hold_out else None
    asked = {each.task.id: each for folder in folders for each in asked_tasks(folder, specs, chosen)}
    solutions = {task_id: each.truth for task_id, each in asked.items() if each.truth}
    if not solutions:
        raise ValueError(f"the test outputs of {' + '.join(specs)} are not known, so there is nothing to compare by")
    return solutions, " + ".join(specs), scored_outputs(solutions, map(load_source, specs), selection)


def _pool(folders: Sequence[RunFolder], arguments: argparse.Namespace) -> Predictions | None:
    """Return the attempts of the pooled votes, written to --pool if it is given; None where they cannot be pooled."""
    from pipeline.votes import tally, write_attempts  # noqa: PLC0415  (needs torch, which is slow to import)

    store = next(folder.store for folder in folders if folder.store)
    if any(folder.store.tests_hash != store.tests_hash for folder in folders if folder.store):
        if arguments.pool:
            raise ValueError("the votes cannot be pooled: the runs were asked different tests")
        print("the runs were asked different tests, so their votes are not pooled\n")
        return None
    ballot = tally([folder.candidates for folder in folders if folder.candidates], store)
    tasks = store.tasks_to_solve()
    if arguments.pool:
        arguments.pool.parent.mkdir(parents=True, exist_ok=True)
        return write_attempts(arguments.pool, ballot, tasks, arguments.ranking, store).submission
    return fill_submission(tasks, ballot.predictions(tasks, arguments.ranking)).submission
