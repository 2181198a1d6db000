"""Accuracy on puzzles over the training time of a run: predicts the tests with every checkpoint."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from eval.curves import CurvePoint
from eval.files import read_object
from eval.puzzle_score import score_puzzles
from pipeline.data.dataset import PuzzleDataset, load_dataset
from pipeline.inference.puzzles import predict_puzzles
from pipeline.jobs.puzzles import to_predictions
from pipeline.system.time_limit import Budget
from pipeline.weights.files import checkpoints, load_weights


def measure_curves(
    runs: Sequence[Path], answers: Mapping[str, str], accelerator: Accelerator, dtype: torch.dtype
) -> Iterator[CurvePoint]:
    """Yield a point for every checkpoint of `runs`, scored by `answers` (by question).

    A folder NAME-0 is seed 0 of NAME. Raises ValueError or FileNotFoundError for a folder that is no run on puzzles, or whose
    tests have no answers here.
    """
    for run in runs:
        dataset = load_dataset(run / "dataset")
        if not isinstance(dataset, PuzzleDataset):
            raise ValueError(f"{run}: a run on ARC tasks; the score of those is that of its submission")
        found = checkpoints(run / "checkpoints")
        if not found:
            raise FileNotFoundError(f"{run}: no checkpoints")
        name = re.sub(r"-\d+$", "", run.name)
        for folder in found:
            weights = load_weights(folder)
            seconds = _training_seconds(folder / "training.json")
            predict = weights.config.predict
            *_, given = predict_puzzles(accelerator, dtype, weights, dataset, predict, Budget(None, 0.0))
            predictions = to_predictions(dataset, given, answers)
            unknown = sum(prediction.answer is None for prediction in predictions)
            if unknown:
                raise ValueError(f"{run}: {unknown} of its {len(predictions)} tests are not among the puzzles of the sources")
            score = score_puzzles(predictions, {each.question: answers[each.question] for each in predictions})
            rates = (score.exact_accuracy, score.cell_accuracy, score.mean_halting_probability, score.shortest_path_accuracy)
            yield CurvePoint(name, str(run), weights.step, seconds, *rates)


def _training_seconds(path: Path) -> float:
    try:
        return float(read_object(path)["progress"]["seconds"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; training leaves one beside a checkpoint") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not what training leaves beside a checkpoint ({error})") from None
