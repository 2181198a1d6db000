"""Puzzles are scored by exact equality, and predictions.csv says what was predicted or is refused by its line."""

import codecs
from pathlib import Path

import numpy as np
import pytest

from eval.provenance import PUZZLES, Provenance, format_rows
from eval.puzzle_score import COLUMNS, PuzzlePrediction, format_puzzle_score, read_predictions, score_puzzles, write_predictions
from tests.pipeline.tiny import refusal

ANSWERS = {"1...": "1234", ".2..": "3214", "..3.": "4132", "...4": "3214"}
PREDICTIONS = [
    PuzzlePrediction("1...", "1234", 0.75, "1234"),
    PuzzlePrediction(".2..", "3241", 0.25),
    PuzzlePrediction("..3.", None, None),
]
FACTS = Provenance("not recorded", kind=PUZZLES)
ROWS = [
    *PREDICTIONS,
    PuzzlePrediction("# S G ", '#",S G', 1.0, "#oS G "),
    PuzzlePrediction("..", "12", 0.0),
    PuzzlePrediction("  ", "  ", 1e-20, "  "),
]


def test_a_puzzle_is_solved_when_every_cell_is_right() -> None:
    assert score_puzzles(PREDICTIONS, ANSWERS).to_json() == {
        "puzzles": 4,
        "predicted": 2,
        "solved": 1,
        "exact_accuracy": 1 / 4,
        "cell_accuracy": (4 + 2) / 16,  # what was not predicted has no cell right
        "mean_halting_probability": 0.5,
        "unknown": 0,
    }


def test_any_shortest_path_of_a_maze_counts_beside_the_one_that_is_the_answer() -> None:
    mazes = {"S   # G  ": "So  # Go ", "S   #   G": "Soo #o  G", "S#G# # # ": "S#G# # # ", "  S # G  ": "ooSo# G  "}
    shown = ["So  # Go ", "S  o# ooG", None, "  S #oGoo"]
    predictions = [PuzzlePrediction(each, text, 0.5 if text else None) for each, text in zip(mazes, shown, strict=True)]
    score = score_puzzles(predictions, mazes)
    assert (score.solved, score.shortest_paths, score.to_json()["shortest_path_accuracy"]) == (1, 2, 1 / 2)
    lines = format_puzzle_score(score, "maze:a.csv", "p.csv", FACTS).split("\n")
    assert lines[2] == "any shortest path          50.00%  2 of 4"


def test_what_counts_and_what_does_not() -> None:
    unknown = score_puzzles([*PREDICTIONS, PuzzlePrediction("4444", "4444", 1.0, "4444")], ANSWERS)
    assert (unknown.unknown, unknown.puzzles, unknown.exact_accuracy, unknown.mean_halting_probability) == (1, 4, 1 / 4, 0.5)
    twice = score_puzzles([PREDICTIONS[0]] * 2, {"1...": "1234"})
    assert (twice.puzzles, twice.solved, twice.exact_accuracy, twice.unknown) == (2, 2, 1.0, 0)
    nothing = score_puzzles([], ANSWERS)
    assert (nothing.puzzles, nothing.predicted, nothing.exact_accuracy, nothing.cell_accuracy) == (4, 0, 0.0, 0.0)
    assert nothing.mean_halting_probability is None
    with pytest.raises(ValueError, match="nothing to score: no answer is known"):
        score_puzzles(PREDICTIONS, {})


def test_a_score_is_written_for_people() -> None:
    lines = format_puzzle_score(score_puzzles([*PREDICTIONS, ROWS[-1]], ANSWERS), "sudoku:a.csv", "p.csv", FACTS).split("\n")
    assert lines[0] == "sudoku:a.csv: 4 puzzles; p.csv"
    assert lines[1] == "exact accuracy             25.00%  1 of 4 with every cell right"
    assert lines[2].startswith("cell accuracy              37.50%")
    assert lines[3] == "mean halting probability   50.00%"
    assert lines[4:6] == ["not predicted, counted as wrong: 2", "without a known answer, not counted: 1"]
    assert lines[6:] == format_rows(FACTS.rows())
    nothing = format_puzzle_score(score_puzzles([], {"1...": "1234"}), "a", "b", FACTS)
    assert "1 puzzle;" in nothing and "halting" not in nothing


def test_a_prediction_is_correct_where_the_answer_is_known() -> None:
    for answer, prediction, expected in (("12", "12", True), ("12", "21", False), ("12", None, False), (None, "12", None)):
        assert PuzzlePrediction("..", prediction, 0.5, answer).correct is expected


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, ROWS)
    assert read_predictions(path) == ROWS
    assert [each.name for each in tmp_path.iterdir()] == ["predictions.csv"]
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert read_predictions(path) == ROWS
    write_predictions(path, PREDICTIONS)
    assert path.read_text().split("\n") == [",".join(COLUMNS), "1...,1234,0.75,1234,1", ".2..,3241,0.25,,", "..3.,,,,", ""]
    write_predictions(path, [PuzzlePrediction("..", "12", np.float32(0.1))])  # type: ignore[arg-type]
    assert read_predictions(path)[0].halting_probability == pytest.approx(0.1)


HEAD = ",".join(COLUMNS).encode() + b"\n..,12,0.5,,\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + b"..,12,0.5", "line 3: expected 5 fields, got 3"),
        (HEAD + b",12,0.5,,", "line 3: has no question"),
        (HEAD + b"..,123,0.5,,", "line 3: prediction has 3 characters, expected 2 as the question has"),
        (HEAD + b"..,12,0.5,1,0", "line 3: answer has 1 characters, expected 2"),
        (HEAD + b"..,12,1.5,,", "line 3: halting_probability must be 0..1, got '1.5'"),
        (HEAD + b"..,12,nan,,", "line 3: halting_probability must be 0..1, got 'nan'"),
        (HEAD + b"..,12,half,,", "line 3: halting_probability must be 0..1, got 'half'"),
        (HEAD + b"..,12,,,", "line 3: expected prediction and halting_probability both or neither"),
        (HEAD + b"..,,0.5,,", "line 3: expected prediction and halting_probability both or neither"),
        (HEAD + b'..,"12"3,0.5,,', "line 3: not CSV: "),
        (b"", "line 1: expected the columns question,prediction,halting_probability,answer,correct, got None"),
        (b"question,answer\n", "line 1: expected the columns"),
        (b"\xff", "not UTF-8: invalid start byte at byte 0"),
    ],
)
def test_a_bad_line_or_a_foreign_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refusal(lambda: read_predictions(path)).startswith(f"{path}: {message}")
