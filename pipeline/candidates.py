"""Candidates on disk: one file a round, read one at a time into a ballot, so that views cost no memory."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from augment.canvas import FIRST_COLOR, crop_sizes
from augment.dihedral import invert_dihedral
from augment.grid import COLORS, MAX_SIDE, Grid
from pipeline.checkpoint import read_tensors, write_tensors
from pipeline.data.pack import Pack
from pipeline.drafts import DRAFTS_FILE


@dataclass(frozen=True)
class Candidates:
    """What was predicted in one round, or a piece of it: K grids in the original frame."""

    test: npt.NDArray[np.int32]
    """(K,) test input of the store."""
    transform: npt.NDArray[np.uint32]
    """(K,) code of the view."""
    probability: npt.NDArray[np.float32]
    """(K,) halting probability of the last segment."""
    shape: npt.NDArray[np.uint8]
    """(K, 2) height and width; 0, 0 where no grid was predicted."""
    cells: npt.NDArray[np.uint8]
    """All grids, row by row, end to end."""

    def grids(self) -> Iterator[tuple[int, Grid | None, float]]:
        """Yield (test input of the store, grid or None, halting probability) of each candidate."""
        sizes = self.shape.astype(np.int64)
        ends = sizes.prod(axis=1).cumsum()
        starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
        rows = zip(self.test.tolist(), sizes.tolist(), starts.tolist(), ends.tolist(), self.probability.tolist(), strict=True)
        for test, (height, width), start, end, probability in rows:
            yield test, self.cells[start:end].reshape(height, width) if end > start else None, probability


class CandidateBuilder:
    """Collects the candidates of a round in memory, as compact arrays."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, int, float, int, int]] = []
        self.cells: list[bytes] = []

    def add(self, tests: npt.NDArray[np.int64], pack: Pack, codes: npt.NDArray[np.uint32], tokens: npt.NDArray[np.uint8],
            probability: npt.NDArray[np.float32]) -> None:  # fmt: skip
        """Bring the predicted `tokens` (C,) of a pack back to the original frame and keep them.

        `tests` (B,) and `codes` (B,) say what each sequence is, `probability` (B,) how sure it was to be right.
        """
        undo = np.argsort(pack.colors, axis=1).astype(np.uint8)  # (B, 10) inverse permutations
        sequence, cell = 0, 0
        shapes, counts = _runs(pack.shapes)
        for (height, width), count in zip(shapes, counts, strict=True):
            area = count * height * width
            canvases = tokens[cell : cell + area].reshape(count, height, width)
            for canvas, (rows, columns) in zip(canvases, crop_sizes(canvases).tolist(), strict=True):
                self.heads.append((int(tests[sequence]), int(codes[sequence]), float(probability[sequence]), 0, 0))
                if rows:
                    view = undo[sequence][canvas[:rows, :columns] - FIRST_COLOR]
                    grid = invert_dihedral(view, int(pack.dihedral[sequence]))
                    self.heads[-1] = (*self.heads[-1][:3], *grid.shape)
                    self.cells.append(grid.tobytes())
                sequence += 1
            cell += area

    def build(self) -> Candidates:
        """Return everything added so far."""
        test, transform, probability, height, width = zip(*self.heads, strict=True) if self.heads else ([],) * 5
        return Candidates(
            np.array(test, np.int32),
            np.array(transform, np.uint32),
            np.array(probability, np.float32),
            np.stack((np.array(height, np.uint8), np.array(width, np.uint8)), axis=1),
            np.frombuffer(b"".join(self.cells), np.uint8),
        )


def _runs(shapes: npt.NDArray[np.int64]) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the neighboring equal rows of `shapes` (B, 2) and how many there are of each."""
    if not len(shapes):
        return [], []
    starts = np.flatnonzero(np.concatenate(([True], (shapes[1:] != shapes[:-1]).any(axis=1))))
    return [(height, width) for height, width in shapes[starts].tolist()], np.diff([*starts, len(shapes)]).tolist()


@dataclass(frozen=True)
class Origin:
    """Where the candidates of a round come from."""

    source: str
    """The checkpoint that predicted them."""
    tests_hash: str
    """Of the store whose tests they number (`Store.tests_hash`)."""
    number: int
    """Of the round, from 1."""
    first_view: int
    """The round asked the views first_view..views-1 of every test input, where it has so many."""
    views: int
    complete: bool
    """False when not every view of the round was asked."""


def join_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of all `parts`, in order."""
    parts = parts or [CandidateBuilder().build()]
    return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


def write_candidates(path: Path, candidates: Candidates, origin: Origin) -> None:
    """Write the candidates of one round; the file appears when it is complete."""
    columns = {name: np.ascontiguousarray(getattr(candidates, name)) for name in _COLUMNS}
    columns["transform"] = columns["transform"].astype(np.int64)
    tensors = {name: torch.from_numpy(column if column.flags.writeable else column.copy()) for name, column in columns.items()}
    write_tensors(path, tensors, {name: str(value) for name, value in asdict(origin).items()})


def read_candidates(path: Path) -> tuple[Candidates, Origin]:
    """Return the candidates of a file and where they come from. Raises ValueError naming a damaged file."""
    tensors, metadata = read_tensors(path)
    if set(tensors) != set(_COLUMNS) or set(metadata) != {field.name for field in fields(Origin)}:
        raise ValueError(f"{path}: not a file of candidates")
    test, transform, probability, shape, cells = (tensors[name].numpy() for name in _COLUMNS)
    count = len(test)
    if not test.shape == transform.shape == probability.shape == (count,) or shape.shape != (count, 2):
        raise ValueError(f"{path}: damaged, its columns differ in length")
    if int(shape.astype(np.int64).prod(axis=1).sum()) != len(cells):
        raise ValueError(f"{path}: damaged, {len(cells)} cells do not fill the grids")
    if (cells >= COLORS).any() or (shape > MAX_SIDE).any():
        raise ValueError(f"{path}: damaged, it holds what is no grid")
    try:
        number, first, views = (int(metadata[name]) for name in ("number", "first_view", "views"))
    except ValueError:
        raise ValueError(f"{path}: damaged, it does not say which views it holds") from None
    origin = Origin(metadata["source"], metadata["tests_hash"], number, first, views, metadata["complete"] == "True")
    return Candidates(test, transform.astype(np.uint32), probability, shape, cells), origin


def clear_candidates(folder: Path) -> None:
    """Make `folder` and remove the candidates of an earlier prediction from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*folder.glob("round-*.safetensors"), *folder.glob(DRAFTS_FILE)):
        path.unlink()


_COLUMNS = tuple(field.name for field in fields(Candidates))
