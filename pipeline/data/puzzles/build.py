"""The build stage for puzzles: sources in, one `PuzzleDataset` out.

Training puzzles are kept once for each answer and sorted, so the order of sources does not matter. A training question that is
a view of a test question is a leak: it is refused, left out or trained on as `leakage` says.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.canvas import Tokens
from augment.dihedral import DIHEDRALS
from augment.errors import InputError
from augment.sudoku import symmetry_invariants
from eval.formatting import show_path
from pipeline.config import Leakage
from pipeline.data.dataset import PuzzleDataset, hash_arrays
from pipeline.data.puzzles.kinds import BLANK, PUZZLE_KINDS, KindName, turn
from pipeline.data.puzzles.sources import Puzzles
from pipeline.system.progress_bar import doing

logger = logging.getLogger(__name__)


def build_puzzles(
    sources: Sequence[Puzzles], train_sources: Sequence[Puzzles], augmentations: int, seed: int, leakage: Leakage = "refuse"
) -> PuzzleDataset:
    """Return the dataset that trains on the puzzles of `train_sources` and has those of `sources` to predict.

    Training puzzles are kept once for each answer. A leak is a training question that is a view of a test question. Mazes have
    no more than seven other views, however many `augmentations` are wanted.
    Raises InputError when there is nothing to train on, an answer to train on is not known, kinds or sizes differ, a number
    is out of range, or puzzles leak and `leakage` is "refuse".
    """
    if augmentations < 0 or not 0 <= seed < 1 << 64:
        raise InputError(f"build augmentations must not be negative and the seed 0..2^64-1, got {augmentations} and {seed}")
    if not train_sources:
        raise InputError("there is nothing to train on: puzzles have no demonstrations, so a --train-source is needed")
    everything = (*sources, *train_sources)
    kind, shape = train_sources[0].kind, train_sources[0].questions.shape[1:]
    for source in everything:
        if (source.kind, source.questions.shape[1:]) != (kind, shape):
            sizes = [" x ".join(map(str, each.questions.shape[1:])) for each in (source, train_sources[0])]
            raise InputError(
                f"all puzzles of a dataset are of one kind and size: {show_path(source.name)} has {source.kind} of {sizes[0]}, "
                f"{show_path(train_sources[0].name)} has {kind} of {sizes[1]}"
            )
    tests = np.concatenate([np.zeros((0, *shape), np.uint8), *(source.questions for source in sources)])
    with doing("comparing training puzzles with test puzzles"):
        known = symmetry_invariants(tests - BLANK) if kind == "sudoku" else np.unique(_keys(tests))
        leaked = [_find_leaks(kind, source.questions, known) for source in train_sources]
    _report_leaks(train_sources, leaked, leakage)
    kept = [~found if leakage == "drop" else np.ones_like(found) for found in leaked]
    with doing("sorting training puzzles"):
        questions, answers = _distinct_pairs(train_sources, kept)
    if not len(questions):
        raise InputError("there is nothing to train on: all training puzzles are test puzzles")
    most = PUZZLE_KINDS[kind].most_views
    views = augmentations if most is None else min(augmentations, most)
    described = []
    for role, group in (("solve", sources), ("train", train_sources)):
        for source in group:
            arrays = {"questions": source.questions}
            if role == "train" and source.answers is not None:
                arrays["answers"] = source.answers
            content_hash = hash_arrays(source.kind, arrays)
            described.append({"name": source.name, "role": role, "puzzles": len(source), "content_hash": content_hash})
    manifest = {
        "sources": described,
        "audit": {"leakage": leakage, "leaks": sum(int(found.sum()) for found in leaked)},
        "totals": {
            "puzzles": len(questions),
            "tests": len(tests),
            "repeated": sum(int(one.sum()) for one in kept) - len(questions),
            "bytes": questions.nbytes + answers.nbytes + tests.nbytes,
        },
    }
    return PuzzleDataset(kind, questions, answers, tests, views, seed, manifest)


def _find_leaks(kind: KindName, questions: Tokens, known: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which `questions` (N, S, S) are views of tests, (N,), which are `known` by their invariants or keys.

    Sudokus have too many views to try: `symmetry_invariants` decide.
    """
    if kind == "sudoku":
        return np.isin(symmetry_invariants(questions - BLANK), known)
    leaked = np.isin(_keys(questions), known)
    for dihedral in range(1, DIHEDRALS):
        leaked |= np.isin(_keys(turn(questions, np.full(len(questions), dihedral))), known)
    return leaked


def _report_leaks(sources: Sequence[Puzzles], leaked: Sequence[npt.NDArray[np.bool_]], leakage: Leakage) -> None:
    """Log how many training puzzles are tests. Raises InputError instead where they are refused."""
    counts = [(int(found.sum()), show_path(source.name)) for source, found in zip(sources, leaked, strict=True)]
    count = sum(number for number, _ in counts)
    if not count:
        return
    which = ", ".join(f"{number} of {name}" for number, name in counts if number)
    what = f"{count} training puzzle{'s are test puzzles' if count > 1 else ' is a test puzzle'}: {which}"
    if leakage == "refuse":
        raise InputError(f"{what} (--leakage drop leaves them out, --leakage allow trains on them)")
    logger.warning("%s: %s", "left out" if leakage == "drop" else "trained on all the same", what)


def _distinct_pairs(sources: Sequence[Puzzles], kept: Sequence[npt.NDArray[np.bool_]]) -> tuple[Tokens, Tokens]:
    """Return the distinct questions with their answers that are `kept`, in the order of their tokens."""
    parts = []
    for source, mask in zip(sources, kept, strict=True):
        if source.answers is None:
            raise InputError(f"{show_path(source.name)}: has no answers, so it cannot be trained on")
        parts.append(np.stack((source.questions[mask], source.answers[mask]), axis=1))
    pairs = np.concatenate(parts)  # (N, 2, S, S)
    _, first = np.unique(_keys(pairs), return_index=True)
    return pairs[first, 0], pairs[first, 1]


def _keys(tokens: Tokens) -> npt.NDArray[np.bytes_]:
    """Return the tokens (N, ...) of each puzzle as one string of bytes, (N,), to be compared and sorted."""
    flat = np.ascontiguousarray(tokens).reshape(len(tokens), int(np.prod(tokens.shape[1:])))
    return flat.view(f"S{flat.shape[1]}").ravel()  # such strings end at a 0, which is no token of a puzzle
