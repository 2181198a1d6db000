"""The score of runs over their training time: predicts the tests with every checkpoint that a run kept."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from augment.task import Solutions
from eval.curves import CurvePoint
from eval.files import read_object
from eval.puzzle_score import score_puzzles
from pipeline.data.dataset import PuzzleDataset, TaskDataset, load_dataset
from pipeline.inference.puzzles import predict_puzzles
from pipeline.jobs.puzzles import to_predictions
from pipeline.jobs.task_score import score_weights
from pipeline.system.time_limit import Budget
from pipeline.weights.files import Weights, checkpoints, load_weights


def measure_curves(
    runs: Sequence[Path], answers_of: Callable[[Path], Mapping[str, str]], solutions_of: Callable[[Path], Solutions],
    views: int, accelerator: Accelerator, dtype: torch.dtype,
) -> Iterator[CurvePoint]:  # fmt: skip
    """Yield a point for every checkpoint of `runs`.

    Puzzles are scored by the answers (by question) of a run, ARC tasks by their solutions and the votes of up to `views` views.
    A folder NAME-0 is seed 0 of NAME. Raises ValueError or FileNotFoundError for a folder that is no run, or whose tests have
    no answers here.
    """
    for run in runs:
        dataset = load_dataset(run / "dataset")
        found = checkpoints(run / "checkpoints")
        if not found:
            raise FileNotFoundError(f"{run}: no checkpoints")
        if isinstance(dataset, PuzzleDataset):
            rate: Callable[..., dict[str, float | None]] = partial(_rate_puzzles, run, dataset, answers_of(run))
        else:
            rate = partial(_rate_tasks, dataset, solutions_of(run), views)
        name = re.sub(r"-\d+$", "", run.name)
        for folder in found:
            weights = load_weights(folder)
            seconds, processor_seconds = _training_time(folder / "training.json")
            rates: Any = rate(weights, accelerator, dtype)
            yield CurvePoint(name, str(run), weights.step, seconds, processor_seconds, **rates)


def _rate_puzzles(
    run: Path, dataset: PuzzleDataset, answers: Mapping[str, str], weights: Weights, accelerator: Accelerator,
    dtype: torch.dtype,
) -> dict[str, float | None]:  # fmt: skip
    *_, given = predict_puzzles(accelerator, dtype, weights, dataset, weights.config.predict, Budget(None, 0.0))
    predictions = to_predictions(dataset, given, answers)
    unknown = sum(prediction.answer is None for prediction in predictions)
    if unknown:
        raise ValueError(f"{run}: {unknown} of its {len(predictions)} tests are not among the puzzles of the sources")
    score = score_puzzles(predictions, {each.question: answers[each.question] for each in predictions})
    return {
        "exact": score.exact_accuracy,
        "cells": score.cell_accuracy,
        "halting": score.mean_halting_probability,
        "shortest_path": score.shortest_path_accuracy,
    }


def _rate_tasks(
    dataset: TaskDataset, solutions: Solutions, views: int, weights: Weights, accelerator: Accelerator, dtype: torch.dtype
) -> dict[str, float | None]:
    rates = score_weights(weights, dataset, solutions, views, accelerator, dtype).mean_over_tasks
    return {"exact": rates.pass_at_2, "pass_at_1": rates.pass_at_1}


def _training_time(path: Path) -> tuple[float, float]:
    """Return the seconds that training took by the clock and, 0 where that is not known, of processor time."""
    try:
        progress = read_object(path)["progress"]
        return float(progress["seconds"]), float(progress.get("processor_seconds", 0.0))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; training leaves one beside a checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not what training leaves beside a checkpoint ({error})") from None
