"""The dataset of puzzles: questions with their answers to train on, and questions to be solved, all of one kind and size.

Written by `build_puzzles`, read by packing, training and prediction, as `store` is for tasks. Views are not in it: they are
made when a pack is drawn. Neither are the answers of the tests.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import orjson

from augment.canvas import Tokens
from augment.dihedral import DIHEDRALS
from augment.sudoku import symmetry_invariants
from augment.task import TaskId
from augment.transform import Codes
from eval.formatting import show_path, show_value
from pipeline.config import Leakage
from pipeline.data.folder import (
    MANIFEST_FILE,
    Arrays,
    ArrayTypes,
    check_arrays,
    hash_arrays,
    read_arrays,
    read_manifest,
    require_files,
    write_folder,
)
from pipeline.data.puzzles.kinds import PUZZLE_KINDS, PUZZLE_TASK, KindName, turn
from pipeline.data.puzzles.sources import Puzzles
from pipeline.data.store import Starts
from pipeline.system.progress_bar import doing

FORMAT = "arc-trm-puzzles 1"

SEEDS = 1 << 64

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PuzzleStore:
    """A dataset of P training puzzles and Q tests of side S, uint8 tokens (`PUZZLE_KINDS`).

    To training and checkpoints it is one task with one transform, the identity. Equal `data_hash` means equal kind, arrays
    and views, whatever the manifest says.
    """

    kind: KindName
    questions: Tokens
    """(P, S, S) distinct, in the order of their tokens."""
    answers: Tokens
    """(P, S, S)"""
    test_questions: Tokens
    """(Q, S, S) in the order of their sources."""
    augmentations: int
    """Views of a training puzzle besides itself."""
    seed: int
    """Draws the views of sudokus."""
    manifest: Mapping[str, Any]
    """What the dataset was built from and how: plain JSON values. The file has the fields above and the data hash too."""

    @property
    def task_ids(self) -> tuple[TaskId, ...]:
        """The one task that all puzzles are."""
        return (PUZZLE_TASK,)

    @property
    def transforms(self) -> Codes:
        """(1,) the identity: the task memory does not tell the views of puzzles apart."""
        return np.zeros(1, dtype=np.uint32)

    @property
    def transform_start(self) -> Starts:
        """(2,) where the transforms of the task begin and end."""
        return np.array([0, 1], dtype=np.int64)

    @cached_property
    def data_hash(self) -> str:
        """The SHA-256, in hex, of kind, arrays and what the views are drawn by."""
        return hash_arrays(orjson.dumps([self.kind, self.augmentations, self.seed]), self.arrays())

    @cached_property
    def tests_hash(self) -> str:
        """The SHA-256, in hex, of the tests to be predicted: kind, order and questions, whatever is trained on."""
        return hash_arrays(orjson.dumps(self.kind), {"test_questions": self.test_questions})

    def arrays(self) -> Arrays:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in _TYPES}

    def save(self, folder: Path) -> None:
        """Write the dataset into `folder`, which is made if need be, as `Store.save` does."""
        settings = {"kind": self.kind, "augmentations": self.augmentations, "seed": self.seed}
        write_folder(folder, self.arrays(), {**self.manifest, **settings, "format": FORMAT, "data_hash": self.data_hash})

    @staticmethod
    def load(folder: Path) -> "PuzzleStore":
        """Read a dataset that `save` wrote. Raises FileNotFoundError and ValueError like `Store.load`."""
        require_files(folder)
        manifest = _read_manifest(folder)
        kind, augmentations, seed, data_hash = (manifest.pop(name) for name in ("kind", "augmentations", "seed", "data_hash"))
        store = PuzzleStore(kind, **read_arrays(folder, _TYPES), augmentations=augmentations, seed=seed, manifest=manifest)
        check_arrays(folder, _faults(store), lambda: store.data_hash, data_hash)
        return store


def build_puzzles(
    sources: Sequence[Puzzles], train_sources: Sequence[Puzzles], augmentations: int, seed: int, leakage: Leakage = "refuse"
) -> PuzzleStore:
    """Return the dataset that trains on the puzzles of `train_sources` and asks for those of `sources`.

    Equal training puzzles are kept once. A leak is a training question that is a view of a test question. Mazes have no more
    than seven other views, however many `augmentations` are wanted.
    Raises ValueError when there is nothing to train on, an answer to train on is not known, kinds or sizes differ, a number
    is out of range, or puzzles leak and `leakage` is "refuse".
    """
    if leakage not in get_args(Leakage):
        raise ValueError(f"leakage must be one of {', '.join(get_args(Leakage))}, got {leakage!r}")
    if augmentations < 0 or not 0 <= seed < SEEDS:
        raise ValueError(f"build augmentations must not be negative and the seed 0..2^64-1, got {augmentations} and {seed}")
    if not train_sources:
        raise ValueError("there is nothing to train on: puzzles have no demonstrations, so a --train-source is needed")
    everything = (*sources, *train_sources)
    _require_one_kind(everything)
    kind, shape = train_sources[0].kind, train_sources[0].questions.shape[1:]
    tests = np.concatenate([np.zeros((0, *shape), np.uint8), *(source.questions for source in sources)])
    with doing("comparing training puzzles with test puzzles"):
        leaked = [_find_leaks(kind, source.questions, tests) for source in train_sources]
    _report_leaks(train_sources, leaked, leakage)
    kept = [~found if leakage == "drop" else np.ones_like(found) for found in leaked]
    with doing("sorting training puzzles"):
        questions, answers = _distinct_pairs(train_sources, kept)
    if not len(questions):
        raise ValueError("there is nothing to train on: all training puzzles are test puzzles")
    most = PUZZLE_KINDS[kind].most_views
    views = augmentations if most is None else min(augmentations, most)
    manifest = {
        "sources": [_describe(role, each) for role, group in (("solve", sources), ("train", train_sources)) for each in group],
        "audit": {"leakage": leakage, "leaks": sum(int(found.sum()) for found in leaked)},
        "totals": {
            "puzzles": len(questions),
            "tests": len(tests),
            "repeated": sum(int(one.sum()) for one in kept) - len(questions),
            "bytes": questions.nbytes + answers.nbytes + tests.nbytes,
        },
    }
    return PuzzleStore(kind, questions, answers, tests, views, seed, manifest)


def _require_one_kind(everything: Sequence[Puzzles]) -> None:
    first = everything[0]
    for other in everything[1:]:
        (height, width), (other_height, other_width) = first.questions.shape[1:], other.questions.shape[1:]
        if (first.kind, height, width) != (other.kind, other_height, other_width):
            raise ValueError(
                f"all puzzles of a dataset are of one kind and size: {show_path(first.name)} has {first.kind} of "
                f"{height} x {width}, {show_path(other.name)} has {other.kind} of {other_height} x {other_width}"
            )


def _find_leaks(kind: KindName, questions: Tokens, tests: Tokens) -> npt.NDArray[np.bool_]:
    """Return which of `questions` (N, S, S) are a view of one of `tests`. (N,)

    Sudokus have too many views to try: compared is what all of them share (`symmetry_invariants`), which nearly no others do.
    """
    if kind == "sudoku":
        blank = np.uint8(1)  # the token of digit d is d + 1
        return np.isin(symmetry_invariants(questions - blank), symmetry_invariants(tests - blank))
    known = np.unique(_keys(tests))
    leaked = np.isin(_keys(questions), known)
    for dihedral in range(1, DIHEDRALS):
        leaked |= np.isin(_keys(turn(questions, np.full(len(questions), dihedral))), known)
    return leaked


def _report_leaks(sources: Sequence[Puzzles], leaked: Sequence[npt.NDArray[np.bool_]], leakage: Leakage) -> None:
    """Log how many training puzzles are tests. Raises ValueError instead where they are refused."""
    counts = [(int(found.sum()), show_path(source.name)) for source, found in zip(sources, leaked, strict=True)]
    count = sum(number for number, _ in counts)
    if not count:
        return
    which = ", ".join(f"{number} of {name}" for number, name in counts if number)
    what = f"{count} training puzzle{'s are test puzzles' if count > 1 else ' is a test puzzle'}: {which}"
    if leakage == "refuse":
        raise ValueError(f"{what} (--leakage drop leaves them out, --leakage allow trains on them)")
    _LOG.warning("%s: %s", "left out" if leakage == "drop" else "trained on all the same", what)


def _distinct_pairs(sources: Sequence[Puzzles], kept: Sequence[npt.NDArray[np.bool_]]) -> tuple[Tokens, Tokens]:
    """Return the distinct questions with their answers that are `kept`, in the order of their tokens."""
    parts = []
    for source, mask in zip(sources, kept, strict=True):
        if source.answers is None:
            raise ValueError(f"{show_path(source.name)}: has no answers, so it cannot be trained on")
        parts.append(np.stack((source.questions[mask], source.answers[mask]), axis=1))
    pairs = np.concatenate(parts)  # (N, 2, S, S)
    _, first = np.unique(_keys(pairs), return_index=True)
    return pairs[first, 0], pairs[first, 1]


def _keys(tokens: Tokens) -> npt.NDArray[np.bytes_]:
    """Return the tokens (N, ...) of each puzzle as one string of bytes, (N,), to be compared and sorted."""
    flat = np.ascontiguousarray(tokens).reshape(len(tokens), int(np.prod(tokens.shape[1:])))
    return flat.view(f"S{flat.shape[1]}").ravel()  # such strings end at a 0, which is no token of a puzzle


def _describe(role: str, source: Puzzles) -> dict[str, Any]:
    arrays = {"questions": source.questions}
    if role == "train" and source.answers is not None:
        arrays["answers"] = source.answers
    content_hash = hash_arrays(orjson.dumps(source.kind), arrays)
    return {"name": source.name, "role": role, "puzzles": len(source), "content_hash": content_hash}


_TYPES: ArrayTypes = dict.fromkeys(("questions", "answers", "test_questions"), (np.dtype(np.uint8), 3))


def _read_manifest(folder: Path) -> dict[str, Any]:
    where = show_path(folder / MANIFEST_FILE)
    manifest = read_manifest(folder, (FORMAT,))
    del manifest["format"]
    if not isinstance(manifest.get("kind"), str) or manifest["kind"] not in PUZZLE_KINDS or "data_hash" not in manifest:
        raise ValueError(f"{where}: has no data hash or no kind of puzzles, which is one of {', '.join(PUZZLE_KINDS)}")
    for name in ("augmentations", "seed"):
        value = manifest.get(name)
        if type(value) is not int or value < 0:
            raise ValueError(f"{where}: {name} must be a number from 0 on, got {show_value(value)}")
    most = PUZZLE_KINDS[manifest["kind"]].most_views
    if most is not None and manifest["augmentations"] > most:
        raise ValueError(f"{where}: augmentations must be 0..{most}, got {manifest['augmentations']}")
    return manifest


def _faults(store: PuzzleStore) -> Iterator[str]:
    """Yield what is wrong with the arrays; each check relies on those before it, so the first fault is the one to tell."""
    kind = PUZZLE_KINDS[store.kind]
    count, height, width = store.questions.shape
    if not count:
        yield "there are no training puzzles"
    if height != width or height not in kind.sides:
        yield f"the questions of a {kind.name} cannot be {height} x {width}"
    if store.answers.shape != store.questions.shape:
        yield f"answers must have the shape {store.questions.shape}, got {store.answers.shape}"
    if store.test_questions.shape[1:] != (height, width):
        yield f"test_questions must be {height} x {width}, got {store.test_questions.shape[1:]}"
    greatest = len(kind.symbols(height))
    for name, array in store.arrays().items():
        if array.size and not 1 <= int(array.min()) <= int(array.max()) <= greatest:
            yield f"{name} must be 1..{greatest}, got {int(array.min())}..{int(array.max())}"
    for name in ("questions", "test_questions"):
        if not kind.keeps_rule(getattr(store, name)).all():
            yield f"each of {name} must {kind.question_rule}"
    if not kind.solves(store.questions, store.answers).all():
        yield f"each of answers must {kind.answer_rule}"
