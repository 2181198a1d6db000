"""The command `memory`: the score of a run with a task memory that is not the task's own.

A network that finds the rule from the question alone loses nothing by that; one that has learned a task's rule into its memory
loses all. Puzzles are one task, so their memory can only be blank.
"""

from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator

from augment.task import Solutions
from eval.puzzle_score import PuzzleScore, score_puzzles
from eval.score import Score
from pipeline.data.dataset import PuzzleDataset, TaskDataset
from pipeline.inference.puzzles import predict_puzzles
from pipeline.jobs.puzzles import to_predictions
from pipeline.jobs.task_score import score_weights
from pipeline.system.time_limit import Budget
from pipeline.weights.files import Memory, Weights, change_memory

_NO_LIMIT = Budget(None, 0.0)


def score_tasks(
    weights: Weights, dataset: TaskDataset, solutions: Solutions, views: int, accelerator: Accelerator, dtype: torch.dtype
) -> Iterator[tuple[Memory, Score]]:
    """Yield the score of ARC tasks, by votes of up to `views` views, with each kind of memory."""
    kinds: tuple[Memory, ...] = ("own", "blank", "swapped")
    for memory in kinds:
        yield memory, score_weights(change_memory(weights, memory), dataset, solutions, views, accelerator, dtype)


def score_one_task(
    weights: Weights, dataset: PuzzleDataset, answers: Mapping[str, str], accelerator: Accelerator, dtype: torch.dtype
) -> Iterator[tuple[Memory, PuzzleScore]]:
    """Yield the score of puzzles, by their `answers` (by question), with the memory that was trained and with none."""
    kinds: tuple[Memory, ...] = ("own", "blank")
    for memory in kinds:
        changed = change_memory(weights, memory)
        *_, found = predict_puzzles(accelerator, dtype, changed, dataset, weights.config.predict, _NO_LIMIT)
        predictions = to_predictions(dataset, found, answers)
        yield memory, score_puzzles(predictions, {each.question: each.answer for each in predictions if each.answer})
