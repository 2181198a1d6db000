"""pipeline.jobs.provenance"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from eval.files import read_file, read_object
from eval.formatting import show_path, show_value
from eval.provenance import PUZZLES, TASKS, Audited, Kind, Provenance, Scored
from pipeline.inference.puzzle_facts import FACTS_FILE
from pipeline.inference.vote_file import (
    _FIRST_DIGITS,
    VOTES_FILE,
    audited_in,
    describe_audit,
    is_source,
    parse_views,
    read_votes,
)
from pipeline.jobs.record import Record, read_record, record_if_usable


def provenance_of_puzzles(path: Path) -> Provenance:
    """Return what is known of the predictions in the CSV file `path` by what lies beside it.

    Facts that were left with other predictions say nothing of these. Raises ValueError for damaged ones.
    """
    beside = path.with_name(FACTS_FILE)
    if not beside.exists():
        return Provenance(f"the predictions have no {FACTS_FILE} beside them", kind=PUZZLES)
    values, where = read_object(beside), show_path(beside)
    sources, dataset = values.get("sources"), values.get("dataset")
    if not isinstance(sources, list) or not sources or not all(map(is_source, sources)) or not isinstance(dataset, str):
        raise ValueError(f"{where}: expected sources and a dataset, got {show_value(sources)} and {show_value(dataset)}")
    if values.get("predictions") != hashlib.sha256(read_file(path)).hexdigest():
        return Provenance(f"the {FACTS_FILE} beside the predictions is of other ones", kind=PUZZLES)
    views, record = parse_views(values, where), record_if_usable(path.parent)
    return provenance_of(sources, views, dataset, audited_in(values.get("audit")), record, PUZZLES)


def scored_answers(answers: Mapping[str, str], sources: Sequence[str]) -> Scored | None:
    """Return what a score by `answers`, by question, counts; None where there are none. `sources` say where they come from."""
    if not answers:
        return None
    digest = hashlib.sha256(orjson.dumps(sorted(answers.items()))).hexdigest()
    return Scored(len(answers), len(answers), digest, " + ".join(map(show_path, sources)))


_TRAINED_ON = re.compile(r", trained on ([0-9a-f]{12})$")


def provenance_beside(submission: Path) -> Provenance:
    """Return what is known of a submission by the `votes.json` and `run.json` beside it.

    Raises ValueError for damaged ones. Votes that chose another submission say nothing of this one.
    """
    votes = read_votes(submission.with_name(VOTES_FILE))
    if votes is None:
        return Provenance("the submission has no votes.json beside it")
    if votes.submission != hashlib.sha256(read_file(submission)).hexdigest():
        return Provenance("the votes.json beside the submission is of another one")
    return provenance_of(votes.sources, votes.views, votes.dataset, votes.audited, read_record(submission.parent))


def provenance_of(
    sources: Sequence[str],
    views: tuple[int, int],
    dataset: str,
    audited: Audited | None,
    record: Record | None,
    kind: Kind = TASKS,
) -> Provenance:
    """Return where attempts come from: votes of `sources` on the tests of the dataset of that hash, in the run of `record`."""
    checkpoints = () if list(sources) == ["none"] else tuple(sources)
    reservations = []
    if record and record.weights:
        reservations.append(f"the run started from {show_path(record.weights)}, whose data it knows nothing of")
    for source in checkpoints:
        found = _TRAINED_ON.search(source)
        if not found:
            reservations.append(f"what {source} was trained on is unknown")
        elif found[1] != dataset[:_FIRST_DIGITS]:
            reservations.append(f"{source.removesuffix(found[0])} was trained on other data, {found[1]}, not audited here")
    return Provenance("it is not said", checkpoints, views, dataset or None, audited, tuple(dict.fromkeys(reservations)), kind)


def audited_of(manifest: Mapping[str, Any]) -> Audited | None:
    """Return what the manifest of a dataset says of its audit; None where it says nothing that can be read."""
    return audited_in(describe_audit(manifest))
