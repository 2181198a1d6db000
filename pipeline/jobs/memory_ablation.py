"""The command `memory`: the score of a run with a task memory that is not the task's own.

A network that finds the rule from the question alone loses nothing by that; one that has learned a task's rule into its memory
loses all. Puzzles are one task, so their memory can only be blank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from augment.task import Solutions
from eval.puzzle_score import PuzzleScore, score_puzzles
from eval.score import Score, score_predictions
from eval.vote import Ballot
from pipeline.data.dataset import PuzzleDataset, TaskDataset
from pipeline.inference.candidates import count_votes
from pipeline.inference.predictor import Predictor
from pipeline.inference.puzzles import predict_puzzles
from pipeline.jobs.puzzles import to_predictions
from pipeline.system.time_limit import Budget
from pipeline.weights.files import Memory, Weights, change_memory
from submission.format import fill_submission

_NO_LIMIT = Budget(None, 0.0)


def score_tasks(
    weights: Weights, dataset: TaskDataset, solutions: Solutions, views: int, accelerator: Accelerator, dtype: torch.dtype
) -> Iterator[tuple[Memory, Score]]:
    """Yield the score of ARC tasks, by votes of up to `views` views, with each kind of memory."""
    config, tasks = replace(weights.config.predict, views=views), dataset.tasks_to_solve()
    kinds: tuple[Memory, ...] = ("own", "blank", "swapped")
    for memory in kinds:
        predictor, ballot = Predictor(accelerator, dtype, change_memory(weights, memory), dataset, config), Ballot(memory)
        with TemporaryDirectory() as folder:
            for candidates, _ in predictor.rounds(Path(folder), _NO_LIMIT):
                count_votes(ballot, candidates, predictor.dataset)
        attempts = fill_submission(tasks, ballot.predictions(tasks, config.ranking)).submission
        yield memory, score_predictions({task_id: attempts[task_id] for task_id in solutions}, solutions)


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
