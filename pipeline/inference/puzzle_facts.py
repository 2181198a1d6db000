"""predictions.json: what the predictions of puzzles beside it rest on, as votes.json says it of a submission.

Written with every predictions.csv by whoever predicts, read by whatever shows or scores one. Needs no torch.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from eval.files import replace_file
from eval.puzzle_score import PuzzlePrediction, write_predictions
from pipeline.data.puzzles.build import PuzzleStore
from pipeline.inference.vote_file import audited_in

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
