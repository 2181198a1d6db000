"""votes.json: how the views of each test input voted, and what the attempts in the submission beside it rest on.

`pipeline.inference.voting` writes it with every submission that votes have chosen. Reading it needs no torch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from augment.task import Task, TaskId
from eval.decode import decode
from eval.files import read_object
from eval.formatting import show_path, show_value
from eval.provenance import HASH_DIGITS, Basis, audited_in, is_count
from eval.vote import Ballot
from pipeline.data.dataset import TaskDataset
from submission.format import FilledSubmission

VOTES_FILE = "votes.json"

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
        """Raise ValueError for numbers that no vote has."""
        if not is_count(self.candidates) or not is_count(self.distinct):
            raise ValueError(f"candidates and distinct must be counts, got {self.candidates} and {self.distinct}")
        if not all(is_count(votes) and 0 <= probability <= 1 for votes, probability in self.top):
            raise ValueError(f"top must hold votes and probabilities, got {show_value(self.top)}")


@dataclass(frozen=True)
class VoteFile(Basis):
    """What `votes.json` says."""

    ranking: str = ""
    submission: str = ""
    """SHA-256, in hex, of the submission that was chosen; empty where that is not known."""
    tests: Mapping[TaskId, tuple[InputVotes, ...]] = field(default_factory=dict)


def source_name(path: Path, step: int, data_hash: str) -> str:
    """Return what votes call the weights in the file `path`, with the dataset that they were trained on."""
    return f"{path.parent.name}/{path.name}, step {step}, trained on {data_hash[:HASH_DIGITS]}"


def describe_votes(
    ballot: Ballot, filled: FilledSubmission, tasks: Sequence[Task], ranking: str, submission: bytes, dataset: TaskDataset
) -> dict[str, Any]:
    """Return what `votes.json` says beside a `submission`, the bytes of its file; `dataset` is what was predicted."""
    tests = {}
    for task in tasks:
        votes = []
        for index in range(len(task.test)):
            best = ballot.top(task.id, index, TOP, ranking)
            top = tuple((candidate.count, round(candidate.mean_probability, 4)) for candidate in best)
            votes.append(InputVotes(top=top, **asdict(ballot.tally(task.id, index))))
        tests[task.id] = tuple(votes)
    basis = basis_of(ballot, tasks, dataset)
    return {
        **asdict(VoteFile(**vars(basis), ranking=ranking, submission=hashlib.sha256(submission).hexdigest(), tests=tests)),
        "empty_candidates": sum(each.empty for votes in tests.values() for each in votes),
        "without_prediction": filled.without_prediction,
        "with_one_prediction": filled.with_one_prediction,
    }


def basis_of(ballot: Ballot, tasks: Sequence[Task], dataset: TaskDataset) -> Basis:
    """Return what the attempts that `ballot` chooses rest on."""
    counts = [ballot.tally(task.id, index).candidates for task in tasks for index in range(len(task.test))]
    audit = audited_in(dataset.manifest.get("audit"))
    return Basis(ballot.sources, min(counts, default=0), max(counts, default=0), dataset.data_hash, audit)


def read_votes(path: Path) -> VoteFile | None:
    """Return what a `votes.json` says, None where there is none. Raises ValueError that names the file and what is wrong."""
    if not path.exists():
        return None
    return decode(VoteFile, read_object(path), show_path(path), ignore_unknown=True)
