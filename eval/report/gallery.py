"""The tasks of a report as JSON for its script: grids as short strings, results in words, keys to filter and sort by."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from augment.canvas import Tokens, decode
from augment.grid import Grid
from eval.explain import explain
from eval.formatting import plural
from eval.results import TaskResult, TestResult, count_wrong

_SIGNS = np.frombuffer(b".#0123456789", np.uint8)  # of the tokens of a canvas: padding, border, colors


def gallery_data(results: Sequence[TaskResult]) -> str:
    """Return the data of all tasks as JSON that is safe inside a `<script>` element, whatever the ids hold."""
    text = json.dumps([_task(result) for result in results], separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def grid_text(grid: Grid) -> str:
    """Return a grid as its rows of digits, with a bar between rows."""
    return "|".join(row.tobytes().decode() for row in grid + np.uint8(ord("0")))


def _task(result: TaskResult) -> dict[str, Any]:
    return {
        "id": result.task.id,
        "tags": result.tags,
        "known": result.known,
        "verdict": result.summary(),
        "missed": result.missed_by,
        "margin": _round(result.margin),
        "train": [[grid_text(pair.input), grid_text(pair.output)] for pair in result.task.train],
        "tests": [_test(grid, test) for grid, test in zip(result.task.test, result.tests, strict=True)],
    }


def _test(grid: Grid, test: TestResult) -> dict[str, Any]:
    return {
        "input": grid_text(grid),
        "truth": None if test.truth is None else grid_text(test.truth),
        "attempts": [
            {
                "grid": None if attempt.grid is None else grid_text(attempt.grid),
                "votes": attempt.votes,
                "p": _round(attempt.probability),
                "verdict": _verdict(attempt.grid, test.truth),
                "why": None if test.truth is None else explain(attempt.grid, test.truth),
            }
            for attempt in test.attempts
        ],
        "views": test.views,
        "votes": describe_votes(test),
        "drafts": _drafts(test),
        "unit": test.draft_unit,
    }


def _verdict(grid: Grid | None, truth: Grid | None) -> dict[str, Any] | None:
    """Return {"right", "text"} where the test output is known."""
    if truth is None:
        return None
    if grid is None:
        return {"right": False, "text": "no grid"}
    wrong = count_wrong(grid, truth)
    if wrong is None:
        got, expected = (" × ".join(map(str, each.shape)) for each in (grid, truth))
        return {"right": False, "text": f"wrong size: {got}, not {expected}"}
    return {"right": not wrong, "text": f"{wrong} of {plural(truth.size, 'cell')} wrong" if wrong else "right"}


def describe_votes(test: TestResult) -> str:
    """Return in a sentence or two how the views voted; an empty text where that is not known."""
    if test.views is None:
        return ""
    if not test.views:
        return "No view was predicted: both attempts are fallbacks."
    text = f"{plural(test.views, 'view')} voted"
    if test.distinct is not None:
        text += ", all for the same grid" if test.distinct == 1 else f" for {plural(test.distinct, 'different grid')}"
    text += "."
    if test.truth_rank == 0:
        text += " No view predicted the test output."
    elif test.truth_rank is not None and not test.solved:
        text += f" The test output was number {test.truth_rank} in the votes."
    return text


def _drafts(test: TestResult) -> list[dict[str, Any]]:
    """Return each draft with canvas and verdict; only its probability where it equals the draft before."""
    drawn: list[dict[str, Any]] = []
    last: Tokens | None = None
    for draft in test.drafts:
        shown: dict[str, Any] = {"grid": None}
        if last is None or not np.array_equal(last, draft.tokens):
            canvas = "|".join(row.tobytes().decode() for row in _SIGNS[draft.tokens])
            shown = {"grid": canvas, "verdict": _verdict(decode(draft.tokens), test.truth)}
        drawn.append(shown | {"p": _round(draft.probability)})
        last = draft.tokens
    return drawn


def _round(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
