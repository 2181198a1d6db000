"""Reads `identifiers.json`: the task and the transform that each row of a published task memory stands for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augment.color import IDENTITY_COLORS
from augment.dihedral import DIHEDRALS
from augment.errors import InputError
from augment.grid import COLORS
from augment.task import TaskId
from augment.transform import Codes, encode_transforms
from eval.files import parse_json, read_file
from eval.formatting import show_kind, show_name
from pipeline.data.dataset import Dataset, Starts
from pipeline.data.puzzles.kinds import PUZZLE_TASK
from pipeline.published.files import naming

BLANK = "<blank>"
"""The builders' name of a row that belongs to no task; the first row at least is one."""
_VIEW = re.compile(r"(.+?)(\|\|\||_)t([0-9])\2([0-9]{10})", re.DOTALL)
_MEANT_AS_VIEW = re.compile(r"\|\|\||_t-?[0-9]+_-?[0-9]+$")
_IDENTITY_DIGITS = "0" + "".join(map(str, IDENTITY_COLORS))


@dataclass(frozen=True, eq=False)
class PublishedViews(Dataset):
    """What is known of the dataset of a published checkpoint: the T tasks and V views of its task memory, in our order."""

    task_ids: tuple[TaskId, ...]
    """Sorted."""
    transforms: Codes
    """(V,) uint32, task after task; of each task the identity first, if it is there, then the others in published order."""
    transform_start: Starts
    """(T + 1,) int64 ranges of `transforms` by task."""
    rows: npt.NDArray[np.int64]
    """(V,) row of each view in the published memory; of `UNKNOWN_TASK`, all of which the mean is taken."""
    data_hash: str = "imported"
    """Takes the place of the hash of the training dataset, which is not known."""


def read_identifiers(path: Path, rows: int) -> PublishedViews:
    """Read the identifiers of a published task memory of so many `rows`.

    The file is a JSON list of names, one a row. A name is `<blank>`, a task, or a view of one: `TASK|||t3|||0463582197` (TRM)
    or `TASK_t3_0463582197` (HRM), with the dihedral and the new color of each color. Blank rows are left out, but a blank row
    that is the only row belongs to the task "puzzle". Raises InputError, of one line that names the file, for anything else,
    and if a view has two names.
    """
    data = read_file(path)
    with naming(path):
        names = parse_json(data, "identifiers")
        if not isinstance(names, list):
            raise InputError(f"expected a list of names, got {show_kind(names)}")
        for number, name in enumerate(names):
            if not isinstance(name, str) or not name:
                raise InputError(f"identifier {number} is {show_kind(name) if name != '' else 'empty'}, expected a name")
        if len(names) != rows:
            raise InputError(f"{len(names)} identifiers, expected {rows}, one for each row of the task memory")
        if names[0] != BLANK:
            raise InputError(f"identifier 0 is {show_name(names[0])}, expected {BLANK}")
        return _place_views(names)


UNKNOWN_TASK = "<mean>"
"""The only task of weights whose identifiers are not known; no task of anybody is called so."""


def unknown_views(rows: int) -> PublishedViews:
    """Return the one task of a memory of so many `rows` without identifiers: "puzzle" of one row, or `UNKNOWN_TASK` of all."""
    if rows == 1:
        return _place_views([BLANK])
    named = np.arange(1, rows, dtype=np.int64)  # the first is blank
    return PublishedViews((UNKNOWN_TASK,), np.zeros(1, dtype=np.uint32), np.array([0, 1], dtype=np.int64), named)


def _place_views(names: Sequence[str]) -> PublishedViews:
    named = [number for number, name in enumerate(names) if name != BLANK]
    if not named:
        if len(names) > 1:
            raise InputError(f"all {len(names)} identifiers are {BLANK}; without tasks there is one")
        zeros = np.zeros(1, dtype=np.int64)
        return PublishedViews((PUZZLE_TASK,), zeros.astype(np.uint32), np.array([0, 1], dtype=np.int64), zeros)
    tasks, digits = [], []
    for number in named:
        match = _VIEW.fullmatch(names[number])
        tasks.append(match[1] if match else names[number])
        digits.append(match[3] + match[4] if match else _IDENTITY_DIGITS)
    task_ids, task = np.unique(np.array(tasks, dtype=object), return_inverse=True)
    for task_id in task_ids:
        if _MEANT_AS_VIEW.search(task_id):
            raise InputError(
                f"identifier {show_name(task_id)} is neither a task nor a view of one, "
                "such as TASK|||t3|||0463582197 or TASK_t3_0463582197"
            )
    transforms = _encode("".join(digits), [names[number] for number in named])
    first: dict[tuple[int, int], int] = {}
    for number, view in zip(named, zip(task.tolist(), transforms.tolist(), strict=True), strict=True):
        if first.setdefault(view, number) != number:
            shown = f"{show_name(names[first[view]])} and {show_name(names[number])}"
            raise InputError(f"identifiers {first[view]} and {number}, {shown}, are the same view")
    order = np.lexsort((transforms != 0, task))
    starts = np.concatenate(([0], np.cumsum(np.bincount(task))))
    return PublishedViews(tuple(task_ids), transforms[order], starts, np.array(named, dtype=np.int64)[order])


def _encode(digits: str, names: Sequence[str]) -> Codes:
    """Return the transforms whose dihedral and colors are `digits`, eleven for each of `names`."""
    values = np.frombuffer(digits.encode("ascii"), dtype=np.uint8).reshape(-1, 1 + COLORS) - ord("0")
    dihedral, colors = values[:, 0], values[:, 1:]
    permuted = (np.sort(colors, axis=1) == np.arange(COLORS)).all(axis=1) & (colors[:, 0] == 0)
    wrong = np.flatnonzero(~permuted | (dihedral >= DIHEDRALS))
    if len(wrong):
        expected = f"t0 to t{DIHEDRALS - 1}, and the ten colors, each once, with 0 first"
        raise InputError(f"identifier {show_name(names[wrong[0]])} is no view: expected {expected}")
    return encode_transforms(dihedral, colors)
