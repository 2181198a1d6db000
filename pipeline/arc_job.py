"""What a run does with ARC tasks: dataset, predictions in rounds, votes, submission.json, score."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from augment.grid import Grid, grid_key
from augment.task import Task, TaskId
from eval.provenance import provenance_json, provenance_rows
from eval.score import format_score, score_predictions
from eval.vote import Ballot
from pipeline.budget import Budget
from pipeline.checkpoint import Weights
from pipeline.config import Config
from pipeline.data.build import Leakage, build
from pipeline.data.intime import load_in_time
from pipeline.data.sources import load_source
from pipeline.data.store import Store
from pipeline.data.versions import scored_outputs
from pipeline.engine import end_training, prediction_devices
from pipeline.opening import Challenge
from pipeline.predict import Predictor
from pipeline.record import record_if_usable
from pipeline.tensorfiles import write_json
from pipeline.votefile import audited_of, provenance_of
from pipeline.votes import predict_and_vote
from submission.format import check_submission, read_submission

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArcJob:
    """Tasks to be solved into a submission."""

    challenge: Challenge
    train_sources: tuple[str, ...]
    """Further tasks, of which everything that is known is trained on."""
    leakage: Leakage
    out: Path
    workers: int | None = None
    """Processes that predict; None for one on each GPU where there are several, 0 for none but this one."""

    def build(self, config: Config, seconds: float | None) -> Store:
        """Build the dataset; the solutions are read for the audit alone and are not in it."""
        train_sources = load_in_time(self.train_sources, load_source, seconds)
        store = build(self.challenge.load(with_solutions=True), train_sources, config.build, self.leakage, seconds)
        logger.info("%d training pairs, %d views of %d tasks", len(store.pair_task), len(store.transforms), len(store.task_ids))
        return store

    def check(self, store: Store, folder: Path) -> None:
        """Raise ValueError when a resumed run has a dataset for other tests than those it is asked to solve."""
        if _tests(store.tasks_to_solve()) != _tests(self.challenge.tasks()):
            raise ValueError(
                f"{folder}: a dataset for other tests than those of the sources; resume with the sources of the run"
            )

    def views(self, config: Config) -> int:
        """Return how often a test input is asked at most."""
        return config.predict.views

    def starts_workers(self, accelerator: Accelerator) -> bool:
        """Return whether workers have to be started before anything is predicted."""
        return bool(prediction_devices(accelerator, self.workers))

    def predict(
        self,
        accelerator: Accelerator,
        dtype: torch.dtype,
        weights: Weights | None,
        store: Store,
        config: Config,
        budget: Budget,
        resume: bool,
    ) -> None:
        """Predict in rounds, improve the submission after each, then check it as Kaggle would and score it where that can be.

        The main process leads, with workers of its own; all others are done. Without `weights` the submission stays as it is.
        """
        devices = prediction_devices(accelerator, self.workers)
        accelerator.wait_for_everyone()
        end_training(accelerator)
        if not accelerator.is_main_process:
            return
        tasks = self.challenge.tasks()
        ballot = Ballot("none")
        if weights is not None:
            with Predictor(accelerator.device, dtype, weights, store, config.predict, devices) as predictor:
                ballot = predict_and_vote(predictor, self.out, budget, tasks, resume)
        path = self.out / "submission.json"
        check_submission(path, tasks)
        logger.info("%s: complete and valid, %d tasks", path, len(tasks))
        self._score(tasks, ballot, config.predict.ranking, store)

    def _score(self, tasks: Sequence[Task], ballot: Ballot, ranking: str, store: Store) -> None:
        solutions: dict[TaskId, tuple[Grid, ...]] = {}
        whole = [load_source(spec) for spec in self.challenge.sources]
        for source in map(self.challenge.selection.apply, whole):
            solutions |= source.solutions
        if not solutions:
            logger.info("the test outputs are not known here, so there is no score")
            return
        submission = read_submission(self.out / "submission.json")
        score = score_predictions({task.id: submission[task.id] for task in tasks if task.id in solutions}, solutions)
        counts = [ballot.tally(task.id, i).candidates for task in tasks for i in range(len(task.test))]
        views = min(counts, default=0), max(counts, default=0)
        record, audited = record_if_usable(self.out), audited_of(store.manifest)
        provenance = provenance_of(ballot.sources, views, store.data_hash, audited, record)
        scored = scored_outputs(solutions, whole, self.challenge.selection)
        ranks = {
            task.id: [ballot.rank(task.id, index, grid, ranking) for index, grid in enumerate(solutions[task.id])]
            for task in tasks
            if task.id in solutions
        }
        origin = {"truth_ranks": ranks, "provenance": provenance_json(scored, provenance)}
        print(format_score(score, " + ".join(self.challenge.sources), provenance_rows(scored, provenance)))
        write_json(self.out / "score.json", score.to_json() | origin)


def _tests(tasks: Sequence[Task]) -> dict[TaskId, list[bytes]]:
    return {task.id: [grid_key(grid) for grid in task.test] for task in tasks}
