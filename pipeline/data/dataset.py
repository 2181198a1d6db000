"""Datasets, of ARC tasks or of puzzles: what training and prediction read, and the folder that holds one.

A folder has `store.safetensors` (the arrays) and `manifest.json` (settings, and where the arrays came from). Canvases and the
views of puzzles are not in it: they are made when a pack is drawn. Neither are the outputs of scored tests.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_type_hints

import numpy as np
import numpy.typing as npt
import orjson
import safetensors.numpy

from augment.canvas import VOCABULARY, Tokens
from augment.errors import InputError
from augment.grid import MAX_SIDE, Grid
from augment.task import Pair, Task, TaskId, TestId
from augment.transform import Codes
from eval.decode import decode_value
from eval.files import read_object, replace_file
from eval.formatting import show_path, show_value
from eval.provenance import HASH_DIGITS
from pipeline.array_files import Arrays, read_arrays
from pipeline.data.puzzles.kinds import PUZZLE_KINDS, PUZZLE_TASK, KindName

ARRAYS_FILE = "store.safetensors"
MANIFEST_FILE = "manifest.json"
Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int64]


class Dataset(ABC):
    """What training, weights and prediction need of a dataset, and how it is saved and loaded.

    Two datasets with the same `data_hash` train the same, whatever their manifests say.
    """

    FORMAT: ClassVar[str]
    """Of the manifest."""
    SETTINGS: ClassVar[tuple[str, ...]]
    """The attributes that the manifest holds."""
    ARRAYS: ClassVar[tuple[str, ...]]
    """The attributes that are arrays, in the order in which `data_hash` takes them."""
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    """Further ones, which may be None."""

    task_ids: tuple[TaskId, ...]
    """T ids, sorted."""
    transforms: Codes
    """(V,) integer codes (`augment.transform`) of the views, task after task; the first of each task is 0, the identity."""
    transform_start: Starts
    """(T + 1,) where the views of each task begin; the last is V."""
    manifest: Mapping[str, Any]
    """What the dataset was built from and how: plain JSON values. The file has the settings and the data hash too."""

    @cached_property
    @abstractmethod
    def data_hash(self) -> str:
        """The SHA-256, in hex, of settings and arrays."""

    def arrays(self) -> Arrays:
        """Return the arrays by name."""
        found = {name: getattr(self, name) for name in (*self.ARRAYS, *self.OPTIONAL)}
        return {name: array for name, array in found.items() if array is not None}

    def save(self, folder: Path) -> None:
        """Write the dataset into `folder`, each file in one step, the manifest last. Equal datasets give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        settings = {name: getattr(self, name) for name in ("data_hash", *self.SETTINGS)}
        manifest = {**self.manifest, **settings, "format": self.FORMAT}
        options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        replace_file(folder / ARRAYS_FILE, safetensors.numpy.save(contiguous))
        replace_file(folder / MANIFEST_FILE, orjson.dumps(manifest, option=options))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a dataset of this kind.

        Raises FileNotFoundError where a file is missing, and InputError, of one line that names the file, where the dataset is
        truncated, changed since it was written, or of another kind. The data hash detects every change.
        """
        manifest = _read_manifest(folder, (cls.FORMAT,))
        where, kinds, make = show_path(folder / MANIFEST_FILE), get_type_hints(cls), cast(Callable[..., Self], cls)
        settings = {name: decode_value(kinds[name], manifest.get(name), f"{where}: {name}") for name in cls.SETTINGS}
        about = {name: value for name, value in manifest.items() if name not in (*settings, "data_hash", "format")}
        dataset = make(**settings, **_read_arrays(folder / ARRAYS_FILE, cls.ARRAYS, cls.OPTIONAL), manifest=about)
        if dataset.data_hash != decode_value(str, manifest.get("data_hash"), f"{where}: data_hash"):
            what = f"does not belong to the {MANIFEST_FILE} beside it (data hash {dataset.data_hash[:HASH_DIGITS]}...)"
            raise InputError(f"{show_path(folder / ARRAYS_FILE)}: {what}")
        return dataset


@dataclass(frozen=True, eq=False)
class TaskDataset(Dataset):
    """A dataset of T tasks, G distinct grids, P training pairs, Q tests to be predicted and V views."""

    FORMAT = "arc-trm-dataset 1"
    SETTINGS = ("task_ids",)
    ARRAYS = (
        *("cells", "grid_start", "grid_height", "grid_width"),
        *("pair_task", "pair_input", "pair_output", "pair_start", "pair_canvas"),
        *("test_task", "test_index", "test_input", "test_canvas"),
        *("transforms", "transform_start"),
    )
    OPTIONAL = ("pair_weight",)

    task_ids: tuple[TaskId, ...]
    cells: Bytes
    """(C,) colors: all distinct grids end to end, row-major."""
    grid_start: Starts
    """(G,) where each grid begins in `cells`."""
    grid_height: Bytes
    """(G,)"""
    grid_width: Bytes
    """(G,)"""
    pair_task: Indices
    """(P,) position in `task_ids`, ascending."""
    pair_input: Indices
    """(P,) grid."""
    pair_output: Indices
    """(P,) grid."""
    pair_start: Starts
    """(T + 1,) where the pairs of each task begin; the last is P."""
    pair_canvas: Bytes
    """(P, 2) height and width of the fitted canvas, in the original frame."""
    test_task: Indices
    """(Q,) position in `task_ids`, ascending."""
    test_index: Indices
    """(Q,) position among the tests of the task, in the order of its source."""
    test_input: Indices
    """(Q,) grid."""
    test_canvas: Bytes
    """(Q, 2) height and width of the fitted canvas, in the original frame."""
    transforms: Codes
    transform_start: Starts
    manifest: Mapping[str, Any]
    pair_weight: npt.NDArray[np.float64] | None = None
    """(P,) how often each pair is drawn, in proportion; None: every task as often, and each of its pairs."""

    def require_pairs(self) -> None:
        """Raise InputError where there is nothing to train on."""
        if not len(self.pair_task):
            left_out = "those that show the answer to a scored test are left out"
            raise InputError(f"the dataset has no training pairs ({left_out}): --train-source adds tasks that have some")

    def grid(self, index: int) -> Grid:
        """Return grid `index`, (H, W) uint8, as a view of `cells`."""
        start, height, width = int(self.grid_start[index]), int(self.grid_height[index]), int(self.grid_width[index])
        return self.cells[start : start + height * width].reshape(height, width)

    def task(self, number: int) -> Task:
        """Return task `number`: its training pairs as demonstrations and its tests to be predicted, as views of `cells`."""
        pairs = range(int(self.pair_start[number]), int(self.pair_start[number + 1]))
        train = tuple(Pair(self.grid(self.pair_input[i]), self.grid(self.pair_output[i])) for i in pairs)
        first, last = np.searchsorted(self.test_task, (number, number + 1)).tolist()
        return Task(self.task_ids[number], train, tuple(map(self.grid, self.test_input[first:last])))

    def test_names(self) -> list[TestId]:
        """Return task and number of each test to be predicted, (Q,)."""
        return [(self.task_ids[task], index) for task, index in zip(self.test_task, self.test_index.tolist(), strict=True)]

    def test_views(self, most: int) -> dict[TestId, int]:
        """Return the number of views of each test to be predicted, at most `most`."""
        views = np.diff(self.transform_start)[self.test_task].clip(max=most)
        return dict(zip(self.test_names(), views.tolist(), strict=True))

    def tasks_to_solve(self) -> list[Task]:
        """Return the tasks that have tests, by id: their training pairs as demonstrations, and their test inputs."""
        return [self.task(number) for number in np.unique(self.test_task).tolist()]

    @cached_property
    def tests_hash(self) -> str:
        """The SHA-256, in hex, of the tests to be predicted: ids, order and inputs, whatever is trained on."""
        digest = hashlib.sha256()
        for task in self.tasks_to_solve():
            digest.update(orjson.dumps([task.id, *(grid.tolist() for grid in task.test)]))
        return digest.hexdigest()

    @cached_property
    def data_hash(self) -> str:
        return hash_arrays(self.task_ids, self.arrays())


@dataclass(frozen=True, eq=False)
class PuzzleDataset(Dataset):
    """A dataset of P training puzzles and Q tests, of one kind and of side S: uint8 tokens (`PUZZLE_KINDS`).

    To the networks it is one task with one transform, the identity: the task memory does not tell the views of puzzles apart.
    """

    FORMAT = "arc-trm-puzzles 1"
    SETTINGS = ("kind", "augmentations", "seed")
    ARRAYS = ("questions", "answers", "test_questions")

    kind: KindName
    questions: Tokens
    """(P, S, S) in the order of their tokens; one with several answers comes with each of them."""
    answers: Tokens
    """(P, S, S)"""
    test_questions: Tokens
    """(Q, S, S) in the order of their sources."""
    augmentations: int
    """Views of a training puzzle besides itself."""
    seed: int
    """Draws the views of sudokus."""
    manifest: Mapping[str, Any]
    task_ids: tuple[TaskId, ...] = field(default=(PUZZLE_TASK,), init=False)
    transforms: Codes = field(default_factory=lambda: np.zeros(1, dtype=np.uint32), init=False)
    transform_start: Starts = field(default_factory=lambda: np.array([0, 1], dtype=np.int64), init=False)

    @cached_property
    def data_hash(self) -> str:
        return hash_arrays([self.kind, self.augmentations, self.seed], self.arrays())


def load_dataset(folder: Path) -> TaskDataset | PuzzleDataset:
    """Read the dataset in `folder`, of tasks or of puzzles. Raises FileNotFoundError and InputError as `Dataset.load` does."""
    manifest = _read_manifest(folder, (TaskDataset.FORMAT, PuzzleDataset.FORMAT))
    return PuzzleDataset.load(folder) if manifest["format"] == PuzzleDataset.FORMAT else TaskDataset.load(folder)


def canvas_of(dataset: Dataset) -> tuple[int, int]:
    """Return the number of tokens of `dataset`, padding included, and the side of its full canvas."""
    if isinstance(dataset, PuzzleDataset):
        return PUZZLE_KINDS[dataset.kind].vocabulary, dataset.questions.shape[1]
    return VOCABULARY, MAX_SIDE


def hash_arrays(settings: object, arrays: Arrays) -> str:
    """Return the SHA-256, in hex, of `settings` as JSON and of the names, dtypes, shapes and contents of `arrays`."""
    digest = hashlib.sha256(orjson.dumps(settings))
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_manifest(folder: Path, formats: Collection[str]) -> dict[str, Any]:
    for name in (MANIFEST_FILE, ARRAYS_FILE):
        if not (folder / name).is_file():
            what = f"no such file; a dataset has {MANIFEST_FILE} and {ARRAYS_FILE}"
            raise FileNotFoundError(f"{show_path(folder / name)}: {what}")
    manifest = read_object(folder / MANIFEST_FILE)
    if manifest.get("format") not in formats:
        what = f"expected format {' or '.join(map(repr, formats))}, got {show_value(manifest.get('format'))}"
        raise InputError(f"{show_path(folder / MANIFEST_FILE)}: not the manifest of a dataset of this version: {what}")
    return manifest


def _read_arrays(path: Path, names: Collection[str], optional: Collection[str]) -> Arrays:
    """Return the arrays by name. Their dtypes, shapes and values are not checked, since the data hash covers them."""
    arrays, _ = read_arrays(path)
    if arrays.keys() - set(optional) != set(names):
        missing, unknown = show_value(sorted(set(names) - arrays.keys())), show_value(sorted(arrays.keys() - set(names)))
        raise InputError(f"{show_path(path)}: not the arrays of a dataset: missing {missing}, unknown {unknown}")
    return arrays
