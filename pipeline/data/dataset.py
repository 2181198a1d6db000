"""Datasets of either kind, tasks or puzzles: what is in a folder is read by its manifest.

Beside `store` and `puzzlestore`, for stages that take both.
"""

from pathlib import Path

from augment.canvas import VOCABULARY
from augment.grid import MAX_SIDE
from pipeline.data import store
from pipeline.data.folder import read_manifest, require_files
from pipeline.data.packs import Canvas, Examples, PackMaker, Packs, PuzzlePackMaker
from pipeline.data.puzzles import build as puzzlestore
from pipeline.data.puzzles.build import PuzzleStore
from pipeline.data.puzzles.kinds import PUZZLE_KINDS
from pipeline.data.store import Store

Dataset = Store | PuzzleStore


def load_dataset(folder: Path) -> Dataset:
    """Read the dataset in `folder`, of tasks or of puzzles.

    Raises FileNotFoundError where a file is missing, and ValueError, of one line that names the file, where it does not load.
    """
    require_files(folder)
    manifest = read_manifest(folder, (store.FORMAT, puzzlestore.FORMAT))
    return PuzzleStore.load(folder) if manifest["format"] == puzzlestore.FORMAT else Store.load(folder)


def canvas_of(dataset: Dataset) -> tuple[int, int]:
    """Return the number of tokens of `dataset`, padding included, and the side of its full canvas."""
    if isinstance(dataset, PuzzleStore):
        return PUZZLE_KINDS[dataset.kind].vocabulary, dataset.questions.shape[1]
    return VOCABULARY, MAX_SIDE


def make_packs(dataset: Dataset, canvas: Canvas, memory_tokens: int, examples: Examples = "pairs") -> Packs:
    """Return what draws samples of `dataset` and makes packs of them; puzzles fill their canvas, whatever `canvas` is."""
    if isinstance(dataset, PuzzleStore):
        return PuzzlePackMaker(dataset, memory_tokens, examples)
    return PackMaker(dataset, canvas, memory_tokens, examples)
