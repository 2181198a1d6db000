"""What a run does with puzzles: dataset, one prediction each, predictions.csv, score."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from eval.provenance import provenance_json, provenance_rows
from eval.puzzles import PuzzlePrediction, format_puzzle_score, read_predictions, score_puzzles
from pipeline.budget import Budget
from pipeline.checkpoint import Weights
from pipeline.config import Config
from pipeline.data.build import Leakage
from pipeline.data.intime import load_in_time
from pipeline.data.puzzlekind import PUZZLE_KINDS
from pipeline.data.puzzles import load_puzzles
from pipeline.data.puzzlestore import PuzzleStore, build_puzzles
from pipeline.engine import end_training
from pipeline.opening import PuzzleChallenge
from pipeline.predict_puzzles import PuzzleAnswers, predict_puzzles
from pipeline.puzzlefacts import leave_predictions, provenance_of_puzzles, scored_answers
from pipeline.tensorfiles import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PuzzleJob:
    """Puzzles to be solved into `predictions.csv`."""

    challenge: PuzzleChallenge
    train_sources: tuple[str, ...]
    leakage: Leakage
    out: Path
    limit: int | None = None
    """Train on so many puzzles of each train source, drawn by the seed of the build; None for all."""

    def build(self, config: Config, seconds: float | None) -> PuzzleStore:
        """Build the dataset; the answers of the puzzles to be solved are not read."""
        settings = config.build
        load = partial(load_puzzles, part="train", limit=self.limit, seed=settings.seed, jobs=os.cpu_count() or 1)
        trained = load_in_time(self.train_sources, load, seconds)
        tests = self.challenge.load(with_answers=False)
        store = build_puzzles(tests, trained, settings.augmentations, settings.seed, self.leakage)
        count, views = len(store.questions), store.augmentations
        logger.info("%d training puzzles, %d views of each, %d tests", count, views + 1, len(store.test_questions))
        return store

    def check(self, store: PuzzleStore, folder: Path) -> None:
        """Raise ValueError when a resumed run has a dataset for other puzzles than those it is asked to solve."""
        asked = [text for puzzles in self.challenge.load(with_answers=False) for text in puzzles.question_texts()]
        if PUZZLE_KINDS[store.kind].to_texts(store.test_questions) != asked:
            raise ValueError(
                f"{folder}: a dataset for other puzzles than those of the sources; resume with the sources of the run"
            )

    def views(self, _: Config) -> int:
        """Return how often a puzzle is asked: once, as it is."""
        return 1

    def starts_workers(self, _: Accelerator) -> bool:
        """Return False: every process predicts its share."""
        return False

    def predict(
        self,
        accelerator: Accelerator,
        dtype: torch.dtype,
        weights: Weights | None,
        store: PuzzleStore,
        config: Config,
        budget: Budget,
        resume: bool,
    ) -> None:
        """Predict every puzzle once, write the predictions and, where the answers are known, score them.

        Every process takes its share; all begin anew, `resume` or not. Without `weights` the predictions stay as they are, and
        those of an earlier part of the run where they are more.
        """
        if weights is not None:
            self._predict(accelerator, dtype, weights, store, config, budget)
        accelerator.wait_for_everyone()
        end_training(accelerator)

    def _predict(
        self, accelerator: Accelerator, dtype: torch.dtype, weights: Weights, store: PuzzleStore, config: Config, budget: Budget
    ) -> None:
        path = self.out / "predictions.csv"
        earlier = _count_predicted(path)
        for found in predict_puzzles(accelerator, dtype, weights, store, config.predict, budget):
            asked = int(found.asked.sum())
            if accelerator.is_main_process and asked >= earlier:
                try:
                    leave_predictions(path, to_predictions(store, found, {}), found.source, store)
                    logger.info("%s: %d of %d puzzles predicted", path, asked, len(found.asked))
                except OSError as error:  # the next round may find room again; the last one has to
                    logger.error("the predictions of before stay: %s", error)
        if not accelerator.is_main_process:
            return
        if asked < earlier:
            logger.warning("%s: time for %d puzzles; the earlier predictions, of %d, stay", path, asked, earlier)
            return
        answers: dict[str, str] = {}
        for puzzles in self.challenge.load(with_answers=True):
            answers |= dict(zip(puzzles.question_texts(), puzzles.answer_texts() or [], strict=False))
        predictions = to_predictions(store, found, answers)
        leave_predictions(path, predictions, found.source, store)
        if not answers:
            logger.info("the answers are not known here, so there is no score")
            return
        score = score_puzzles(predictions, answers)
        scored, provenance = scored_answers(answers, self.challenge.sources), provenance_of_puzzles(path)
        told = {"sources": [found.source], "provenance": provenance_json(scored, provenance)}
        write_json(self.out / "score.json", score.to_json() | told)
        rows = provenance_rows(scored, provenance)
        print(format_puzzle_score(score, " + ".join(self.challenge.sources), str(path), rows))


def _count_predicted(path: Path) -> int:
    """Return how many puzzles the predictions of an earlier part of the run have; 0 where they are damaged."""
    try:
        return sum(each.prediction is not None for each in read_predictions(path))
    except (ValueError, FileNotFoundError):
        return 0


def to_predictions(store: PuzzleStore, found: PuzzleAnswers, answers: Mapping[str, str]) -> list[PuzzlePrediction]:
    """Return a row for each test of `store`, with its answer where `answers` (by question) has it."""
    kind = PUZZLE_KINDS[store.kind]
    rows = zip(
        kind.to_texts(store.test_questions),
        kind.to_texts(found.tokens),
        found.halting.tolist(),
        found.asked.tolist(),
        strict=True,
    )
    return [
        PuzzlePrediction(question, text if asked else None, probability if asked else None, answers.get(question))
        for question, text, probability, asked in rows
    ]
