"""submission.json: writes it complete and in one step, checks it, reads the file of any system.

Its format is Kaggle's: `{task id: [{"attempt_1": [[int]], "attempt_2": [[int]]}, ...]}`, one entry for every test input, in
order.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import orjson

from augment.grid import Grid, grid_key, parse_grid
from augment.task import Task, TaskId
from eval.files import read_file, replace_file, require_file, require_modest
from eval.formatting import show_path, show_value
from eval.vote import choose_attempts

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
    without_prediction: tuple[tuple[TaskId, int], ...]
    """(task id, test index) of the test inputs whose attempts are both fallbacks."""
    with_one_prediction: tuple[tuple[TaskId, int], ...]
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
    that is absent counts as not predicted. Raises ValueError when a task has a different number of test inputs in it.
    """
    submission: Submission = {}
    without: list[tuple[TaskId, int]] = []
    with_one: list[tuple[TaskId, int]] = []
    for task in tasks:
        per_test = predictions.get(task.id, [()] * len(task.test))
        if len(per_test) != len(task.test):
            raise ValueError(f"task {task.id}: {len(task.test)} test inputs, predictions for {len(per_test)}")
        submission[task.id] = []
        for i, ranked in enumerate(per_test):
            submission[task.id].append(choose_attempts(ranked, fallback_attempts(task, i)))
            different = len({grid_key(grid) for grid in ranked})
            if different < 2:
                (with_one if different else without).append((task.id, i))
    return FilledSubmission(submission, tuple(without), tuple(with_one))


def fallback_submission(tasks: Iterable[Task]) -> Submission:
    """Return the complete submission of only fallbacks: the file to write before anything else is tried."""
    return fill_submission(tasks, {}).submission


def write_submission(path: Path, submission: Submission, tasks: Sequence[Task]) -> None:
    """Check `submission` against the challenges `tasks` and write it to `path`, in their order, in one step.

    At any moment `path` holds either the earlier file or the whole new one. Raises ValueError when a
    task, a test input or an attempt is missing, unknown or no grid, and OSError (say, on a full disk).
    """
    _raise_first(show_path(path), list(_problems_in_memory(submission, tasks)))
    document = {
        task.id: [
            {name: grid.tolist() for name, grid in zip(ATTEMPT_NAMES, attempts, strict=True)}
            for attempts in submission[task.id]
        ]
        for task in tasks
    }
    replace_file(path, orjson.dumps(document))


@overload
def read_submission(path: Path, allow_missing: Literal[False] = False) -> Submission: ...


@overload
def read_submission(path: Path, allow_missing: bool) -> PartialSubmission: ...


def read_submission(path: Path, allow_missing: bool = False) -> Submission | PartialSubmission:
    """Read the submission file of any system.

    Both attempts are required, as by Kaggle, unless `allow_missing`: then an attempt may be absent, null or an empty list, and
    is None in the result, so that the other one keeps its place. Raises a ValueError of one line that names the file, the task,
    the test input and the attempt, says what is wrong and how many more problems there are; OSError when the file cannot be
    read.
    """
    content = _parse(_load(path), allow_missing)
    _raise_first(show_path(path), content.problems)
    return content.submission


def check_submission(path: Path, tasks: Sequence[Task]) -> None:
    """Check that the file at `path` is a submission for exactly the challenges `tasks`, as Kaggle requires.

    Raises a ValueError of one line with the first problem and the number of others; OSError when it cannot be read.
    """
    _raise_first(show_path(path), _problems_in_file(_load(path), tasks))


def list_problems(path: Path, tasks: Sequence[Task]) -> list[str]:
    """Return every reason for which the file at `path` is no submission for the challenges `tasks`, one line each.

    Of every grid it is the first problem; a file that is far too large or cannot be parsed has only that one. Raises OSError
    when the file cannot be read.
    """
    size, most = require_file(path), MOST_BYTES_PER_TEST_INPUT * (1 + sum(len(task.test) for task in tasks))
    if size > most:
        return [f"{size:,} bytes: a submission for {len(tasks)} tasks has at most {most:,}, even if it is widely indented"]
    try:
        document = _load(path)
    except ValueError as error:
        return [str(error).removeprefix(f"{show_path(path)}: ")]
    return _problems_in_file(document, tasks)


def list_notes(path: Path, tasks: Sequence[Task]) -> list[str]:
    """Return what is unusual about a submission file without problems, one line each; Kaggle accepts all of it.

    A file does not show which entry of a task belongs to which of its test inputs: a wrong order only costs points.
    """
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


def _problems_in_file(document: "JsonObject", tasks: Sequence[Task]) -> list[str]:
    content = _parse(document, allow_missing=False)
    entries = {task_id: len(attempts) for task_id, attempts in content.submission.items()}
    expected = [task for task in tasks if task.id not in content.unreadable]
    return [*content.problems, *_completeness(entries, expected)]


def _completeness(entries: Mapping[TaskId, int], tasks: Sequence[Task]) -> Iterator[str]:
    """Yield the differences between a submission with `entries[task id]` test inputs and one for `tasks`."""
    known = {task.id for task in tasks}
    if len(known) < len(tasks):
        twice = next(task_id for task_id, count in Counter(task.id for task in tasks).items() if count > 1)
        yield f"{_task(twice)}: appears twice in the challenges"
    for task in tasks:
        if task.id not in entries:
            yield f"{_task(task.id)}: missing"
        elif entries[task.id] != len(task.test):
            yield f"{_task(task.id)}: expected one entry for each of {len(task.test)} test inputs, got {entries[task.id]}"
    for task_id in entries:
        if task_id not in known:
            yield f"{_task(task_id)}: not a task of the challenges"


def _problems_in_memory(submission: Submission, tasks: Sequence[Task]) -> Iterator[str]:
    yield from _completeness({task_id: len(entries) for task_id, entries in submission.items()}, tasks)
    for task_id, entries in submission.items():
        for i, attempts in enumerate(entries):
            where = f"{_task(task_id)}, test input {i}"
            if len(attempts) != len(ATTEMPT_NAMES):
                yield f"{where}: expected {len(ATTEMPT_NAMES)} attempts, got {len(attempts)}"
            for name, grid in zip(ATTEMPT_NAMES, attempts, strict=False):  # other lengths are reported above
                if not isinstance(grid, np.ndarray):
                    yield f"{where}, {name}: expected a grid, got {type(grid).__name__}"
                    continue
                try:
                    parse_grid(grid.tolist(), f"{where}, {name}")
                except ValueError as error:
                    yield str(error)


@dataclass(frozen=True, eq=False)
class _Content:
    """The content of a submission file: attempts, and in words everything that is wrong."""

    submission: PartialSubmission
    problems: list[str]
    unreadable: set[TaskId]
    """Tasks of the file that are not in `submission` because they have no list of entries."""


class JsonObject(dict[str, object]):
    """A JSON object and the keys that it held more than once, of which a plain dict silently keeps the last."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]


def _load(path: Path) -> JsonObject:
    data, where = read_file(path), show_path(path)
    require_modest(data, where)
    try:
        document = json.loads(data.decode(), object_pairs_hook=JsonObject)
    except ValueError as error:  # also of UTF-8, and of numbers of thousands of digits
        raise ValueError(f"{where}: not a JSON file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: not a submission: lists are nested too deeply") from error
    if not isinstance(document, JsonObject):
        raise ValueError(f"{where}: not a submission: expected an object by task id, got {type(document).__name__}")
    return document


def _parse(document: JsonObject, allow_missing: bool) -> _Content:
    content = _Content({}, [f"{_task(task_id)}: appears twice" for task_id in document.repeated], set())
    for task_id, entries in document.items():
        if not isinstance(entries, list):
            content.problems.append(
                f"{_task(task_id)}: expected a list with one entry a test input, got {type(entries).__name__}"
            )
            content.unreadable.add(task_id)
            continue
        content.submission[task_id] = []
        for i, entry in enumerate(entries):
            first, second = _parse_entry(entry, f"{_task(task_id)}, test input {i}", allow_missing, content.problems)
            content.submission[task_id].append((first, second))
    return content


def _parse_entry(entry: object, where: str, allow_missing: bool, problems: list[str]) -> list[Grid | None]:
    """Return both attempts of a test input, None where there is no grid, and append what is wrong to `problems`."""
    if not isinstance(entry, JsonObject):
        problems.append(f"{where}: expected an object with {' and '.join(ATTEMPT_NAMES)}, got {type(entry).__name__}")
        return [None, None]
    problems += [f"{where}: {show_value(key)} appears twice" for key in entry.repeated]
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
        raise ValueError(f"{where}: {problems[0]}{more}")


def _task(task_id: TaskId) -> str:
    return f"task {show_value(task_id)}"
