"""Drafts of predictions, segment by segment, as a run leaves them for its report. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
import orjson
import safetensors.numpy

from augment.canvas import VOCABULARY, Tokens
from augment.errors import InputError
from augment.task import TestId
from eval.files import parse_json, replace_file
from eval.formatting import show_path
from eval.results import DraftUnit
from pipeline.array_files import read_arrays

DRAFTS_FILE = "drafts.safetensors"
"""In the run directory, beside the folder of candidates."""


@dataclass(frozen=True)
class Drafts:
    """The canvases of K test inputs after each of S segments or cycles, C cells in all."""

    test: npt.NDArray[np.int32]
    """(K,) test input of the dataset."""
    shape: npt.NDArray[np.uint8]
    """(K, 2) height and width of the canvas."""
    probability: npt.NDArray[np.float32]
    """(S, K) halting probability; it may not be finite."""
    tokens: npt.NDArray[np.uint8]
    """(S, C) all canvases, row by row, end to end."""

    def canvases(self) -> Iterator[list[tuple[Tokens, float]]]:
        """Yield the canvas, (H, W), and the halting probability after each segment, for each test input in order."""
        end = 0
        for number, (height, width) in enumerate(self.shape.astype(np.int64).tolist()):
            start, end = end, end + height * width
            canvases = self.tokens[:, start:end].reshape(-1, height, width)
            yield list(zip(canvases, self.probability[:, number].tolist(), strict=True))


def join_drafts(parts: Sequence[Drafts]) -> Drafts | None:
    """Return the drafts of all `parts`, which have equally many segments, in order; None where there are none."""
    if not parts:
        return None
    axes = {"test": 0, "shape": 0, "probability": 1, "tokens": 1}
    return Drafts(*(np.concatenate([getattr(part, name) for part in parts], axis) for name, axis in axes.items()))


def write_drafts(path: Path, drafts: Drafts, names: Sequence[TestId], unit: DraftUnit) -> None:
    """Write drafts; `names` has the task and the position among its tests of each test input. The file appears complete."""
    arrays = {name: np.ascontiguousarray(getattr(drafts, name)) for name in _DRAFT_DTYPES}
    about = orjson.dumps({"names": names, "unit": unit}).decode()  # in one, since safetensors keeps several in no order
    replace_file(path, safetensors.numpy.save(arrays, {"about": about}))


def read_drafts(path: Path) -> tuple[DraftUnit, dict[TestId, list[tuple[Tokens, float]]]]:
    """Return unit and drafts, by task and test index. Raises InputError naming a damaged file."""
    where = show_path(path)
    arrays, metadata = read_arrays(path)
    about = parse_json(metadata.get("about", "null").encode(), where)
    names, unit = (about.get(name) if isinstance(about, dict) else None for name in ("names", "unit"))
    kinds = {name: array.dtype.name for name, array in arrays.items()}
    if kinds != _DRAFT_DTYPES or not isinstance(names, list) or unit not in get_args(DraftUnit):
        raise InputError(f"{where}: not a file of drafts")
    drafts = Drafts(**arrays)
    segments, count = drafts.probability.shape if drafts.probability.ndim == 2 else (0, 0)
    fits = drafts.test.shape == (count,) and drafts.shape.shape == (count, 2) and len(names) == count
    cells = int(drafts.shape.astype(np.int64).prod(axis=1).sum()) if fits else 0
    if not fits or not drafts.shape.all() or drafts.tokens.shape != (segments, cells) or (drafts.tokens >= VOCABULARY).any():
        raise InputError(f"{where}: damaged, its arrays do not fit together")
    if not all(isinstance(name, list) and [*map(type, name)] == [str, int] for name in names):
        raise InputError(f"{where}: damaged, it does not name its test inputs")
    return cast(DraftUnit, unit), dict(zip(map(tuple, names), drafts.canvases(), strict=True))


_DRAFT_DTYPES = {"test": "int32", "shape": "uint8", "probability": "float32", "tokens": "uint8"}
