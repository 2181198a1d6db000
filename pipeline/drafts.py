"""Drafts: what a network would have answered after each segment, for one view of every test input, the identity.

A network that is asked for a single segment leaves its drafts after each cycle of that.

Left by the first round of predictions beside the folder of its candidates, read by the report. Needs no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
import orjson
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from augment.canvas import VOCABULARY, Tokens
from augment.outside import show_path
from augment.task import TaskId
from eval.replace import replace_file
from eval.report.entries import DraftUnit
from pipeline.data.frame import damage_of
from pipeline.data.strictjson import parse_json

DRAFTS_FILE = "drafts.safetensors"
"""In the run directory."""


@dataclass(frozen=True)
class Drafts:
    """The canvases of K test inputs after each of S segments or cycles, C cells in all."""

    test: npt.NDArray[np.int32]
    """(K,) test input of the store."""
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


@dataclass(frozen=True)
class StoredDrafts:
    """What a file of drafts holds."""

    unit: DraftUnit
    """After what each was made."""
    tests: dict[tuple[TaskId, int], list[tuple[Tokens, float]]]
    """What `Drafts.canvases` yields, by task and position among its tests."""


def drafts_path(candidates: Path) -> Path:
    """Return where the drafts of the predictions lie whose folder of candidates is given."""
    return candidates.with_name(DRAFTS_FILE)


def join_drafts(parts: Sequence[Drafts]) -> Drafts | None:
    """Return the drafts of all `parts`, which have equally many segments, in order; None where there are none."""
    if not parts:
        return None
    return Drafts(
        np.concatenate([part.test for part in parts]),
        np.concatenate([part.shape for part in parts]),
        np.concatenate([part.probability for part in parts], axis=1),
        np.concatenate([part.tokens for part in parts], axis=1),
    )


def write_drafts(path: Path, drafts: Drafts, names: Sequence[tuple[TaskId, int]], unit: DraftUnit) -> None:
    """Write drafts; `names` has the task and the position among its tests of each test input. The file appears complete."""
    arrays = {name: np.ascontiguousarray(getattr(drafts, name)) for name in _KINDS}
    about = orjson.dumps({"names": names, "unit": unit}).decode()  # in one, since safetensors keeps several in no order
    replace_file(path, safetensors.numpy.save(arrays, {"about": about}))


def read_drafts(path: Path) -> StoredDrafts:
    """Return the drafts in a file. Raises ValueError naming a damaged file."""
    where = show_path(path)
    damage = damage_of(path)
    if damage:
        raise ValueError(f"{where}: damaged or not a file of drafts ({damage})")
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = parse_json((file.metadata() or {}).get("about", "null").encode(), where)
            names, unit = (about.get(name) if isinstance(about, dict) else None for name in ("names", "unit"))
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a mapping
            if kinds != _KINDS or not isinstance(names, list) or unit not in get_args(DraftUnit):
                raise ValueError(f"{where}: not a file of drafts")
            drafts = Drafts(**{name: file.get_tensor(name) for name in kinds})
    except SafetensorError as error:
        raise ValueError(f"{where}: damaged or not a file of drafts ({show_path(str(error)[:160])})") from None
    segments, count = drafts.probability.shape if drafts.probability.ndim == 2 else (0, 0)
    fits = drafts.test.shape == (count,) and drafts.shape.shape == (count, 2) and len(names) == count
    cells = int(drafts.shape.astype(np.int64).prod(axis=1).sum()) if fits else 0
    if not fits or not drafts.shape.all() or drafts.tokens.shape != (segments, cells) or (drafts.tokens >= VOCABULARY).any():
        raise ValueError(f"{where}: damaged, its arrays do not fit together")
    if not all(isinstance(name, list) and [*map(type, name)] == [str, int] for name in names):
        raise ValueError(f"{where}: damaged, it does not name its test inputs")
    tests = {(task, index): canvases for (task, index), canvases in zip(names, drafts.canvases(), strict=True)}
    return StoredDrafts(cast(DraftUnit, unit), tests)


_KINDS = {"test": "I32", "shape": "U8", "probability": "F32", "tokens": "U8"}
"""Of the arrays, as safetensors names them."""
