"""From candidates on disk to attempts: votes counted file by file, submission.json and, beside it, where it comes from."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from augment.task import Task
from eval.files import write_json
from eval.formatting import format_duration, show_path
from eval.vote import Ballot, pool_ballots
from pipeline.data.dataset import TaskDataset
from pipeline.inference.candidates import Candidates, clear_candidates, read_candidates
from pipeline.inference.predictor import Predictor
from pipeline.inference.vote_file import VOTES_FILE, describe_votes, read_votes
from pipeline.system.progress_bar import watch
from pipeline.system.time_limit import Budget
from submission.format import FilledSubmission, fill_submission, write_submission

logger = logging.getLogger(__name__)


def predict_and_vote(predictor: Predictor, out: Path, budget: Budget, tasks: Sequence[Task], resume: bool = False) -> Ballot:
    """Predict in rounds and put better attempts into `out`/submission.json after each; return the votes.

    A submission of an earlier prediction stays until as many views have been predicted as it rests on, or all. With `resume`,
    the complete rounds of an earlier start of the same prediction count, and are not repeated. All processes of a launch call
    this; only the main one counts votes and writes files. Raises OSError at the end when the last submission could not be
    written.
    """
    folder, path, ranking = out / "candidates", out / "submission.json", predictor.config.ranking
    ballot = Ballot(predictor.source)
    if not predictor.accelerator.is_main_process:
        for _ in predictor.rounds(folder, budget):
            pass
        return ballot
    unwritten: OSError | None = None
    earlier = _views_before(out / VOTES_FILE)
    if not resume:
        clear_candidates(folder)
    kept = predictor.keep_rounds(folder)
    for candidates, _ in kept:
        count_votes(ballot, candidates, predictor.dataset)
    last = kept[-1][1] if kept else None
    if last:
        logger.info("%d rounds of predictions, %d views of each test input, are there already and count", len(kept), last.views)
        if last.views >= earlier:
            write_attempts(path, ballot, tasks, ranking, predictor.given_dataset)
    for done in predictor.rounds(folder, budget, last):
        count_votes(ballot, done.found, predictor.dataset)
        stays = done.views < min(earlier, predictor.most_views)
        filled = fill_submission(tasks, ballot.predictions(tasks, ranking))
        if not stays:
            try:
                _put(path, filled, ballot, tasks, ranking, predictor.given_dataset)
                unwritten = None
            except OSError as error:  # the next round may find room again
                logger.error("the submission of before stays: %s", error)
                unwritten = error
        logger.info(
            "round %d: up to %d views of each test input%s, %d candidates in %s; %d test inputs without a prediction%s; %s",
            done.number, done.views, "" if done.complete else " (cut short)", len(done.found.test),
            format_duration(done.seconds), len(filled.without_prediction),
            "; the earlier submission rests on more views and stays" if stays else "",
            "no limit" if budget.limit_seconds is None else f"{format_duration(budget.remaining())} left",
        )  # fmt: skip
    if unwritten:
        raise unwritten
    return ballot


def _views_before(path: Path) -> int:
    """Return how many views the votes of an earlier prediction rest on; 0 where there are none."""
    try:
        votes = read_votes(path)
    except (ValueError, OSError):  # they are written anew
        return 0
    return votes.views_most if votes else 0


def count_votes(ballot: Ballot, candidates: Candidates, dataset: TaskDataset) -> None:
    """Add `candidates` to `ballot`, under the ids of the tasks of `dataset`."""
    names = [
        (dataset.task_ids[task], index)
        for task, index in zip(dataset.test_task.tolist(), dataset.test_index.tolist(), strict=True)
    ]
    for test in np.flatnonzero((candidates.test < 0) | (candidates.test >= len(names)))[:1].tolist():
        raise ValueError(f"candidates of test input {candidates.test[test]}, but the dataset has {len(names)}")
    places = [names[test] for test in candidates.test.tolist()]
    ballot.add(places, candidates.shape, candidates.cells, candidates.probability)


def tally(folders: Sequence[Path], dataset: TaskDataset) -> Ballot:
    """Return the votes of all candidates in `folders`: a ballot of one checkpoint, or one that says it is pooled.

    Raises FileNotFoundError for a folder without candidates, ValueError for candidates of other tests or damaged files.
    """
    ballots: dict[str, Ballot] = {}
    for folder in folders:
        paths = sorted(folder.glob("round-*.safetensors")) if folder.is_dir() else []
        if not paths:
            raise FileNotFoundError(f"{folder}: no candidates here (round-*.safetensors)")
        for path in watch(paths, f"counting the votes of {folder}", unit="rounds"):
            candidates, origin = read_candidates(path)
            if origin.tests_hash != dataset.tests_hash:
                raise ValueError(f"{path}: candidates for other tests than those of the dataset")
            name = f"{folder}: {origin.source}"
            try:
                count_votes(ballots.setdefault(name, Ballot(name)), candidates, dataset)
            except ValueError as error:
                raise ValueError(f"{show_path(path)}: {error}") from None
    return pool_ballots(list(ballots.values()))


def write_attempts(path: Path, ballot: Ballot, tasks: Sequence[Task], ranking: str, dataset: TaskDataset) -> FilledSubmission:
    """Put the attempts that `ballot` chooses at `path`, complete; `votes.json` beside it says where they come from.

    `dataset` is what was asked, as it lies on disk. Raises OSError where the submission cannot be written; without the votes it
    is as good.
    """
    filled = fill_submission(tasks, ballot.predictions(tasks, ranking))
    _put(path, filled, ballot, tasks, ranking, dataset)
    return filled


def _put(
    path: Path, filled: FilledSubmission, ballot: Ballot, tasks: Sequence[Task], ranking: str, dataset: TaskDataset
) -> None:
    write_submission(path, filled.submission, tasks)
    report = describe_votes(ballot, filled, tasks, ranking, path.read_bytes(), dataset)
    try:
        write_json(path.with_name(VOTES_FILE), report)
    except OSError as error:
        logger.warning("how the views voted is not kept: %s", error)
