"""predictions.json: what the predictions of puzzles beside it rest on, as votes.json says it of a submission. No torch."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from eval.files import replace_file
from eval.provenance import Basis, audited_in
from eval.puzzle_score import PuzzlePrediction, write_predictions
from pipeline.data.dataset import PuzzleDataset

logger = logging.getLogger(__name__)

FACTS_FILE = "predictions.json"


def leave_predictions(path: Path, predictions: Sequence[PuzzlePrediction], source: str, dataset: PuzzleDataset) -> None:
    """Write the CSV file `path`, and beside it that `source` predicted them for the tests of `dataset`.

    The score of earlier predictions goes. Raises OSError where the predictions cannot be written; what they rest on is unknown
    at most.
    """
    write_predictions(path, predictions)
    path.with_name("score.json").unlink(missing_ok=True)
    predicted = [each.prediction is not None for each in predictions]
    audit, totals = dataset.manifest.get("audit"), dataset.manifest.get("totals")
    audited = None
    if isinstance(audit, dict) and isinstance(totals, dict):  # the audit compares questions, and all of them are known
        audited = audited_in({**audit, "tests_checked": totals.get("tests"), "tests_unchecked": 0})
    basis = Basis((source,), int(all(predicted)), int(any(predicted)), dataset.data_hash, audited)
    facts = {"predictions": hashlib.sha256(path.read_bytes()).hexdigest(), **asdict(basis)}
    try:
        replace_file(path.with_name(FACTS_FILE), orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        logger.warning("what the predictions rest on is not kept: %s", error)
