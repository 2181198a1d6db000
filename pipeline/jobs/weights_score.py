"""The score of weights: ARC tasks by the votes of some views, puzzles by their answers; nothing is written."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from accelerate import Accelerator

from augment.errors import InputError
from augment.task import Solutions
from eval.puzzle_score import PuzzleScore, score_puzzles
from eval.score import Score, score_predictions
from eval.vote import Ballot
from pipeline.data.dataset import PuzzleDataset, TaskDataset
from pipeline.inference.candidates import count_votes
from pipeline.inference.predictor import Predictor
from pipeline.inference.puzzles import predict_puzzles
from pipeline.system.time_limit import NO_LIMIT
from pipeline.weights.files import Weights
from submission.format import fill_submission


def score_on_tasks(
    weights: Weights, dataset: TaskDataset, solutions: Solutions, views: int, accelerator: Accelerator, dtype: torch.dtype
) -> Score:
    """Return what `weights` score on the tasks of `solutions`, by votes of up to `views` views of each test input."""
    config, tasks = replace(weights.config.predict, views=views), dataset.tasks_to_solve()
    predictor, ballot = Predictor(accelerator, dtype, weights, dataset, config), Ballot("weights")
    for candidates, _ in predictor.rounds(None, NO_LIMIT):
        count_votes(ballot, candidates, predictor.dataset)
    attempts = fill_submission(tasks, ballot.predictions(tasks)).submission
    return score_predictions({task_id: attempts[task_id] for task_id in solutions}, solutions)


def score_on_puzzles(
    weights: Weights, dataset: PuzzleDataset, answers: Mapping[str, str], accelerator: Accelerator, dtype: torch.dtype
) -> PuzzleScore:
    """Return what `weights` score on the tests of `dataset`, by `answers` (by question).

    Raises InputError where an answer is missing.
    """
    *_, found = predict_puzzles(accelerator, dtype, weights, dataset, weights.config.predict, NO_LIMIT)
    predictions = found.rows(dataset, answers)
    unknown = sum(prediction.answer is None for prediction in predictions)
    if unknown:
        raise InputError(f"{unknown} of the {len(predictions)} tests are not among the puzzles of the sources")
    return score_puzzles(predictions, {each.question: answers[each.question] for each in predictions})
