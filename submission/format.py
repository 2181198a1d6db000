"""submission.json: writes it complete and in one step, checks it, reads the file of any system.

Its format is Kaggle's: `{task id: [{"attempt_1": [[int]], "attempt_2": [[int]]}, ...]}`, one entry for every test input, in
order.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson

from augment.errors import InputError
from augment.grid import Grid, grid_key, parse_grid
from augment.task import Task, TaskId, TestId
from eval.files import read_json, read_object, replace_file, require_file
from eval.formatting import plural, show_kind, show_path, show_value

logger = logging.getLogger(__name__)

Submission = dict[TaskId, list[tuple[Grid, Grid]]]
"""Both attempts for every test input, in the order of `Task.test`."""
PartialSubmission = dict[TaskId, list[tuple[Grid | None, Grid | None]]]
"""The same as other systems may write it: None where an attempt is missing."""
ATTEMPT_NAMES = ("attempt_1", "attempt_2")
FILE_NAME = "submission.json"
MOST_BYTES_PER_TEST_INPUT = 65_536
"""Kaggle publishes no limit. Two 30x30 grids with every cell on an indented line of its own take half of this."""


@dataclass(frozen=True, eq=False)
class FilledSubmission:
    """A complete submission, and how much of it is prediction."""

    submission: Submission
    without_prediction: tuple[TestId, ...]
    """(task id, test index) of the test inputs whose attempts are both fallbacks."""
    with_one_prediction: tuple[TestId, ...]
    """(task id, test index) of the test inputs whose second attempt is a fallback."""


def fallback_attempts(task: Task, test_index: int) -> tuple[Grid, ...]:
    """Return grids to submit where there is no prediction: at least two, all different, best guess first.

    They are the test input itself, the most frequent demonstration output (the first of them on a tie), and grids of only 0 and
    only 1. The last two have the size of the test input if every demonstration keeps its size, else the most frequent size of
    the demonstration outputs (again the first on a tie).
    """
    test_input = task.test[test_index]
    outputs = [pair.output for pair in task.train]
    size = test_input.shape
    if any(pair.input.shape != pair.output.shape for pair in task.train):
        size = Counter(output.shape for output in outputs).most_common(1)[0][0]
    grids = [test_input]
    if outputs:
        most_frequent = Counter(map(grid_key, outputs)).most_common(1)[0][0]
        grids.append(next(output for output in outputs if grid_key(output) == most_frequent))
    grids += [np.zeros(size, dtype=np.uint8), np.ones(size, dtype=np.uint8)]
    return tuple({grid_key(grid): grid for grid in grids}.values())


def fill_submission(tasks: Iterable[Task], predictions: Mapping[TaskId, Sequence[Sequence[Grid]]]) -> FilledSubmission:
    """Return a complete submission for `tasks`: predicted attempts where there are any, fallbacks for the rest.

    `predictions` holds per task and test input, in order, the grids from the best down (`Ballot.predictions`); a task
    that is absent counts as not predicted. Raises InputError when a task has a different number of test inputs in it.
    """
    submission: Submission = {}
    without: list[TestId] = []
    with_one: list[TestId] = []
    for task in tasks:
        per_test = predictions.get(task.id, [()] * len(task.test))
        if len(per_test) != len(task.test):
            raise InputError(f"task {task.id}: {len(task.test)} test inputs, predictions for {len(per_test)}")
        submission[task.id] = []
        for i, ranked in enumerate(per_test):
            first, *others = [*ranked, *fallback_attempts(task, i)]
            second = next((grid for grid in others if not np.array_equal(grid, first)), first)
            submission[task.id].append((first, second))
            different = len({grid_key(grid) for grid in ranked})
            if different < 2:
                (with_one if different else without).append((task.id, i))
    return FilledSubmission(submission, tuple(without), tuple(with_one))


def fallback_submission(tasks: Iterable[Task]) -> Submission:
    """Return the complete submission of only fallbacks: the file to write before anything else is tried."""
    return fill_submission(tasks, {}).submission


def write_submission(path: Path, submission: Submission, tasks: Sequence[Task]) -> None:
    """Check `submission` against the challenges `tasks` and write it to `path`, in their order, in one step.

    At any moment `path` holds either the earlier file or the whole new one. Raises InputError when a
    task, a test input or an attempt is missing, unknown or no grid, and OSError (say, on a full disk).
    """
    document = {
        task_id: [
            {name: np.asarray(grid).tolist() for name, grid in zip(ATTEMPT_NAMES, attempts, strict=False)}
            for attempts in entries
        ]
        for task_id, entries in submission.items()
    }
    _raise_first(show_path(path), _problems(document, tasks))
    replace_file(path, orjson.dumps({task.id: document[task.id] for task in tasks}))


def read_submission(path: Path) -> Submission:
    """Read a submission file with both attempts everywhere, as Kaggle requires.

    Raises an InputError of one line that names the file, the task, the test input and the attempt, says what is wrong and how
    many more problems there are; OSError when the file cannot be read.
    """
    return cast(Submission, _read(path, allow_missing=False))


def read_partial_submission(path: Path) -> PartialSubmission:
    """Read a submission file as `read_submission` does; an attempt that is absent, null or an empty list is None."""
    return _read(path, allow_missing=True)


def check_submission(path: Path, tasks: Sequence[Task]) -> None:
    """Check `path` as Kaggle does, for exactly `tasks`. Raises InputError with the first problem, OSError if unreadable."""
    _raise_first(show_path(path), _problems(read_object(path), tasks))


def list_problems(path: Path, tasks: Sequence[Task]) -> list[str]:
    """Return every reason for which the file at `path` is no submission for the challenges `tasks`, one line each.

    Of every grid it is the first problem; a file that is far too large or cannot be parsed has only that one. Raises OSError
    when the file cannot be read.
    """
    size, most = require_file(path), MOST_BYTES_PER_TEST_INPUT * (1 + sum(len(task.test) for task in tasks))
    if size > most:
        return [f"{size:,} bytes: a submission for {len(tasks)} tasks has at most {most:,}, even if it is widely indented"]
    try:
        return _problems(read_object(path), tasks)
    except ValueError as error:
        return [str(error).removeprefix(f"{show_path(path)}: ")]


def list_notes(path: Path, tasks: Sequence[Task]) -> list[str]:
    """Return what is unusual, but accepted by Kaggle, about a submission without problems, one line each."""
    submission = read_submission(path)
    notes = []
    if path.name != FILE_NAME:
        notes.append(f"the file is named {path.name}; a notebook must leave it as {FILE_NAME}")
    if list(submission) != [task.id for task in tasks]:
        notes.append("the tasks are not in the order of the challenges")
    equal = sum(grid_key(first) == grid_key(second) for entries in submission.values() for first, second in entries)
    if equal:
        notes.append(f"test inputs whose two attempts are equal, so that the second is wasted: {equal}")
    return notes


def _problems(document: dict[str, Any], tasks: Sequence[Task]) -> list[str]:
    """Return everything that is wrong with a submission for `tasks`: first with its grids, then what is missing or unknown."""
    submission, problems = _parse(document, allow_missing=False)
    known = {task.id for task in tasks}
    for task in tasks:
        if task.id not in document:
            problems.append(f"{_task(task.id)}: missing")
        elif task.id in submission and len(submission[task.id]) != len(task.test):
            got = len(submission[task.id])
            problems.append(f"{_task(task.id)}: expected one entry for each of {len(task.test)} test inputs, got {got}")
    return [*problems, *(f"{_task(task_id)}: not a task of the challenges" for task_id in submission if task_id not in known)]


def _read(path: Path, allow_missing: bool) -> PartialSubmission:
    submission, problems = _parse(_read_document(path), allow_missing)
    _raise_first(show_path(path), problems)
    return submission


def _read_document(path: Path) -> dict[str, Any]:
    """Return the document of a submission of any system in Kaggle's form; what had another one is logged.

    Others write a folder of result files `{task id}.json` (ARC Prize's benchmarking), a grid inside `{"answer": grid, ...}`, an
    object in place of a list of one, null for a test that was not tried, or more than two attempts.
    """
    if path.is_dir():
        files = {file.stem: read_json(file) for file in sorted(path.glob("*.json"))}
        document = {name: entries for name, entries in files.items() if any(map(_has_attempt, _as_list(entries)))}
        if not document:
            raise InputError(f"{show_path(path)}: no file {{task id}}.json in it has {ATTEMPT_NAMES[0]}")
        others = [name for name in files if name not in document]
        rest = f", without {others}" if others else ""
        logger.info("%s: results of %s%s", show_path(path), plural(len(document), "task"), rest)
    else:
        document = read_object(path)
    single, further = 0, 0
    for task_id, entries in document.items():
        single += _has_attempt(entries)
        if not _has_attempt(entries) and not isinstance(entries, list):
            continue
        document[task_id] = [_with_two_grids(entry) for entry in _as_list(entries)]
        further += sum(isinstance(entry, dict) and any(map(_FURTHER.fullmatch, entry)) for entry in _as_list(entries))
    if single:
        logger.info("%s: %d tasks have an object in place of a list of one", show_path(path), single)
    if further:
        logger.info("%s: more than two attempts for %s; the first two count", show_path(path), plural(further, "test input"))
    return document


_FURTHER = re.compile(r"attempt_([3-9]|[1-9]\d+)")


def _with_two_grids(entry: object) -> object:
    """Return what other systems write for a test input with the keys and values that Kaggle has, as far as they are known."""
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        return entry
    kept = {name: rows for name, rows in entry.items() if not _FURTHER.fullmatch(name)}
    return {name: rows["answer"] if isinstance(rows, dict) and "answer" in rows else rows for name, rows in kept.items()}


def _as_list(entries: object) -> list[Any]:
    return entries if isinstance(entries, list) else [entries]


def _has_attempt(entry: object) -> bool:
    return isinstance(entry, dict) and any(name in entry for name in ATTEMPT_NAMES)


def _parse(document: dict[str, Any], allow_missing: bool) -> tuple[PartialSubmission, list[str]]:
    """Return the attempts of all tasks that have a list of entries, and in words everything that is wrong."""
    submission: PartialSubmission = {}
    problems: list[str] = []
    for task_id, entries in document.items():
        if not isinstance(entries, list):
            problems.append(f"{_task(task_id)}: expected a list with one entry a test input, got {show_kind(entries)}")
            continue
        submission[task_id] = []
        for i, entry in enumerate(entries):
            first, second = _parse_entry(entry, f"{_task(task_id)}, test input {i}", allow_missing, problems)
            submission[task_id].append((first, second))
    return submission, problems


def _parse_entry(entry: object, where: str, allow_missing: bool, problems: list[str]) -> list[Grid | None]:
    """Return both attempts of a test input, None where there is no grid, and append what is wrong to `problems`."""
    if not isinstance(entry, dict):
        problems.append(f"{where}: expected an object with {' and '.join(ATTEMPT_NAMES)}, got {show_kind(entry)}")
        return [None, None]
    problems += [f"{where}: unknown key {show_value(key)}" for key in entry if key not in ATTEMPT_NAMES]
    attempts: list[Grid | None] = []
    for name in ATTEMPT_NAMES:
        rows = entry.get(name)
        attempts.append(None)
        if allow_missing and (rows is None or (isinstance(rows, list) and all(row == [] for row in rows))):
            continue
        if name not in entry:
            problems.append(f"{where}, {name}: missing")
            continue
        try:
            attempts[-1] = parse_grid(rows, f"{where}, {name}")
        except ValueError as error:
            problems.append(str(error))
    return attempts


def _raise_first(where: str, problems: Sequence[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{where}: {problems[0]}{more}")


def _task(task_id: TaskId) -> str:
    return f"task {show_value(task_id)}"
