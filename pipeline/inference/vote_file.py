"""votes.json: how the views of each test input voted, and what the attempts in the submission beside it rest on.

Written with every submission that votes have chosen (`pipeline.inference.voting`), read by whatever shows or scores one. Needs
no torch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from augment.task import Task, TaskId
from eval.files import read_object
from eval.formatting import show_name, show_path, show_value
from eval.provenance import Audited
from eval.vote import Ballot
from pipeline.data.store import Store
from submission.format import FilledSubmission

VOTES_FILE = "votes.json"

TOP = 5
"""Grids of a test input whose votes are told; the first two are its attempts."""

_FIRST_DIGITS = 12

_MOST_CHARACTERS = 1000
"""Of the name of a source."""


@dataclass(frozen=True)
class InputVotes:
    """How the views of one test input voted."""

    candidates: int
    """Views that were asked."""
    distinct: int
    """Different grids among their answers."""
    top: tuple[tuple[int, float], ...]
    """Votes and mean halting probability of the best grids."""


@dataclass(frozen=True)
class VoteFile:
    """What `votes.json` says."""

    sources: tuple[str, ...]
    ranking: str
    views: tuple[int, int]
    """Least and most views of a test input."""
    submission: str
    """SHA-256, in hex, of the submission that was chosen; empty where that is not said."""
    dataset: str
    """Hash of the dataset that was asked; empty where that is not said."""
    audited: Audited | None
    tests: Mapping[TaskId, tuple[InputVotes, ...]]


def source_name(path: Path, step: int, data_hash: str) -> str:
    """Return what votes call the weights in the file `path`, with the dataset that they were trained on."""
    return f"{path.parent.name}/{path.name}, step {step}, trained on {data_hash[:_FIRST_DIGITS]}"


def describe_votes(
    ballot: Ballot, filled: FilledSubmission, tasks: Sequence[Task], ranking: str, submission: bytes, dataset: Store
) -> dict[str, Any]:
    """Return what `votes.json` says beside a `submission`, the bytes of its file; `dataset` is what was asked."""
    tallies = [ballot.tally(task.id, index) for task in tasks for index in range(len(task.test))]
    counts = [tally.candidates for tally in tallies]
    return {
        "sources": list(ballot.sources),
        "ranking": ranking,
        "views_least": min(counts, default=0),
        "views_most": max(counts, default=0),
        "submission": hashlib.sha256(submission).hexdigest(),
        "dataset": dataset.data_hash,
        "audit": describe_audit(dataset.manifest),
        "empty_candidates": sum(tally.empty for tally in tallies),
        "without_prediction": [list(place) for place in filled.without_prediction],
        "with_one_prediction": [list(place) for place in filled.with_one_prediction],
        "tests": {task.id: [_votes(ballot, task, index, ranking) for index in range(len(task.test))] for task in tasks},
    }


def describe_audit(manifest: Mapping[str, Any]) -> dict[str, object] | None:
    """Return what the manifest of a dataset says of its audit, in numbers; None where it says nothing that can be read."""
    audit = manifest.get("audit")
    if not isinstance(audit, dict) or not isinstance(audit.get("leaks"), list):
        return None
    counts = {name: audit.get(name) for name in ("tests_checked", "tests_unchecked")}
    described = {"leakage": audit.get("leakage"), "leaks": len(audit["leaks"]), **counts}
    return described if audited_in(described) else None


def read_votes(path: Path) -> VoteFile | None:
    """Return what a `votes.json` says, None where there is none. Raises ValueError that names the file and what is wrong."""
    if not path.exists():
        return None
    values, where = read_object(path), show_path(path)
    sources, tests = values.get("sources"), values.get("tests", {})
    if not isinstance(sources, list) or not sources or not all(is_source(source) for source in sources):
        raise ValueError(f"{where}: sources must be a list of names, got {show_value(sources)}")
    if not isinstance(tests, dict):
        raise ValueError(f"{where}: tests must be an object by task id, got {show_value(tests)}")
    views = parse_views(values, where)
    texts = {name: values.get(name, "") for name in ("ranking", "submission", "dataset")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{where}: {name} must be a text, got {show_value(text)}")
    return VoteFile(
        sources=tuple(sources),
        views=views,
        audited=audited_in(values.get("audit")),
        tests={task_id: _parse_tests(entries, f"{where}: task {show_name(task_id)}") for task_id, entries in tests.items()},
        **texts,
    )


def _votes(ballot: Ballot, task: Task, index: int, ranking: str) -> dict[str, object]:
    """Return how the views of a test input voted; `top` has the count and the mean halting probability of the best grids."""
    counted = ballot.tally(task.id, index)
    best = ballot.top(task.id, index, TOP, ranking)
    return {
        "candidates": counted.candidates,
        "distinct": counted.distinct,
        "empty": counted.empty,
        "top": [[candidate.count, round(candidate.mean_probability, 4)] for candidate in best],
    }


def audited_in(values: object) -> Audited | None:
    """Return what a file says of an audit, None where it says nothing that can be read."""
    if not isinstance(values, dict):
        return None
    leaks, leakage, checked, unchecked = (values.get(name) for name in ("leaks", "leakage", "tests_checked", "tests_unchecked"))
    if not is_count(leaks) or not is_count(checked) or not is_count(unchecked) or not isinstance(leakage, str):
        return None
    return Audited(leaks, show_name(leakage), checked, unchecked)


def _parse_tests(entries: object, where: str) -> tuple[InputVotes, ...]:
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list of votes, one for each test input, got {show_value(entries)}")
    return tuple(_parse_votes(entry, f"{where}, test input {number}") for number, entry in enumerate(entries))


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


def parse_views(values: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return the least and most views that a file names. Raises ValueError, beginning with `where`."""
    least, most = (values.get(name) for name in ("views_least", "views_most"))
    if not is_count(least) or not is_count(most):
        raise ValueError(f"{where}: views_least and views_most must be counts, got {show_value((least, most))}")
    return least, most


def is_source(value: object) -> bool:
    """Return whether `value` can be the name of a source."""
    return isinstance(value, str) and 0 < len(value) <= _MOST_CHARACTERS and value.isprintable()


def is_count(value: object) -> TypeGuard[int]:
    """Return whether `value` is a number of things."""
    return type(value) is int and 0 <= value < 1 << 53
