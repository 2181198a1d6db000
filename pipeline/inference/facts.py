"""Results with the facts that they rest on: submission.json and votes.json, predictions.csv and predictions.json."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from augment.errors import InputError
from augment.task import Task, TaskId, TestId
from eval.decode import read_dataclass
from eval.files import read_file, write_json
from eval.formatting import show_path, show_value
from eval.provenance import HASH_DIGITS, Basis, NetworkName, audited_in, is_count
from eval.puzzle_score import PuzzlePrediction, write_predictions
from eval.vote import Ballot
from pipeline.data.dataset import PuzzleDataset, TaskDataset
from submission.format import FilledSubmission, fill_submission, write_submission

logger = logging.getLogger(__name__)

VOTES_FILE, FACTS_FILE, SCORE_FILE = "votes.json", "predictions.json", "score.json"
CANDIDATES = "candidates"
"""The folder of the candidates of a run, a file for each round of predictions."""
TOP = 5
"""Grids of a test input whose votes are kept; the first two are its attempts."""


@dataclass(frozen=True)
class InputVotes:
    """How the views of one test input voted."""

    candidates: int
    """Views that were predicted."""
    distinct: int
    """Different grids among the predictions."""
    top: tuple[tuple[int, float], ...]
    """Votes and mean halting probability of the best grids."""
    empty: int = 0
    """Predictions that hold no grid."""

    def __post_init__(self) -> None:
        if not is_count(self.candidates) or not is_count(self.distinct):
            raise InputError(f"candidates and distinct must be counts, got {self.candidates} and {self.distinct}")
        if not all(is_count(votes) and 0 <= probability <= 1 for votes, probability in self.top):
            raise InputError(f"top must hold votes and probabilities, got {show_value(self.top)}")


@dataclass(frozen=True)
class VoteFile(Basis):
    """What `votes.json` says."""

    submission: str = ""
    """SHA-256, in hex, of the submission that was chosen; votes that do not say it are of none."""
    tests: Mapping[TaskId, tuple[InputVotes, ...]] = field(default_factory=dict)


def round_file(number: int) -> str:
    """Return the name of the file of the candidates of a round."""
    return f"round-{number:04d}.safetensors"


def round_files(candidates: Path) -> list[Path]:
    """Return the files of the rounds in a folder of candidates, in order; none where there is no folder."""
    return sorted(candidates.glob("round-*.safetensors"))


def votes_of(submission: Path) -> VoteFile | None:
    """Return the votes.json beside `submission`; None where there is none, or one of another submission. Raises InputError."""
    votes = read_dataclass(VoteFile, submission.with_name(VOTES_FILE))
    return votes if votes and votes.submission == digest_of(read_file(submission)) else None


def views_to_reach(submission: Path, sources: Sequence[str], enough: int) -> dict[TestId, int]:
    """Return how many views of each test input a prediction by `sources` needs to replace the submission of an earlier one.

    The number that the earlier one rests on, but at most `enough` where its networks had fewer steps. Empty where there is
    none, or it is not known what it rests on.
    """
    votes = None
    with suppress(InputError, OSError):  # damaged votes are written anew
        votes = votes_of(submission)
    if votes is None:
        return {}
    earlier, now = (max((NetworkName.parse(name).step or 0 for name in names), default=0) for names in (votes.sources, sources))
    views = {(task, index): each.candidates for task, tests in votes.tests.items() for index, each in enumerate(tests)}
    return {test: min(count, enough) if now > earlier else count for test, count in views.items()}


def reaches(ballot: Ballot, needed: Mapping[TestId, int], available: Mapping[TestId, int]) -> bool:
    """Return whether `ballot` has as many candidates of each test input as are `needed`, or as are `available` at all."""
    return all(ballot.tally(*test).candidates >= min(count, available[test]) for test, count in needed.items())


def digest_of(result: bytes) -> str:
    """Return the SHA-256, in hex, by which facts say which result they are of."""
    return hashlib.sha256(result).hexdigest()


def source_name(path: Path, step: int, data_hash: str) -> str:
    """Return what votes call the weights in the file `path`, with the dataset that they were trained on, if they were."""
    return str(NetworkName(show_path(f"{path.parent.name}/{path.name}"), step, data_hash[:HASH_DIGITS] if step else ""))


def write_attempts(path: Path, ballot: Ballot, tasks: Sequence[Task], dataset: TaskDataset) -> FilledSubmission:
    """Write the attempts that `ballot` chooses to `path`, as a complete submission, and votes.json beside it.

    `dataset` is what was predicted, as it is on disk. The score of an earlier submission is removed. Raises OSError where the
    submission cannot be written; without the votes it is as good.
    """
    filled, basis = fill_submission(tasks, ballot.predictions(tasks)), basis_of(ballot, tasks, dataset)
    write_submission(path, filled.submission, tasks)
    path.with_name(SCORE_FILE).unlink(missing_ok=True)
    tests = {}
    for task in tasks:
        votes = []
        for index in range(len(task.test)):
            best = ballot.top(task.id, index, TOP)
            top = tuple((candidate.count, round(candidate.mean_probability, 4)) for candidate in best)
            votes.append(InputVotes(top=top, **asdict(ballot.tally(task.id, index))))
        tests[task.id] = tuple(votes)
    digest = digest_of(path.read_bytes())
    facts = {
        **_stored(VoteFile(**vars(basis), submission=digest, tests=tests)),
        "empty_candidates": sum(each.empty for votes in tests.values() for each in votes),
        "without_prediction": filled.without_prediction,
        "with_one_prediction": filled.with_one_prediction,
    }
    try:
        write_json(path.with_name(VOTES_FILE), facts)
    except OSError as error:
        logger.warning("how the views voted is not kept: %s", error)
    return filled


def _stored(basis: Basis) -> dict[str, Any]:
    """Return `basis` as it is stored: judges and generators are in it where there were any."""
    values = asdict(basis)
    if basis.judging is None:
        del values["judging"]
    if basis.audit and not basis.audit.generators:
        del values["audit"]["generators"]
    return values


def basis_of(ballot: Ballot, tasks: Sequence[Task], dataset: TaskDataset) -> Basis:
    """Return what the attempts that `ballot` chooses rest on."""
    counts = [ballot.tally(task.id, index).candidates for task in tasks for index in range(len(task.test))]
    audit = audited_in(dataset.manifest.get("audit"))
    return Basis(ballot.sources, min(counts, default=0), max(counts, default=0), dataset.data_hash, audit, ballot.judging)


def leave_predictions(path: Path, predictions: Sequence[PuzzlePrediction], source: str, dataset: PuzzleDataset) -> None:
    """Write what `source` predicted for the tests of `dataset` to the CSV file `path`, and predictions.json beside it.

    The score of earlier predictions is removed. Raises OSError where the predictions cannot be written; without the facts, what
    they rest on is unknown.
    """
    write_predictions(path, predictions)
    path.with_name(SCORE_FILE).unlink(missing_ok=True)
    predicted = [each.prediction is not None for each in predictions]
    audit, totals = dataset.manifest.get("audit"), dataset.manifest.get("totals")
    audited = None
    if isinstance(audit, dict) and isinstance(totals, dict):  # the audit compares questions, and all of them are known
        audited = audited_in({**audit, "tests_checked": totals.get("tests"), "tests_unchecked": 0})
    basis = Basis((source,), int(all(predicted)), int(any(predicted)), dataset.data_hash, audited)
    facts = {"predictions": digest_of(path.read_bytes()), **_stored(basis)}
    try:
        write_json(path.with_name(FACTS_FILE), facts)
    except OSError as error:
        logger.warning("what the predictions rest on is not kept: %s", error)
