"""The score of runs over their training time: predicts the tests with every checkpoint that a run kept."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from augment.errors import InputError
from augment.task import Solutions
from eval.curves import CurvePoint
from eval.files import read_object
from pipeline.data.dataset import PuzzleDataset, TaskDataset, load_dataset
from pipeline.device import dtype_here
from pipeline.jobs.weights_score import score_on_puzzles, score_on_tasks
from pipeline.weights.files import Weights, load_weights
from pipeline.weights.find import CHECKPOINTS, checkpoints


def measure_curves(
    runs: Sequence[Path], answers_of: Callable[[Path], Mapping[str, str]], solutions_of: Callable[[Path], Solutions],
    views: int, accelerator: Accelerator,
) -> Iterator[CurvePoint]:  # fmt: skip
    """Yield a point for every checkpoint of `runs`, each computed in the precision it was trained in, where that is fast here.

    Puzzles are scored by the answers (by question) of a run, ARC tasks by their solutions and the votes of up to `views` views.
    A folder NAME-0 is seed 0 of NAME. Raises InputError or FileNotFoundError for a folder that is no run, or whose tests have
    no answers here.
    """
    computed_in = cache(dtype_here)  # "auto" is measured
    for run in runs:
        dataset = load_dataset(run / "dataset")
        found = checkpoints(run / CHECKPOINTS)
        if not found:
            raise FileNotFoundError(f"{run}: no checkpoints (train.checkpoints_kept says how many a run keeps)")
        if isinstance(dataset, PuzzleDataset):
            rate: Callable[..., dict[str, float | None]] = partial(_rate_puzzles, run, dataset, answers_of(run))
        else:
            rate = partial(_rate_tasks, dataset, solutions_of(run), views)
        name = re.sub(r"-\d+$", "", run.name)
        for folder in found:
            weights = load_weights(folder)
            dtype = computed_in(weights.config.train.precision)
            seconds, processor_seconds = _training_time(folder / "training.json")
            rates: Any = rate(weights, accelerator, dtype)
            yield CurvePoint(name, str(run), weights.step, seconds, processor_seconds, **rates)


def _rate_puzzles(
    run: Path, dataset: PuzzleDataset, answers: Mapping[str, str], weights: Weights, accelerator: Accelerator,
    dtype: torch.dtype,
) -> dict[str, float | None]:  # fmt: skip
    try:
        score = score_on_puzzles(weights, dataset, answers, accelerator, dtype)
    except InputError as error:
        raise InputError(f"{run}: {error}") from None
    return {
        "exact": score.exact_accuracy,
        "cells": score.cell_accuracy,
        "halting": score.mean_halting_probability,
        "shortest_path": score.shortest_path_accuracy,
    }


def _rate_tasks(
    dataset: TaskDataset, solutions: Solutions, views: int, weights: Weights, accelerator: Accelerator, dtype: torch.dtype
) -> dict[str, float | None]:
    rates = score_on_tasks(weights, dataset, solutions, views, accelerator, dtype).mean_over_tasks
    return {"exact": rates.pass_at_2, "pass_at_1": rates.pass_at_1}


def _training_time(path: Path) -> tuple[float, float]:
    """Return the seconds that training took by the clock and, 0 where that is not known, of processor time."""
    try:
        state = read_object(path)
        progress, since = state["progress"], state["totals"]  # since the last line of metrics.jsonl
        spent = sum(float(part.get("processor_seconds", 0.0)) for part in (progress, since))
        return float(progress["seconds"]), spent
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; training leaves one beside a checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not what training leaves beside a checkpoint ({error})") from None
