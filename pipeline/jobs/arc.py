"""A run on ARC tasks: what to solve, the fallback submission, the dataset, predictions in rounds, votes, the score."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from augment.errors import InputError
from augment.task import Task, same_tests
from eval.files import read_object, write_json
from eval.formatting import plural
from eval.provenance import NO_NETWORK, Basis, Provenance
from eval.score import format_score, score_predictions
from eval.vote import Ballot
from pipeline.config import BuildConfig, Leakage, PredictConfig
from pipeline.data.build import build
from pipeline.data.dataset import Dataset, TaskDataset
from pipeline.data.public_data import scored_outputs
from pipeline.data.sources import Selection, load_in_time, load_source
from pipeline.inference.facts import CANDIDATES, SCORE_FILE, VOTES_FILE, basis_of, reaches, views_to_reach, votes_of
from pipeline.jobs.networks import FurtherNetworks, voting_folders
from pipeline.jobs.run_record import record_if_usable
from pipeline.system.output import print_result
from pipeline.system.time_limit import Budget
from submission.format import check_submission, fallback_submission, read_submission, write_submission

if TYPE_CHECKING:  # torch is slow to import, and the first submission does without it
    import torch
    from accelerate import Accelerator

    from pipeline.weights.files import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArcJob:
    """Tasks to be solved into a submission."""

    sources: tuple[str, ...]
    """Of the tasks to solve, in the order of the submission."""
    selection: Selection
    train_sources: tuple[str, ...]
    """Further tasks to train on, test pairs with known outputs included."""
    leakage: Leakage
    out: Path
    networks: FurtherNetworks = field(default_factory=FurtherNetworks)
    """That are trained beside the one of this run, and vote too."""

    def select(self) -> tuple[list[Task], int]:
        """Return the tasks to solve, in order, and how many there are before the selection.

        Raises InputError when there are none, or two of one id.
        """
        whole, selected = self.selection.load(self.sources, with_solutions=False)
        tasks = [task for source in selected for task in source.tasks]
        seen: set[str] = set()
        for task in tasks:
            if task.id in seen:
                raise InputError(f"task {task.id!r} is in several of the sources to be solved; a submission has room for one")
            seen.add(task.id)
        if not tasks:
            count, chosen = sum(len(source.tasks) for source in whole), self.selection
            wanted = [f"sides up to {chosen.max_side} (--max-side)"] if chosen.max_side is not None else []
            wanted += ["three demonstrations (--hold-out)"] if chosen.hold_out else []
            none = f": none of {plural(count, 'task')} has {' and '.join(wanted)}" if count and wanted else ""
            raise InputError(f"there are no tasks to be solved in these sources{none}")
        return tasks, sum(len(source.tasks) + source.left_out for source in whole)

    def fallback(self) -> Callable[[Path, bool], None]:
        """Read the tasks; return `leave_submission` for them."""
        tasks, available = self.select()
        logger.info("%d of %d tasks of %s", len(tasks), available, " + ".join(self.sources))
        return partial(leave_submission, tasks)

    def build(self, config: BuildConfig, seconds: float | None = None) -> TaskDataset:
        """Build the dataset within about `seconds`; solutions are read only for the audit and are not in it."""
        train_sources = load_in_time(self.train_sources, partial(load_source, lenient=True), seconds)
        _, sources = self.selection.load(self.sources)
        return build(sources, train_sources, config, self.leakage, seconds)

    def describe(self, dataset: TaskDataset) -> str:
        """Return in a few words what the dataset holds."""
        counts = len(dataset.task_ids), len(dataset.pair_task), len(dataset.test_task), len(dataset.transforms)
        nouns = ("task", "training pair", "test", "view")
        return ", ".join(plural(count, noun) for count, noun in zip(counts, nouns, strict=True))

    def check(self, dataset: Dataset, folder: Path) -> None:
        """Raise InputError if the dataset of a resumed run has other tests than the sources."""
        if not (isinstance(dataset, TaskDataset) and _equal_tests(dataset.tasks_to_solve(), self.select()[0])):
            raise InputError(
                f"{folder}: a dataset for other tests than those of the sources; resume with the sources of the run"
            )

    def predict(
        self, accelerator: "Accelerator", dtype: "torch.dtype", weights: "Weights | None", dataset: TaskDataset,
        config: PredictConfig, budget: Budget, resume: bool,
    ) -> bool:  # fmt: skip
        """Predict in rounds, check the submission as Kaggle would, score it. Without `weights` it stays as it is.

        Return True if this network's predictions failed but further networks vote; without those the error is raised.
        """
        from pipeline.device import end_training  # noqa: PLC0415
        from pipeline.inference.predictor import Predictor, predict_and_vote  # noqa: PLC0415

        tasks, ballot, failed = self._in_order(dataset), Ballot(NO_NETWORK), False
        try:
            if weights is not None:
                predictor = Predictor(accelerator, dtype, weights, dataset, config)
                ballot = predict_and_vote(predictor, self.out, self.networks.leave_time(budget), tasks, resume)
        except (RuntimeError, MemoryError, OSError) as error:
            if not self.networks.processes:
                raise
            logger.error("predictions failed, the votes of further networks count: %s", error, exc_info=error)
            failed = True
        end_training(accelerator)
        if not accelerator.is_main_process:
            return failed
        ballot = self.pool(ballot, tasks, dataset, config, budget)
        path = self.out / "submission.json"
        check_submission(path, tasks)
        logger.info("%s: complete and valid, %d tasks", path, len(tasks))
        self._score(tasks, ballot, dataset)
        return failed

    def pool(
        self, ballot: Ballot, tasks: Sequence[Task], dataset: TaskDataset, config: PredictConfig, budget: Budget
    ) -> Ballot:
        """Return `ballot` with the votes of further networks, and put what they choose together into the submission.

        An earlier submission stays where `views_to_reach` says so.
        """
        if not self.networks.processes:
            return ballot
        from pipeline.inference.candidates import tally  # noqa: PLC0415
        from pipeline.inference.facts import write_attempts  # noqa: PLC0415

        voting = voting_folders(self.out, *self.networks.wait(budget))
        if set(voting) <= {self.out / CANDIDATES}:
            return ballot
        path = self.out / "submission.json"
        try:
            pooled = tally(voting, dataset)
            needed = views_to_reach(path, pooled.sources, config.round_views)
            available = {test: len(voting) * views for test, views in dataset.test_views(config.views).items()}
            stays = not reaches(pooled, needed, available)
            if not stays:
                write_attempts(path, pooled, tasks, dataset)
        except (InputError, OSError) as error:
            logger.error("the votes of further networks do not count: %s", error)
            return ballot
        words = "; the earlier submission rests on more views and stays" if stays else ""
        logger.info("votes of %d networks are pooled%s", len(voting), words)
        return pooled

    def _in_order(self, dataset: TaskDataset) -> list[Task]:
        """Return the tasks to solve, in the order of the submission that is there; the sources may have changed since then."""
        tasks = {task.id: task for task in dataset.tasks_to_solve()}
        with suppress(InputError, FileNotFoundError):
            submission = read_submission(self.out / "submission.json")
            tasks = {name: tasks[name] for name in submission if name in tasks} | tasks
        return list(tasks.values())

    def _score(self, tasks: Sequence[Task], ballot: Ballot, dataset: TaskDataset) -> None:
        """Score the submission where the sources have the outputs of its tests, and still have these tests."""
        try:
            whole, selected = self.selection.load(self.sources)
        except (InputError, OSError) as error:
            logger.warning("no score: the sources cannot be read any more: %s", error)
            return
        if not _equal_tests(tasks, [task for source in selected for task in source.tasks]):
            logger.warning("no score: the sources have other tests than when the run began")
            return
        solutions = {task_id: grids for source in selected for task_id, grids in source.solutions.items()}
        if not solutions:
            logger.info("the test outputs are not known here, so there is no score")
            return
        submission = read_submission(self.out / "submission.json")
        score = score_predictions({task.id: submission[task.id] for task in tasks if task.id in solutions}, solutions)
        basis, stayed = self._basis(basis_of(ballot, tasks, dataset))
        record, scored = record_if_usable(self.out), scored_outputs(solutions, whole)
        provenance = Provenance("it is not recorded", basis, record.weights if record else "", scored=scored)
        ranks = {
            task.id: [ballot.rank(task.id, index, grid) for index, grid in enumerate(solutions[task.id])]
            for task in tasks
            if task.id in solutions and not stayed
        }
        origin = {"truth_ranks": ranks, "provenance": provenance.to_json()}
        print_result(format_score(score, " + ".join(self.sources), provenance))
        if stayed:
            logger.warning(
                "the earlier submission stays, with its score: it rests on %d views, this prediction on fewer", basis.views_most
            )
        path, found = self.out / SCORE_FILE, score.to_json()
        if not (stayed and path.exists() and read_object(path).get("rules") == found["rules"]):  # else it has its ranks
            write_json(path, found | origin)

    def _basis(self, voted: Basis) -> tuple[Basis, bool]:
        """Return what the submission rests on, and whether it is not the one that was `voted` for now, but of more views."""
        with suppress(InputError):  # votes.json is damaged: of the submission that was just written
            found = votes_of(self.out / "submission.json")
            if found and any(getattr(found, name) != getattr(voted, name) for name in ("sources", "views_least", "views_most")):
                return found, True
        return voted, False


def _equal_tests(first: Sequence[Task], second: Sequence[Task]) -> bool:
    """Return whether two lists have tasks of the same ids with the same tests, in whatever order."""
    others = {task.id: task for task in second}
    return {task.id for task in first} == others.keys() and all(same_tests(task, others[task.id]) for task in first)


def leave_submission(tasks: Sequence[Task], out: Path, resume: bool) -> None:
    """Write a submission of fallbacks to `out`, or keep it with `resume`. Raises InputError if it is for other tasks.

    Votes and score of a submission that is replaced are removed.
    """
    path, submission = out / "submission.json", None
    try:
        submission = read_submission(path) if resume else None
    except FileNotFoundError:
        pass
    except InputError as error:
        logger.warning("%s; fallbacks replace it", error)
    if submission is None:
        write_submission(path, fallback_submission(tasks), tasks)
        for name in (VOTES_FILE, SCORE_FILE):
            (out / name).unlink(missing_ok=True)
    elif {name: len(tests) for name, tests in submission.items()} != {task.id: len(task.test) for task in tasks}:
        raise InputError(f"{path}: a submission for other tasks than those of the sources; resume with the sources of the run")
