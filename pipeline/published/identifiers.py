"""Published identifiers: the task and the transform that each row of a published task memory stands for.

The authors' dataset builders leave `identifiers.json` beside their arrays. It is read where a checkpoint is imported.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augment.color import IDENTITY_COLORS
from augment.dihedral import DIHEDRALS
from augment.grid import COLORS
from augment.task import TaskId
from augment.transform import TRANSFORMS, Codes, encode_transforms
from eval.files import parse_json, read_file
from eval.formatting import show_kind, show_name, show_path
from pipeline.data.puzzles.kinds import PUZZLE_TASK
from pipeline.data.store import Starts

BLANK = "<blank>"
"""What the builders call a row that no task has, the first at least."""

_VIEW = re.compile(r"(.+?)(\|\|\||_)t([0-9])\2([0-9]{10})", re.DOTALL)

_MEANT_AS_VIEW = re.compile(r"\|\|\||_t-?[0-9]+_-?[0-9]+$")

_IDENTITY_DIGITS = "0" + "".join(map(str, IDENTITY_COLORS))


@dataclass(frozen=True, eq=False)
class PublishedViews:
    """The T tasks and V views that a published task memory has rows of, in our order."""

    task_ids: tuple[TaskId, ...]
    """Sorted."""
    transforms: Codes
    """(V,) uint32, task after task; the identity first where it is there, the others as they came."""
    transform_start: Starts
    """(T + 1,) int64 ranges of `transforms` by task."""
    rows: npt.NDArray[np.int64]
    """(V,) row of each view in the published memory."""
    data_hash: str = "imported"
    """Stands where weights of ours have the hash of the dataset that they were trained on, which is not known."""


def read_identifiers(path: Path, rows: int) -> PublishedViews:
    """Read the identifiers of a published task memory of so many `rows`.

    The file is a JSON list of names by position, or an object of numbers by name, or of names by number. A name is
    `<blank>`, a task, or a view of one: `TASK|||t3|||0463582197` (TRM) or `TASK_t3_0463582197` (HRM), with the dihedral and
    the new color of each color. Blank rows are left out; where there are no others, the one there is belongs to the task
    "puzzle". Raises ValueError, of one line that names the file, for anything else, and where a view has two names.
    """
    data = read_file(path)
    try:
        names = _names_by_position(parse_json(data, "identifiers"))
        if len(names) != rows:
            raise ValueError(f"{len(names)} identifiers, expected {rows}, one for each row of the task memory")
        if names[0] != BLANK:
            raise ValueError(f"identifier 0 is {show_name(names[0])}, expected {BLANK}")
        return _place_views(names)
    except ValueError as error:
        raise ValueError(f"{show_path(path)}: {error}") from error


def _names_by_position(document: object) -> list[str]:
    if isinstance(document, dict):
        document = _invert_numbering(document)
    if document == []:
        raise ValueError("there are no identifiers")
    if not isinstance(document, list):
        raise ValueError(f"expected a list of names or an object of names and numbers, got {show_kind(document)}")
    for number, name in enumerate(document):
        if not isinstance(name, str) or not name:
            found = "an empty string" if name == "" else show_kind(name)
            raise ValueError(f"identifier {number} is {found}, expected a name")
    return document


def _invert_numbering(document: dict[str, object]) -> list[object]:
    """Return the names by position of an object that numbers names, or names numbers; number 0 may be missing."""
    by_number: dict[int, object] = {}
    for key, value in document.items():
        if type(value) is int:
            number, name = value, key
        elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", key):
            number, name = int(key), value
        else:
            raise ValueError(f"{show_name(key)} has {show_kind(value)}, expected a name with a number, or a number with a name")
        if number in by_number:
            raise ValueError(f"{show_name(str(by_number[number]))} and {show_name(str(name))} both have the number {number}")
        by_number[number] = name
    if by_number:
        by_number.setdefault(0, BLANK)
    for number in range(len(by_number)):
        if number not in by_number:
            raise ValueError(f"{len(by_number)} identifiers, but none has the number {number}")
    return [by_number[number] for number in range(len(by_number))]


def _place_views(names: Sequence[str]) -> PublishedViews:
    named = [number for number, name in enumerate(names) if name != BLANK]
    if not named:
        if len(names) > 1:
            raise ValueError(f"all {len(names)} identifiers are {BLANK}; without tasks there is one")
        zeros = np.zeros(1, dtype=np.int64)
        return PublishedViews((PUZZLE_TASK,), zeros.astype(np.uint32), np.array([0, 1], dtype=np.int64), zeros)
    tasks, digits = [], []
    for number in named:
        match = _VIEW.fullmatch(names[number])
        tasks.append(match[1] if match else names[number])
        digits.append(match[3] + match[4] if match else _IDENTITY_DIGITS)
    task_ids = sorted(set(tasks))
    for task_id in task_ids:
        if _MEANT_AS_VIEW.search(task_id):
            raise ValueError(
                f"identifier {show_name(task_id)} is neither a task nor a view of one, "
                "such as TASK|||t3|||0463582197 or TASK_t3_0463582197"
            )
    rows = np.array(named, dtype=np.int64)
    place = {task_id: index for index, task_id in enumerate(task_ids)}
    task = np.array([place[task_id] for task_id in tasks], dtype=np.int64)
    transforms = _encode("".join(digits), [names[number] for number in named])
    _require_distinct(task, transforms, rows, names)
    order = np.lexsort((transforms != 0, task))
    starts = np.concatenate(([0], np.cumsum(np.bincount(task))))
    return PublishedViews(tuple(task_ids), transforms[order], starts, rows[order])


def _encode(digits: str, names: Sequence[str]) -> Codes:
    """Return the transforms whose dihedral and colors are `digits`, eleven for each of `names`."""
    values = np.frombuffer(digits.encode("ascii"), dtype=np.uint8).reshape(-1, 1 + COLORS) - ord("0")
    dihedral, colors = values[:, 0], values[:, 1:]
    permuted = (np.sort(colors, axis=1) == np.arange(COLORS)).all(axis=1) & (colors[:, 0] == 0)
    wrong = np.flatnonzero(~permuted | (dihedral >= DIHEDRALS))
    if len(wrong):
        expected = f"t0 to t{DIHEDRALS - 1}, and the ten colors, each once, with 0 first"
        raise ValueError(f"identifier {show_name(names[wrong[0]])} is no view: expected {expected}")
    return encode_transforms(dihedral, colors)


def _require_distinct(
    task: npt.NDArray[np.int64], transforms: Codes, rows: npt.NDArray[np.int64], names: Sequence[str]
) -> None:
    """Raise ValueError, naming both, where two names stand for one view of one task."""
    view = task * TRANSFORMS + transforms
    order = np.argsort(view, kind="stable")
    repeated = np.flatnonzero(np.diff(view[order]) == 0)
    if len(repeated):
        first, second = rows[order[repeated[0] : repeated[0] + 2]]
        raise ValueError(
            f"identifiers {first} and {second}, {show_name(names[first])} and {show_name(names[second])}, are the same view"
        )
