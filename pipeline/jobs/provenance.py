"""What a submission or predictions of puzzles rest on, read from the files beside them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from eval.decode import decode
from eval.files import read_file, read_object
from eval.formatting import show_path
from eval.provenance import TASKS, Basis, Kind, Provenance, Scored
from pipeline.inference.facts import FACTS_FILE, VOTES_FILE, VoteFile, digest_of
from pipeline.jobs.run_record import record_if_usable


def provenance_beside(result: Path, kind: Kind = TASKS) -> Provenance:
    """Return what is known of a submission, or of predictions of puzzles, by the facts and the `run.json` beside it.

    Facts of another result say nothing of this one. Raises InputError for damaged facts.
    """
    name, what = (VOTES_FILE, "submission") if kind is TASKS else (FACTS_FILE, "predictions")
    path = result.with_name(name)
    if not path.exists() or not result.is_file():
        return Provenance(f"there is no {name} beside {result.name}", kind=kind)
    values = read_object(path)
    basis = decode(VoteFile if kind is TASKS else Basis, values, show_path(path), ignore_unknown=True)
    if values.get(what) != digest_of(read_file(result)):
        return Provenance(f"the {name} beside {result.name} is of another one", kind=kind)
    record = record_if_usable(result.parent)
    return Provenance("it is not recorded", basis, record.weights if record else "", kind)


def scored_answers(answers: Mapping[str, str], sources: Sequence[str]) -> Scored:
    """Return what a score by `answers` (by question) counts; `sources` name the data."""
    digest = hashlib.sha256(orjson.dumps(sorted(answers.items()))).hexdigest()
    return Scored(len(answers), len(answers), digest, " + ".join(map(show_path, sources)))
