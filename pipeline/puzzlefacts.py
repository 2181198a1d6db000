"""predictions.json: what the predictions of puzzles beside it rest on, as votes.json says it of a submission.

Written with every predictions.csv by whoever predicts, read by whatever shows or scores one. Needs no torch.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from augment.outside import read_file, show_path, show_value
from eval.provenance import PUZZLES, Provenance, Scored
from eval.puzzles import PuzzlePrediction, write_predictions
from eval.replace import replace_file
from pipeline.data.puzzlestore import PuzzleStore
from pipeline.data.strictjson import read_object
from pipeline.record import record_if_usable
from pipeline.votefile import audited_in, is_source, parse_views, provenance_of

logger = logging.getLogger(__name__)

FACTS_FILE = "predictions.json"


def leave_predictions(path: Path, predictions: Sequence[PuzzlePrediction], source: str, dataset: PuzzleStore) -> None:
    """Write the CSV file `path`, and beside it that `source` predicted them for the tests of `dataset`.

    The score of earlier predictions goes. Raises OSError where the predictions cannot be written; what they rest on is unknown
    at most.
    """
    write_predictions(path, predictions)
    path.with_name("score.json").unlink(missing_ok=True)
    asked = [each.prediction is not None for each in predictions]
    facts = {
        "predictions": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sources": [source],
        "views_least": int(all(asked)),
        "views_most": int(any(asked)),
        "dataset": dataset.data_hash,
        "audit": _describe_audit(dataset.manifest),
    }
    try:
        replace_file(path.with_name(FACTS_FILE), orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        logger.warning("what the predictions rest on is not kept: %s", error)


def _describe_audit(manifest: Mapping[str, Any]) -> dict[str, object] | None:
    """Return what the manifest of a dataset says of its audit; None where it says nothing that can be read."""
    audit, totals = manifest.get("audit"), manifest.get("totals")
    if not isinstance(audit, dict) or not isinstance(totals, dict):
        return None
    checked = {"tests_checked": totals.get("tests"), "tests_unchecked": 0}  # questions are compared, and all are known
    described = {"leakage": audit.get("leakage"), "leaks": audit.get("leaks"), **checked}
    return described if audited_in(described) else None


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
