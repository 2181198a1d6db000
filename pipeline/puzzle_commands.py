"""What the commands do for puzzles, where it differs from what they do for ARC tasks."""
# ruff: noqa: PLC0415

import argparse
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from augment.outside import show_path
from eval.provenance import provenance_json, provenance_rows
from eval.puzzles import PuzzlePrediction, format_puzzle_score, read_predictions, score_puzzles, write_predictions
from pipeline.budget import Budget
from pipeline.data.puzzlekind import PUZZLE_KINDS
from pipeline.data.puzzles import load_puzzles
from pipeline.data.puzzlestore import PuzzleStore, build_puzzles
from pipeline.puzzlefacts import leave_predictions, provenance_of_puzzles, scored_answers
from pipeline.results import write_result
from submission.duration import format_duration

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from pipeline.checkpoint import Weights
    from pipeline.config import Config


def build_puzzle_dataset(arguments: argparse.Namespace) -> str:
    """Build and save the dataset; return in a few words what it holds."""
    seed, jobs = arguments.seed, arguments.jobs or os.cpu_count() or 1
    tests = [load_puzzles(spec, "test", False, arguments.test_limit, jobs=jobs) for spec in arguments.source]
    trained = [load_puzzles(spec, "train", True, arguments.limit, seed, jobs) for spec in arguments.train_source]
    store = build_puzzles(tests, trained, arguments.augmentations, seed, arguments.leakage or "refuse")
    store.save(arguments.out)
    return (
        f"{len(store.questions)} training puzzles, {store.augmentations + 1} views of each, {len(store.test_questions)} tests"
    )


def predict_test_puzzles(
    arguments: argparse.Namespace,
    accelerator: "Accelerator",
    dtype: "torch.dtype",
    weights: "Weights",
    store: PuzzleStore,
    config: "Config",
    budget: Budget,
) -> None:
    """Predict the tests of `store` into predictions.csv, which has every question from the start."""
    from pipeline.engine import end_training
    from pipeline.predict_puzzles import predict_puzzles
    from pipeline.puzzle_job import to_predictions

    if arguments.views is not None:
        raise ValueError("--views is for ARC tasks alone: puzzles are asked once, as they are")
    path = arguments.out / "predictions.csv"
    if accelerator.is_main_process:
        arguments.out.mkdir(parents=True, exist_ok=True)
        questions = PUZZLE_KINDS[store.kind].to_texts(store.test_questions)
        write_predictions(path, [PuzzlePrediction(question, None, None) for question in questions])
    for found in predict_puzzles(accelerator, dtype, weights, store, config.predict, budget):
        if accelerator.is_main_process:
            leave_predictions(path, to_predictions(store, found, {}), found.source, store)
    if accelerator.is_main_process and len(store.test_questions):
        print(f"{path}: {int(found.asked.sum())} of {len(found.asked)} puzzles predicted by {found.source}")
    end_training(accelerator)


def score_puzzle_file(arguments: argparse.Namespace) -> int:
    """Score a predictions.csv."""
    path, answers = arguments.submission, _answers(arguments.source, arguments.test_limit)
    score = score_puzzles(read_predictions(path), answers)
    scored, provenance = scored_answers(answers, arguments.source), provenance_of_puzzles(path)
    if arguments.json:
        write_result(arguments.json, score.to_json() | {"provenance": provenance_json(scored, provenance)})
    print(format_puzzle_score(score, " + ".join(arguments.source), show_path(path), provenance_rows(scored, provenance)))
    return 0


def curve(arguments: argparse.Namespace, _: float) -> int:
    """Score every checkpoint of runs on puzzles, tell, store and draw what comes out."""
    from eval.curves import draw_curves
    from pipeline.checkpoint import load_weights
    from pipeline.curve import measure_curves
    from pipeline.engine import make_accelerator

    for path in (arguments.json, arguments.png):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    accelerator, dtype = make_accelerator(load_weights(arguments.runs[0]).config.train.precision)  # as the run predicted
    points = []
    for point in measure_curves(arguments.runs, _answers(arguments.source), accelerator, dtype):
        minutes = format_duration(point.seconds)
        print(f"{point.run}: step {point.step}, {minutes}: {point.exact:.1%} exact, {point.cells:.1%} of cells", flush=True)
        points.append(point)
    if arguments.json:
        write_result(arguments.json, points)
    if arguments.png:
        draw_curves(points, arguments.png)
    return 0


def _answers(specs: Iterable[str], limit: int | None = None) -> dict[str, str]:
    """Return the answers of puzzles (`limit` of each source) by their questions. Raises ValueError where they are not known."""
    answers: dict[str, str] = {}
    for spec in specs:
        puzzles = load_puzzles(spec, "test", limit=limit)
        texts = puzzles.answer_texts()
        if texts is None:
            raise ValueError(f"{spec}: has no answers, so there is nothing to score by")
        answers |= dict(zip(puzzles.question_texts(), texts, strict=True))
    return answers
