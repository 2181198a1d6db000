"""A run on puzzles: what to solve, predictions.csv without predictions, the dataset, one prediction each, the score."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from augment.errors import InputError
from eval.files import write_json
from eval.provenance import PUZZLES
from eval.puzzle_score import PuzzlePrediction, format_puzzle_score, read_predictions, score_puzzles, write_predictions
from pipeline.config import BuildConfig, Leakage, PredictConfig
from pipeline.data.dataset import Dataset, PuzzleDataset
from pipeline.data.puzzles.build import build_puzzles
from pipeline.data.puzzles.kinds import PUZZLE_KINDS
from pipeline.data.puzzles.sources import Puzzles, answers_of, load_puzzles
from pipeline.data.sources import load_in_time
from pipeline.inference.facts import FACTS_FILE, SCORE_FILE, leave_predictions
from pipeline.jobs.provenance import provenance_beside, scored_answers
from pipeline.system.output import print_result
from pipeline.system.processors import usable_cores
from pipeline.system.time_limit import Budget

if TYPE_CHECKING:  # torch is slow to import, and the first predictions.csv does without it
    import torch
    from accelerate import Accelerator

    from pipeline.inference.puzzles import PuzzleAnswers
    from pipeline.weights.files import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PuzzleJob:
    """Puzzles to be solved into `predictions.csv`."""

    sources: tuple[str, ...]
    """Of the puzzles to solve."""
    test_limit: int | None
    """Solve so many puzzles of each source, the same whatever the seed of the run; None for all."""
    train_sources: tuple[str, ...]
    train_limit: int | None
    """Train on so many puzzles of each train source, drawn by the seed of the build; None for all."""
    leakage: Leakage
    out: Path

    def load(self, with_answers: bool) -> list[Puzzles]:
        """Return the puzzles to solve. Raises InputError when a file has answers to some of its puzzles only."""
        return [load_puzzles(spec, "test", with_answers, self.test_limit, jobs=usable_cores()) for spec in self.sources]

    def questions(self) -> list[str]:
        """Return the questions as they are published, in the order of the predictions."""
        return [text for puzzles in self.load(with_answers=False) for text in puzzles.question_texts()]

    def fallback(self) -> Callable[[Path, bool], None]:
        """Read the puzzles; return `leave_questions` for them."""
        questions = self.questions()
        logger.info("%d puzzles of %s", len(questions), " + ".join(self.sources))
        return partial(leave_questions, questions)

    def build(self, config: BuildConfig, seconds: float | None = None) -> PuzzleDataset:
        """Build the dataset, reading training puzzles for about `seconds`; the answers of the tests are not read."""
        if config.size_exponent or config.draw != "tasks":
            raise InputError("build.size_exponent and build.draw are for ARC tasks only: each puzzle is drawn as often")
        jobs = config.jobs or usable_cores()
        load = partial(load_puzzles, part="train", limit=self.train_limit, seed=config.seed, jobs=jobs)
        trained = load_in_time(self.train_sources, load, seconds)
        return build_puzzles(self.load(with_answers=False), trained, config.augmentations, config.seed, self.leakage)

    def describe(self, dataset: PuzzleDataset) -> str:
        """Return in a few words what the dataset holds."""
        count, views = len(dataset.questions), dataset.augmentations + 1
        return f"{count} training puzzles, {views} views of each, {len(dataset.test_questions)} tests"

    def check(self, dataset: Dataset, folder: Path) -> None:
        """Raise InputError if the dataset of a resumed run has other tests than the sources."""
        known = PUZZLE_KINDS[dataset.kind].to_texts(dataset.test_questions) if isinstance(dataset, PuzzleDataset) else None
        if known != self.questions():
            raise InputError(
                f"{folder}: a dataset for other puzzles than those of the sources; resume with the sources of the run"
            )

    def predict(
        self, accelerator: "Accelerator", dtype: "torch.dtype", weights: "Weights | None", dataset: PuzzleDataset,
        config: PredictConfig, budget: Budget, resume: bool,
    ) -> bool:  # fmt: skip
        """Predict every puzzle once, write the predictions and, if the answers are known, score them; return False.

        Every process predicts its share. All puzzles are predicted anew, `resume` or not; earlier predictions stay where they
        are more, or where there are no `weights`.
        """
        from pipeline.device import end_training  # noqa: PLC0415

        path = self.out / "predictions.csv"
        found = None if weights is None else predict_rounds(accelerator, dtype, weights, dataset, config, budget, path)
        end_training(accelerator)  # the others need not wait for the score
        if accelerator.is_main_process and (found is not None or not (self.out / SCORE_FILE).exists()):
            self._score(path, dataset, found)
        return False

    def _score(self, path: Path, dataset: PuzzleDataset, found: "PuzzleAnswers | None") -> None:
        """Score what was `found`, or else the predictions that an earlier start left."""
        answers, problem = dict[str, str](), ""
        try:
            answers = answers_of(self.load(with_answers=True))
        except (InputError, OSError) as error:
            problem = str(error)
        predictions = read_predictions(path) if found is None else found.rows(dataset, answers)
        if found is not None:
            leave_predictions(path, predictions, found.source, dataset)
        if problem:
            logger.warning("no score: the answers cannot be read: %s", problem)
            return
        if not answers or not any(each.prediction for each in predictions):
            logger.info("%s, so there is no score", "nothing was predicted" if answers else "the answers are not known here")
            return
        score = score_puzzles(predictions, answers)
        provenance = replace(provenance_beside(path, PUZZLES), scored=scored_answers(answers, self.sources))
        sources = {"sources": list(provenance.checkpoints or ()), "provenance": provenance.to_json()}
        write_json(self.out / SCORE_FILE, score.to_json() | sources)
        print_result(format_puzzle_score(score, " + ".join(self.sources), str(path), provenance))


def leave_questions(questions: Sequence[str], out: Path, resume: bool) -> None:
    """Write `predictions.csv` without predictions, or keep it with `resume`. Raises InputError if it is for other puzzles.

    Facts and score of predictions that are replaced are removed.
    """
    path, predictions = out / "predictions.csv", None
    try:
        predictions = read_predictions(path) if resume else None
    except FileNotFoundError:
        pass
    except InputError as error:
        logger.warning("%s; a file without predictions replaces it", error)
    if predictions is None:
        write_predictions(path, [PuzzlePrediction(question, None, None) for question in questions])
        for name in (FACTS_FILE, SCORE_FILE):
            (out / name).unlink(missing_ok=True)
    elif [prediction.question for prediction in predictions] != questions:
        raise InputError(f"{path}: predictions for other puzzles than those of the sources; resume with the sources of the run")


def predict_rounds(
    accelerator: "Accelerator", dtype: "torch.dtype", weights: "Weights", dataset: PuzzleDataset, config: PredictConfig,
    budget: Budget, path: Path,
) -> "PuzzleAnswers | None":  # fmt: skip
    """Predict in rounds that each improve the file `path`. Return the last; None where earlier predictions are more.

    Raises OSError where the last cannot be written.
    """
    from pipeline.inference.puzzles import predict_puzzles  # noqa: PLC0415

    found, predicted, earlier, unwritten = None, 0, 0, False
    with suppress(InputError, FileNotFoundError):  # damaged ones are replaced
        earlier = sum(each.prediction is not None for each in read_predictions(path))
    for found in predict_puzzles(accelerator, dtype, weights, dataset, config, budget):
        predicted = int(found.predicted.sum())
        if accelerator.is_main_process and predicted >= earlier:
            try:
                leave_predictions(path, found.rows(dataset, {}), found.source, dataset)
                unwritten = False
                each = found.segments / max(predicted, 1)
                logger.info("%s: %d of %d puzzles predicted, %.1f segments each", path, predicted, len(found.predicted), each)
            except OSError as error:  # the next round may find room again
                logger.error("the earlier predictions stay: %s", error)
                unwritten = True
    if found and unwritten:
        leave_predictions(path, found.rows(dataset, {}), found.source, dataset)
    if predicted < earlier:
        logger.warning("%s: time for %d puzzles; the earlier predictions, of %d, stay", path, predicted, earlier)
        return None
    return found
