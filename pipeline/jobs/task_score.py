"""The score of weights on ARC tasks: votes of some views, in memory."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from augment.task import Solutions
from eval.score import Score, score_predictions
from eval.vote import Ballot
from pipeline.data.dataset import TaskDataset
from pipeline.inference.candidates import count_votes
from pipeline.inference.predictor import Predictor
from pipeline.system.time_limit import Budget
from pipeline.weights.files import Weights
from submission.format import fill_submission


def score_weights(
    weights: Weights, dataset: TaskDataset, solutions: Solutions, views: int, accelerator: Accelerator, dtype: torch.dtype
) -> Score:
    """Return what `weights` score on the tasks of `solutions`, by votes of up to `views` views of each test input."""
    config, tasks = replace(weights.config.predict, views=views), dataset.tasks_to_solve()
    predictor, ballot = Predictor(accelerator, dtype, weights, dataset, config), Ballot("weights")
    with TemporaryDirectory() as folder:
        for candidates, _ in predictor.rounds(Path(folder), Budget(None, 0.0)):
            count_votes(ballot, candidates, predictor.dataset)
    attempts = fill_submission(tasks, ballot.predictions(tasks, config.ranking)).submission
    return score_predictions({task_id: attempts[task_id] for task_id in solutions}, solutions)
