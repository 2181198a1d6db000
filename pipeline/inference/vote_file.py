"""votes.json: how the views of each test input voted, and what the attempts in the submission beside it rest on.

`pipeline.inference.voting` writes it with every submission that votes have chosen. Reading it needs no torch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from augment.task import Task, TaskId
from eval.files import read_object
from eval.formatting import show_name, show_path, show_value
from eval.provenance import HASH_DIGITS, Basis, audited_in, is_count
from eval.vote import Ballot
from pipeline.data.store import Store
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


@dataclass(frozen=True)
class VoteFile:
    """What `votes.json` says."""

    basis: Basis
    ranking: str
    submission: str
    """SHA-256, in hex, of the submission that was chosen; empty where that is not known."""
    tests: Mapping[TaskId, tuple[InputVotes, ...]]


def source_name(path: Path, step: int, data_hash: str) -> str:
    """Return what votes call the weights in the file `path`, with the dataset that they were trained on."""
    return f"{path.parent.name}/{path.name}, step {step}, trained on {data_hash[:HASH_DIGITS]}"


def describe_votes(
    ballot: Ballot, filled: FilledSubmission, tasks: Sequence[Task], ranking: str, submission: bytes, dataset: Store
) -> dict[str, Any]:
    """Return what `votes.json` says beside a `submission`, the bytes of its file; `dataset` is what was predicted."""
    tests: dict[TaskId, list[dict[str, Any]]] = {}
    for task in tasks:
        for index in range(len(task.test)):
            counted = ballot.tally(task.id, index)
            best = ballot.top(task.id, index, TOP, ranking)
            top = [[candidate.count, round(candidate.mean_probability, 4)] for candidate in best]
            tests.setdefault(task.id, []).append({**asdict(counted), "top": top})
    return {
        **basis_of(ballot, tasks, dataset).to_json(),
        "ranking": ranking,
        "submission": hashlib.sha256(submission).hexdigest(),
        "empty_candidates": sum(votes["empty"] for entries in tests.values() for votes in entries),
        "without_prediction": [list(place) for place in filled.without_prediction],
        "with_one_prediction": [list(place) for place in filled.with_one_prediction],
        "tests": tests,
    }


def basis_of(ballot: Ballot, tasks: Sequence[Task], dataset: Store) -> Basis:
    """Return what the attempts that `ballot` chooses rest on."""
    counts = [ballot.tally(task.id, index).candidates for task in tasks for index in range(len(task.test))]
    audit = audited_in(dataset.manifest.get("audit"))
    return Basis(ballot.sources, min(counts, default=0), max(counts, default=0), dataset.data_hash, audit)


def read_votes(path: Path) -> VoteFile | None:
    """Return what a `votes.json` says, None where there is none. Raises ValueError that names the file and what is wrong."""
    if not path.exists():
        return None
    values, where = read_object(path), show_path(path)
    tests = values.get("tests", {})
    if not isinstance(tests, dict):
        raise ValueError(f"{where}: tests must be an object by task id, got {show_value(tests)}")
    texts = {name: values.get(name, "") for name in ("ranking", "submission")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{where}: {name} must be a text, got {show_value(text)}")
    counted = {}
    for task_id, entries in tests.items():
        place = f"{where}: task {show_name(task_id)}"
        if not isinstance(entries, list):
            raise ValueError(f"{place}: expected a list of votes, one for each test input, got {show_value(entries)}")
        counted[task_id] = tuple(_parse_votes(entry, f"{place}, test input {number}") for number, entry in enumerate(entries))
    return VoteFile(Basis.from_json(values, where), texts["ranking"], texts["submission"], counted)


def _parse_votes(entry: object, where: str) -> InputVotes:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object of votes, got {show_value(entry)}")
    candidates, distinct, top = (entry.get(name) for name in ("candidates", "distinct", "top"))
    if not is_count(candidates) or not is_count(distinct) or not isinstance(top, list):
        raise ValueError(f"{where}: expected counts of candidates and distinct ones and a list, top, got {show_value(entry)}")
    for place in top:
        right = isinstance(place, list) and len(place) == 2 and is_count(place[0]) and type(place[1]) in (int, float)
        if not right or not 0 <= place[1] <= 1:
            raise ValueError(f"{where}: top must hold votes and probabilities, got {show_value(place)}")
    return InputVotes(candidates, distinct, tuple((count, float(probability)) for count, probability in top))
