"""What a submission or predictions of puzzles rest on, read from the files beside them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from eval.decode import decode
from eval.files import read_file, read_object
from eval.formatting import show_path
from eval.provenance import PUZZLES, Basis, Provenance, Scored
from pipeline.inference.facts import FACTS_FILE, VOTES_FILE, read_votes
from pipeline.jobs.record import read_record, record_if_usable


def provenance_beside(submission: Path) -> Provenance:
    """Return what is known of a submission by the `votes.json` and `run.json` beside it.

    Votes that chose another submission say nothing of this one. Raises ValueError for damaged files.
    """
    votes = read_votes(submission.with_name(VOTES_FILE))
    if votes is None:
        return Provenance(f"the submission has no {VOTES_FILE} beside it")
    if votes.submission != hashlib.sha256(read_file(submission)).hexdigest():
        return Provenance(f"the {VOTES_FILE} beside the submission is of another one")
    record = read_record(submission.parent)
    return Provenance("it is not said", votes, record.weights if record else "")


def provenance_of_puzzles(path: Path) -> Provenance:
    """Return what is known of the predictions in the CSV file `path` by what lies beside it.

    Facts of other predictions say nothing of these. Raises ValueError for damaged ones.
    """
    beside = path.with_name(FACTS_FILE)
    if not beside.exists():
        return Provenance(f"the predictions have no {FACTS_FILE} beside them", kind=PUZZLES)
    values = read_object(beside)
    basis = decode(Basis, values, show_path(beside), ignore_unknown=True)
    if values.get("predictions") != hashlib.sha256(read_file(path)).hexdigest():
        return Provenance(f"the {FACTS_FILE} beside the predictions is of other ones", kind=PUZZLES)
    record = record_if_usable(path.parent)
    return Provenance("it is not said", basis, record.weights if record else "", PUZZLES)


def scored_answers(answers: Mapping[str, str], sources: Sequence[str]) -> Scored | None:
    """Return what a score by `answers`, by question, counts; None where there are none. `sources` say where they come from."""
    if not answers:
        return None
    digest = hashlib.sha256(orjson.dumps(sorted(answers.items()))).hexdigest()
    return Scored(len(answers), len(answers), digest, " + ".join(map(show_path, sources)))
