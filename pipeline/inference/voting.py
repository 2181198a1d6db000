"""From candidates on disk to attempts: votes counted file by file, submission.json and, beside it, where it comes from."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from augment.task import Task
from eval.files import write_json
from eval.formatting import show_path
from eval.vote import Ballot, pool_ballots
from pipeline.data.dataset import TaskDataset
from pipeline.inference.candidates import Candidates, read_candidates
from pipeline.inference.vote_file import VOTES_FILE, describe_votes
from pipeline.system.progress_bar import watch
from submission.format import FilledSubmission, fill_submission, write_submission

logger = logging.getLogger(__name__)


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
    put_attempts(path, filled, ballot, tasks, ranking, dataset)
    return filled


def put_attempts(
    path: Path, filled: FilledSubmission, ballot: Ballot, tasks: Sequence[Task], ranking: str, dataset: TaskDataset
) -> None:
    """Write `filled` as `write_attempts` does."""
    write_submission(path, filled.submission, tasks)
    report = describe_votes(ballot, filled, tasks, ranking, path.read_bytes(), dataset)
    try:
        write_json(path.with_name(VOTES_FILE), report)
    except OSError as error:
        logger.warning("how the views voted is not kept: %s", error)
