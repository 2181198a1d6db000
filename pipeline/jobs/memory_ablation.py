"""The command `memory`: the score of a run with a task memory that is not the task's own.

A network that finds the rule from the question alone loses nothing by that; one that has learned a task's rule into its memory
loses all. Puzzles are one task, so their memory can only be blank.
"""

from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator

from augment.task import Solutions
from eval.puzzle_score import PuzzleScore
from eval.score import Score
from pipeline.data.dataset import PuzzleDataset, TaskDataset
from pipeline.jobs.weights_score import score_on_puzzles, score_on_tasks
from pipeline.weights.files import Memory, Weights, change_memory


def score_tasks(
    weights: Weights, dataset: TaskDataset, solutions: Solutions, views: int, accelerator: Accelerator, dtype: torch.dtype
) -> Iterator[tuple[Memory, Score]]:
    """Yield the score of ARC tasks, by votes of up to `views` views, with each kind of memory."""
    kinds: tuple[Memory, ...] = ("own", "blank", "swapped")
    for memory in kinds:
        yield memory, score_on_tasks(change_memory(weights, memory), dataset, solutions, views, accelerator, dtype)


def score_one_task(
    weights: Weights, dataset: PuzzleDataset, answers: Mapping[str, str], accelerator: Accelerator, dtype: torch.dtype
) -> Iterator[tuple[Memory, PuzzleScore]]:
    """Yield the score of puzzles, by their `answers` (by question), with the memory that was trained and with none.

    Raises ValueError where an answer is missing.
    """
    kinds: tuple[Memory, ...] = ("own", "blank")
    for memory in kinds:
        yield memory, score_on_puzzles(change_memory(weights, memory), dataset, answers, accelerator, dtype)
