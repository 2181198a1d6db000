"""The file formats of tasks: challenges, solutions, single tasks and lists of pairs, as bytes -> tasks.

The bytes are untrusted. Whatever is wrong with them raises InputError, with one line that names the file, the task, the pair
and the fault. Demonstrations, test inputs, rows and cells are counted from 0.
"""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from augment.errors import InputError
from augment.grid import Grid, parse_grid
from augment.task import Pair, Task, TaskId
from eval.files import parse_json, read_file, require_file, require_modest
from eval.formatting import show_kind, show_name, show_path

TasksAndSolutions = tuple[tuple[Task, ...], dict[TaskId, tuple[Grid, ...]]]
"""Tasks in file order, and the outputs of the tests of those for which all are known."""


@dataclass
class Reading:
    """How the tasks of a source are read, and which were left out."""

    with_solutions: bool = True
    """Otherwise outputs of tests are ignored unread."""
    max_side: int | None = None
    """A task that cannot be read and shows a larger side, in a demonstration or a test input, would not be chosen: no fault."""
    faults: dict[TaskId, str] | None = None
    """What is wrong with tasks that cannot be read, by id; None: the first of them raises."""
    tests_required: bool = True
    """Otherwise a task without tests is one to train on, or to take a demonstration of as its test."""
    partly_known: list[TaskId] = field(default_factory=list)
    """Ids of tasks with outputs of some of their tests, which do not count."""
    left_out: set[TaskId] = field(default_factory=set)
    """Ids of tasks that are there, but were not read."""

    @contextmanager
    def note(self, task_id: TaskId, content: object = None) -> Iterator[None]:
        """Keep an error of input inside the block as the fault of a task, or raise it; `content` is its JSON."""
        try:
            yield
        except (InputError, FileNotFoundError) as error:  # no such file: a link that leads nowhere
            if self.max_side is None or not _shows_larger(content, self.max_side):
                if self.faults is None:
                    raise
                self.faults[task_id] = str(error)
            self.left_out.add(task_id)


def parse_challenges(
    data: bytes, where: str, reading: Reading | None = None, task_id: TaskId | None = None, lines: bool = False
) -> TasksAndSolutions:
    """Return the tasks of a file `{task id: {"train": [pair, ...], "test": [{"input": grid}, ...]}}`.

    Tests may have an "output" too: it is checked and goes to the solutions. With a `task_id`, the file may also be a single
    task, which gets this id, or a list of tasks of which each names its own; with `lines` it has one of these a line. Raises
    InputError, beginning with `where`, when anything is wrong; `reading` may note it instead.
    """
    if lines:
        require_modest(data, where)
        numbered = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
        document: object = [parse_json(line, f"{where}, line {number}") for number, line in numbered]
    else:
        document = parse_json(data, where)
    if task_id is not None and isinstance(document, list):
        document = _key_by_id(document, where)
    if task_id is not None and isinstance(document, dict):
        one = not isinstance(document.get("train", {}), dict) or isinstance(document.get("test"), list)
        document = {task_id: document} if one else document
    return build_tasks(document, where, reading or Reading())


def parse_solutions(
    data: bytes, where: str, tasks: Sequence[Task] | None = None, reading: Reading | None = None
) -> dict[TaskId, tuple[Grid, ...]]:
    """Return the solutions of a file `{task id: [grid, ...]}`; with `tasks`, it must have every output of exactly these.

    What it has for tasks that `reading` left out is unread. Raises InputError, beginning with `where`, when something is no
    grid, a task has no outputs, or it has other outputs than `tasks` has tests; `reading` may note what is wrong with one task.
    """
    reading = reading or Reading()
    document = parse_json(data, where)
    if not isinstance(document, dict):
        raise InputError(f"{where}: expected an object by task id, got {show_kind(document)}")
    expected = None if tasks is None else {task.id: len(task.test) for task in tasks}
    for task_id in document:
        if expected is not None and task_id not in expected and task_id not in reading.left_out:
            raise InputError(f"{where}: task {show_name(task_id)}: not a task of the challenges")
    solutions = {}
    for task_id in document if expected is None else expected:
        with reading.note(task_id):
            at = f"{where}: task {show_name(task_id)}"
            if task_id not in document:
                raise InputError(f"{at}: missing, although it is in the challenges")
            grids = document[task_id]
            if not isinstance(grids, list) or not (grids or expected):
                raise InputError(f"{at}: expected a list of output grids, got {show_kind(grids)}")
            if expected and len(grids) != expected[task_id]:
                raise InputError(f"{at}: expected {expected[task_id]} output grids, one for each test input, got {len(grids)}")
            solutions[task_id] = tuple(parse_grid(rows, f"{at}, test output {i}") for i, rows in enumerate(grids))
    return solutions


def parse_pairs(data: bytes, where: str, task_id: TaskId) -> Task:
    """Return a file `[pair, ...]` as a task of demonstrations only; raises InputError, beginning with `where`."""
    at = f"{where}: task {show_name(task_id)}"
    return Task(task_id, _build_demonstrations(parse_json(data, where), at), ())


def build_tasks(document: object, where: str, reading: Reading) -> TasksAndSolutions:
    """Return the tasks of a JSON document as `parse_challenges` does."""
    if not isinstance(document, dict):
        raise InputError(f"{where}: expected an object by task id, got {show_kind(document)}")
    if not document:
        raise InputError(f"{where}: holds no tasks")
    tasks, solutions = [], {}
    for task_id, content in document.items():
        with reading.note(task_id, content):
            task, outputs = _build_task(task_id, content, f"{where}: task {show_name(task_id)}", reading)
            tasks.append(task)
            if task.test and len(outputs) == len(task.test):
                solutions[task_id] = outputs
            elif outputs:
                reading.partly_known.append(task_id)
    return tuple(tasks), solutions


ID_KEYS = ("id", "task_id", "puzzle_id", "name")
"""Under one of which a task of a list has its id."""


def _key_by_id(tasks: list[object], where: str) -> dict[str, object]:
    """Return the tasks of a list by the ids that they name. Raises InputError where one names none, or that of another."""
    if tasks and all(isinstance(task, dict) and {"input", "output"} <= task.keys() for task in tasks):
        raise InputError(f"{where}: a list of pairs, as Re-ARC has them: a folder of such files is read as rearc:FOLDER")
    found: dict[str, object] = {}
    for i, task in enumerate(tasks):
        named = [task[key] for key in ID_KEYS if isinstance(task.get(key), str | int)] if isinstance(task, dict) else []
        if not named:
            raise InputError(f"{where}: entry {i} of the list: expected a task with one of {', '.join(ID_KEYS)}")
        if str(named[0]) in found:
            raise InputError(f"{where}: entry {i} of the list: task {show_name(str(named[0]))} appears twice")
        found[str(named[0])] = task
    return found


def _shows_larger(content: object, side: int) -> bool:
    """Return whether a demonstration or a test input of a task has a side over `side`, as far as it can be read."""
    content = content if isinstance(content, dict) else {}
    shown = [(content.get("train"), ("input", "output")), (content.get("test"), ("input",))]
    pairs = [(pair, keys) for pairs, keys in shown if isinstance(pairs, list) for pair in pairs if isinstance(pair, dict)]
    grids = [pair.get(key) for pair, keys in pairs for key in keys]
    lists = [each for grid in grids if isinstance(grid, list) for each in (grid, *grid) if isinstance(each, list)]
    return any(len(each) > side for each in lists)


def _build_task(task_id: TaskId, content: object, at: str, reading: Reading) -> tuple[Task, tuple[Grid, ...]]:
    """Return the task and those outputs of its tests that are there; one that is absent, null or empty is unknown."""
    if not reading.tests_required and isinstance(content, dict):
        content = {"test": [], **content}
    demonstrations, tests = _get_values(content, ("train", "test"), at)
    train = _build_demonstrations(demonstrations, at)
    if not isinstance(tests, list):
        raise InputError(f"{at}: expected a list of test inputs, got {show_kind(tests)}")
    if not tests and reading.tests_required:
        raise InputError(f"{at}: has no test inputs")
    inputs, outputs = [], []
    for i, test in enumerate(tests):
        place = f"{at}, test input {i}"
        (rows,) = _get_values(test, ("input",), place)
        inputs.append(parse_grid(rows, place))
        if reading.with_solutions and test.get("output") not in (None, []):
            outputs.append(parse_grid(test["output"], f"{place}, its output"))
    return Task(task_id, train, tuple(inputs)), tuple(outputs)


def _build_demonstrations(pairs: object, at: str) -> tuple[Pair, ...]:
    if not isinstance(pairs, list):
        raise InputError(f"{at}: expected a list of pairs, got {show_kind(pairs)}")
    if not pairs:
        raise InputError(f"{at}: has no demonstrations")
    demonstrations = []
    for i, pair in enumerate(pairs):
        place = f"{at}, demonstration {i}"
        given, wanted = _get_values(pair, ("input", "output"), place)
        demonstrations.append(Pair(parse_grid(given, f"{place}, input"), parse_grid(wanted, f"{place}, output")))
    return tuple(demonstrations)


def _get_values(value: object, keys: tuple[str, ...], at: str) -> list[object]:
    """Return the values of an object under `keys`; others that it may have are ignored."""
    if not isinstance(value, dict):
        names = " and ".join(f'"{key}"' for key in keys)
        raise InputError(f"{at}: expected an object with {names}, got {show_kind(value)}")
    for key in keys:
        if key not in value:
            raise InputError(f'{at}: has no "{key}"')
    return [value[key] for key in keys]


MAX_FILE_BYTES = 1 << 28
"""Largest file once unpacked; a Re-ARC task of 10,000 pairs is a tenth of it."""
MAX_TOTAL_BYTES = 1 << 32
"""Largest sum of the files once unpacked."""
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises for damaged, encrypted and unsupported archives (NotImplementedError is a RuntimeError)."""


def read_unpacked(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where its name ends in .gz. Raises as `read_file` does, and as `unpack`."""
    return unpack(path.name, read_file(path), show_path(path))


def unpack(name: str, data: bytes, where: str) -> bytes:
    """Return `data` of the file `name`, unpacked where that ends in .gz. Raises InputError where it is damaged or too large."""
    if not name.endswith(".gz"):
        return data
    with _explain(f"{where}: cannot be unpacked"), gzip.open(io.BytesIO(data)) as file:
        unpacked = file.read(MAX_FILE_BYTES + 1)
        if len(unpacked) > MAX_FILE_BYTES:
            raise InputError(f"more than {MAX_FILE_BYTES} bytes unpacked")
        return unpacked


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[list[str], Callable[[int], bytes]]]:
    """Open a zip, and give the names of its files and a function that returns the bytes of the file `names[index]`.

    A name may come twice, or be empty. Raises InputError that names the file where it is no zip, where its content would be
    larger than the bounds above, and where an entry is damaged, encrypted or compressed in an unusual way.
    """
    require_file(path)
    with path.open("rb") as file:
        with _explain(f"{show_path(path)}: not a zip archive"):
            archive = zipfile.ZipFile(file)
        # ZipInfo.is_dir fails on an empty name
        entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
        largest = max((entry.file_size for entry in entries), default=0)
        total = sum(entry.file_size for entry in entries)
        if largest > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise InputError(
                f"{show_path(path)}: too large: a file may have {MAX_FILE_BYTES} bytes unpacked and all of them "
                f"{MAX_TOTAL_BYTES}, these have up to {largest} and {total}"
            )

        def read(index: int) -> bytes:
            entry = entries[index]
            with _explain(f"{show_path(path)}/{show_name(entry.filename)}: cannot be unpacked"):
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise InputError("neither stored nor deflated")
                with archive.open(entry) as unpacked:
                    return unpacked.read(entry.file_size)  # at most the size in the directory, whatever the stream has

        yield [entry.filename for entry in entries], read


@contextmanager
def _explain(what: str) -> Iterator[None]:
    try:
        yield
    except ZIP_FAULTS as error:
        raise InputError(f"{what}: {show_path(str(error)[:100])}") from error  # zipfile may quote all of a damaged file
