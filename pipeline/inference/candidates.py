"""Candidates on disk, one file a round: counted into a ballot file by file, so that memory does not grow with views."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from augment.canvas import FIRST_COLOR, crop_sizes
from augment.dihedral import DIHEDRALS, invert_dihedral
from augment.errors import InputError
from augment.grid import COLORS, MAX_SIDE, Grid
from eval.formatting import show_path
from eval.vote import Ballot
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Pack
from pipeline.inference.drafts import DRAFTS_FILE
from pipeline.inference.facts import round_files
from pipeline.system.progress_bar import watch
from pipeline.tensor_files import read_tensors, write_tensors


@dataclass(frozen=True)
class Candidates:
    """What was predicted in one round, or in a share of it: K grids in the original frame."""

    test: npt.NDArray[np.int32]
    """(K,) test input of the dataset."""
    transform: npt.NDArray[np.uint32]
    """(K,) code of the view."""
    probability: npt.NDArray[np.float32]
    """(K,) halting probability of the last segment."""
    shape: npt.NDArray[np.uint8]
    """(K, 2) height and width; 0, 0 where no grid was predicted."""
    cells: npt.NDArray[np.uint8]
    """All grids, row by row, end to end."""

    def grids(self) -> Iterator[tuple[int, Grid | None, float]]:
        """Yield (test input of the dataset, grid or None, halting probability) of each candidate."""
        sizes = self.shape.astype(np.int64)
        ends = sizes.prod(axis=1).cumsum()
        rows = zip(self.test.tolist(), sizes.tolist(), ends.tolist(), self.probability.tolist(), strict=True)
        for test, (height, width), end, probability in rows:
            yield test, self.cells[end - height * width : end].reshape(height, width) if height else None, probability


def to_candidates(
    tests: npt.NDArray[np.int64], pack: Pack, codes: npt.NDArray[np.uint32], tokens: npt.NDArray[np.uint8],
    probability: npt.NDArray[np.float32],
) -> Candidates:  # fmt: skip
    """Return the predicted `tokens` (C,) of a pack as candidates, in the original frame.

    `tests` (B,) and `codes` (B,) are the test input and the view of each sequence, `probability` (B,) its halting probability.
    """
    undo = np.zeros((len(tests), 256), np.uint8)  # by token: its color in the original frame
    undo[:, FIRST_COLOR : FIRST_COLOR + COLORS] = np.argsort(pack.colors, axis=1)
    shape = np.zeros((len(tests), 2), np.uint8)
    found: list[bytes] = []
    cell = 0
    starts = np.flatnonzero(np.diff(pack.shapes, axis=0, prepend=-1).any(axis=1))  # of each run of equal shapes
    for start, stop in pairwise([*starts.tolist(), len(tests)]):
        height, width = pack.shapes[start].tolist()
        end = cell + (stop - start) * height * width
        canvases = tokens[cell:end].reshape(-1, height, width)
        grids, shape[start:stop] = _turn_back(canvases, pack.dihedral[start:stop])
        found.extend(map(bytes.translate, grids, _rows(undo[start:stop])))
        cell = end
    cells = np.frombuffer(b"".join(found), np.uint8)
    return Candidates(tests.astype(np.int32), codes.astype(np.uint32), probability.astype(np.float32), shape, cells)


def _turn_back(canvases: npt.NDArray[np.uint8], dihedral: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """Return the tokens of the grid on each of `canvases` (B, H, W) in the original frame, row by row, and its size (B, 2).

    Grids of one size that were seen through one dihedral are turned together. Where there is no grid: no bytes, (0, 0).
    """
    sizes = crop_sizes(canvases)
    kinds, kind, counts = np.unique(
        (sizes[:, 0] * (MAX_SIDE + 1) + sizes[:, 1]) * DIHEDRALS + dihedral, return_inverse=True, return_counts=True
    )
    members = np.split(np.argsort(kind, kind="stable"), np.cumsum(counts)[:-1])
    found = [b""] * len(canvases)
    for code, those in zip(kinds.tolist(), members, strict=True):
        (rows, columns), seen = divmod(code // DIHEDRALS, MAX_SIDE + 1), code % DIHEDRALS
        if not rows:
            continue
        grids = invert_dihedral(canvases[those, :rows, :columns], seen)
        sizes[those] = grids.shape[1:]
        for place, grid in zip(those.tolist(), _rows(grids), strict=True):
            found[place] = grid
    return found, sizes


def _rows(array: npt.NDArray[np.uint8]) -> list[bytes]:
    """Return the bytes of each entry along the first axis; far cheaper than `tobytes` of each."""
    data, size = array.tobytes(), array[0].size
    return [data[start : start + size] for start in range(0, len(data), size)]


@dataclass(frozen=True)
class Origin:
    """Where the candidates of a round come from."""

    source: str
    """The checkpoint that predicted them."""
    tests_hash: str
    """Of the dataset whose tests they number (`TaskDataset.tests_hash`)."""
    number: int
    """Of the round, from 1."""
    first_view: int
    """The round predicted the views first_view..views-1 of every test input that has so many."""
    views: int
    complete: bool
    """False when not every view of the round was predicted."""
    computation: str = ""
    """The checksum of the weights, and how much each view was computed: segments, latents, halting. Files of earlier versions
    have none of it, and count, or no checksum, and do not."""


def join_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of all `parts`, in order."""
    parts = parts or [_NO_CANDIDATES]
    return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


def write_candidates(path: Path, candidates: Candidates, origin: Origin) -> None:
    """Write the candidates of one round; the file appears when it is complete."""
    columns = {name: np.ascontiguousarray(getattr(candidates, name)) for name in _COLUMNS}
    columns["transform"] = columns["transform"].astype(np.int64)
    tensors = {name: torch.from_numpy(column if column.flags.writeable else column.copy()) for name, column in columns.items()}
    write_tensors(path, tensors, {name: str(value) for name, value in asdict(origin).items()})


def read_candidates(path: Path) -> tuple[Candidates, Origin]:
    """Return the candidates of a file and where they come from. Raises InputError naming a damaged file."""
    tensors, metadata = read_tensors(path)
    if set(tensors) != set(_COLUMNS) or {"computation": "", **metadata}.keys() != {field.name for field in fields(Origin)}:
        raise InputError(f"{show_path(path)}: not a file of candidates")
    if any(tensors[name].dtype != dtype for name, dtype in _DTYPES.items()):
        raise InputError(f"{show_path(path)}: damaged, its columns are of other kinds")
    test, transform, probability, shape, cells = (tensors[name].numpy() for name in _COLUMNS)
    count = test.shape[0] if test.ndim else 0
    if not test.shape == transform.shape == probability.shape == (count,) or shape.shape != (count, 2) or cells.ndim != 1:
        raise InputError(f"{show_path(path)}: damaged, its columns differ in length")
    if int(shape.astype(np.int64).prod(axis=1).sum()) != len(cells):
        raise InputError(f"{show_path(path)}: damaged, {len(cells)} cells do not fill the grids")
    if (cells >= COLORS).any() or (shape > MAX_SIDE).any() or ((shape == 0).any(axis=1) & (shape > 0).any(axis=1)).any():
        raise InputError(f"{show_path(path)}: damaged, it holds what is no grid")
    if (test < 0).any() or not ((probability >= 0) & (probability <= 1)).all():
        raise InputError(f"{show_path(path)}: damaged, it holds what is no test input or no probability")
    try:
        number, first, views = (int(metadata[name]) for name in ("number", "first_view", "views"))
    except ValueError:
        raise InputError(f"{show_path(path)}: damaged, it does not say which views it holds") from None
    complete, computation = metadata["complete"] == "True", metadata.get("computation", "")
    origin = Origin(metadata["source"], metadata["tests_hash"], number, first, views, complete, computation)
    return Candidates(test, transform.astype(np.uint32), probability, shape, cells), origin


def count_votes(ballot: Ballot, candidates: Candidates, dataset: TaskDataset, source: str | None = None) -> None:
    """Add `candidates`, of `source` where `ballot` may not name it, under the ids of the tasks of `dataset`."""
    names = dataset.test_names()
    places = [names[test] for test in candidates.test.tolist()]
    ballot.add(places, candidates.shape, candidates.cells, candidates.probability, source)


def tally(folders: Sequence[Path], dataset: TaskDataset) -> Ballot:
    """Return the votes in `folders`, pooled if of several checkpoints. Raises FileNotFoundError or InputError with the path."""
    ballot = Ballot()
    for folder in folders:
        paths = round_files(folder)
        if not paths:
            raise FileNotFoundError(f"{folder}: no candidates here (round-*.safetensors)")
        for path in watch(paths, f"counting the votes of {folder}", unit="rounds"):
            candidates, origin = read_candidates(path)
            if origin.tests_hash != dataset.tests_hash or candidates.test.max(initial=0) >= len(dataset.test_task):
                raise InputError(f"{show_path(path)}: candidates for other tests than those of the dataset")
            count_votes(ballot, candidates, dataset, f"{show_path(folder)}: {origin.source}")
    return ballot


def clear_candidates(folder: Path) -> None:
    """Remove the candidates of an earlier prediction from `folder`, and its drafts."""
    for path in round_files(folder):
        path.unlink()
    folder.with_name(DRAFTS_FILE).unlink(missing_ok=True)


_COLUMNS = tuple(field.name for field in fields(Candidates))
_DTYPES = dict(zip(_COLUMNS, (torch.int32, torch.int64, torch.float32, torch.uint8, torch.uint8), strict=True))
"""Of the columns as they are stored."""
_NO_CANDIDATES = Candidates(
    np.zeros(0, np.int32), np.zeros(0, np.uint32), np.zeros(0, np.float32), np.zeros((0, 2), np.uint8), np.zeros(0, np.uint8)
)
