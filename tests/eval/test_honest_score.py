"""`score` agrees with a second scorer, written from the rules on plain lists, on hundreds of random submission files.

The second scorer knows nothing of the project: it reads both files with the json module and counts cell by cell.
"""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.score import score_predictions
from pipeline.data.sources import read_solutions
from submission.format import read_partial_submission, read_submission

Rng = np.random.Generator
CASES = 300
ODD_ATTEMPTS = (
    "null", "[]", "[[]]", "[[], []]", "3", '"x"', "[[10]]", "[[1], [2, 3]]", "[[-1]]", "[[1.0]]", "[[true]]", "{}", "[[null]]",
    "[1, 2]", "NaN", "[" + ", ".join(["[1]"] * 31) + "]", "[[" + ", ".join(["1"] * 31) + "]]",
)  # fmt: skip
MISSING = ("null", "[]", "[[]]", "[[], []]")
"""What counts as a missing attempt, where these are allowed."""


class Refused(Exception):
    """The second scorer does not take a file."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise Refused("a key twice")
    return dict(pairs)


def is_grid(rows: Any) -> bool:
    if not isinstance(rows, list) or not 1 <= len(rows) <= 30:
        return False
    if not all(isinstance(row, list) and 1 <= len(row) <= 30 and len(row) == len(rows[0]) for row in rows):
        return False
    return all(type(cell) is int and 0 <= cell <= 9 for row in rows for cell in row)


def attempts_of(entry: Any, lenient: bool) -> list[Any]:
    """Return attempt 1 and 2 of an entry, None for a missing one; a third does not count."""
    if not isinstance(entry, dict) or set(entry) - {"attempt_1", "attempt_2", "attempt_3"}:
        raise Refused("no entry")
    found = []
    for name in ("attempt_1", "attempt_2"):
        grid = entry.get(name)
        nothing = grid is None or (isinstance(grid, list) and all(row == [] for row in grid))
        if lenient and nothing:
            found.append(None)
        elif is_grid(grid):
            found.append(grid)
        else:
            raise Refused("no grid")
    return found


def second_score(submission: str, solutions: str, lenient: bool) -> dict[str, Any]:
    """Score a file by the rules: exact size and cells, either of two attempts, by three ways of adding up."""
    document = json.loads(submission, object_pairs_hook=unique)
    truth = json.loads(solutions)
    if not isinstance(document, dict):
        raise Refused("no object")
    read: dict[str, list[list[Any]]] = {}
    for task, entries in document.items():
        if not isinstance(entries, list):
            raise Refused("no list")
        read[task] = [attempts_of(entry, lenient) for entry in entries]
    totals: dict[str, Any] = {"mean_over_tasks": [], "per_output": [], "all_or_nothing": []}
    for how_many in (1, 2):
        fractions, whole, right, outputs = [], 0, 0, 0
        for task, grids in truth.items():
            hits = 0
            for i in range(len(grids)):
                tries = read[task][i] if task in read and i < len(read[task]) else []
                hits += grids[i] in tries[:how_many]  # equal lists: the same size and cells
            fractions.append(Fraction(hits, len(grids)))
            whole, right, outputs = whole + (hits == len(grids)), right + hits, outputs + len(grids)
        totals["mean_over_tasks"].append(sum(fractions, Fraction(0)) / len(truth))
        totals["per_output"].append(Fraction(right, outputs))
        totals["all_or_nothing"].append(Fraction(whole, len(truth)))
        totals["first" if how_many == 1 else "solved"] = right
    totals["missing_tasks"] = sorted(set(truth) - set(read))
    totals["unknown_tasks"] = sorted(set(read) - set(truth))
    totals["outputs"] = outputs
    return totals


def draw_grid(rng: Rng) -> list[list[int]]:
    """Of few kinds, so that many are equal by chance."""
    return rng.integers(0, 2, rng.integers(1, 3, 2)).tolist()


def draw_entry(rng: Rng, truth: list[list[int]], odd: float) -> str:
    members = []
    for name in ("attempt_1", "attempt_2"):
        chance = rng.random()
        grid = json.dumps(truth if chance < 0.35 else draw_grid(rng))
        if rng.random() < odd:
            grid = str(rng.choice(MISSING if rng.random() < 0.8 else ODD_ATTEMPTS))
        members += [f'"{name}": {grid}'] * (2 if rng.random() < odd / 20 else 1)
    if rng.random() < odd / 4:
        del members[int(rng.integers(len(members)))]
    if rng.random() < 0.1:
        members.reverse()
    if rng.random() < odd / 40:
        members.append(rng.choice(['"attempt_3": [[1]]', '"grid": [[1]]']))
    if len(members) == 2 and rng.random() < 0.1:  # the same grid twice
        members[1] = '"attempt_2": ' + members[0].split(": ", 1)[1] if members[0].startswith('"attempt_1"') else members[1]
    return "{" + ", ".join(members) + "}"


def draw_case(rng: Rng) -> tuple[str, str]:
    """Return the texts of a submission, with every kind of flaw, and of the solutions."""
    truth = {f"t{n}": [draw_grid(rng) for _ in range(rng.integers(1, 5))] for n in range(rng.integers(1, 7))}
    odd = float(rng.choice([0.0, 0.0, 0.1, 0.3]))
    members = []
    for task, grids in truth.items():
        if rng.random() < 0.15:
            continue
        entries = [draw_entry(rng, grid, odd) for grid in grids]
        if rng.random() < 0.1:
            entries = entries[: int(rng.integers(0, len(entries) + 1))]
        if rng.random() < 0.1:
            entries.append(draw_entry(rng, grids[0], odd))
        if len(entries) > 1 and rng.random() < 0.1:
            entries.reverse()
        members.append(f'"{task}": [{", ".join(entries)}]')
    for n in range(int(rng.integers(0, 3))):
        members.append(f'"extra{n}": [{draw_entry(rng, [[1]], odd)}]')
    if members and rng.random() < odd / 10:
        members.append(members[0])
    rng.shuffle(members)
    return "{" + ", ".join(members) + "}", json.dumps(truth)


def test_the_score_of_random_files_is_that_of_the_second_scorer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    submission, solutions = tmp_path / "submission.json", tmp_path / "solutions.json"
    outcomes: Counter[str] = Counter()
    for _ in range(CASES):
        text, truth = draw_case(rng)
        lenient = bool(rng.random() < 0.5)
        read = read_partial_submission if lenient else read_submission
        submission.write_text(text)
        solutions.write_text(truth)
        try:
            expected = second_score(text, truth, lenient)
        except Refused:
            with pytest.raises(ValueError, match=r"submission\.json: "):
                read(submission)
            outcomes["refused"] += 1
            continue
        score = score_predictions(read(submission), read_solutions(solutions))
        for rule in ("mean_over_tasks", "per_output", "all_or_nothing"):
            rates = getattr(score, rule)
            assert [rates.pass_at_1, rates.pass_at_2] == [float(rate) for rate in expected[rule]], text
        assert (score.solved_outputs, score.outputs) == (expected["solved"], expected["outputs"])
        assert score.solved_by_first_alone + score.solved_by_both == expected["first"]
        assert sorted(score.missing_tasks) == expected["missing_tasks"]
        assert sorted(score.unknown_tasks) == expected["unknown_tasks"]
        outcomes["scored with something missing" if lenient and expected["missing_tasks"] else "scored"] += 1
    assert all(count > CASES / 20 for count in outcomes.values()), outcomes
    assert len(outcomes) == 3
