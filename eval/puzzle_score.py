"""Score of predicted puzzles (sudokus, mazes), and predictions.csv, which holds the prediction for each question.

Puzzles are strings here, as they are published, not tokens. Each has one prediction; HRM and TRM report the share of puzzles
with every cell right. Of mazes, which may have several shortest paths, the share with any of them is reported besides.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import eq
from pathlib import Path

from augment.errors import InputError
from eval.files import read_file, replace_file
from eval.formatting import plural, show_path, show_value
from eval.maze import is_maze, shows_shortest_path
from eval.provenance import Provenance, format_rows

COLUMNS = ("question", "prediction", "halting_probability", "answer", "correct")


@dataclass(frozen=True)
class PuzzlePrediction:
    """What was predicted for one question. Texts hold the cells row by row, so all of a puzzle are equally long."""

    question: str
    prediction: str | None
    """None where the puzzle was not predicted in time."""
    halting_probability: float | None
    """0..1, of the last segment; None where the puzzle was not predicted."""
    answer: str | None = None
    """None where it is not known."""

    @property
    def correct(self) -> bool | None:
        """Whether every cell is right; None where the answer is not known."""
        return None if self.answer is None else self.prediction == self.answer


@dataclass(frozen=True)
class PuzzleScore:
    """The score of predictions over all puzzles whose answer is known; one that was not predicted is wrong."""

    puzzles: int
    predicted: int
    solved: int
    exact_accuracy: float
    """Solved, divided by puzzles: 0..1, what HRM and TRM report."""
    cell_accuracy: float
    """Cells that are right, divided by all cells: 0..1. The cells that the question gives count too."""
    mean_halting_probability: float | None
    """Of what was predicted: 0..1; None where nothing was."""
    unknown: int
    """Predictions for questions without a known answer. They do not count."""
    shortest_paths: int | None = None
    """Of mazes: predictions that show some shortest path, that of the answer or another one; None for sudokus."""

    def __post_init__(self) -> None:
        if self.puzzles < 1:
            raise InputError(f"puzzles must be at least 1, got {self.puzzles}")

    @property
    def shortest_path_accuracy(self) -> float | None:
        """`shortest_paths`, divided by puzzles: 0..1."""
        return None if self.shortest_paths is None else self.shortest_paths / self.puzzles

    def to_json(self) -> dict[str, object]:
        """Return all fields as a plain dict of ints, floats and None; that of mazes, with the rate, only for mazes."""
        fields = asdict(self)
        if self.shortest_paths is None:
            del fields["shortest_paths"]
            return fields
        return fields | {"shortest_path_accuracy": self.shortest_path_accuracy}


def score_puzzles(predictions: Sequence[PuzzlePrediction], answers_by_question: Mapping[str, str]) -> PuzzleScore:
    """Return the score of `predictions` on the questions whose answers are known.

    A question that is predicted twice counts twice; one without a prediction counts as wrong. Answers inside `predictions` are
    ignored. Raises InputError when no answer is known.
    """
    judged = [(each, answers_by_question[each.question]) for each in predictions if each.question in answers_by_question]
    there = {each.question for each, _ in judged}
    missing = [answer for question, answer in answers_by_question.items() if question not in there]
    if not judged and not missing:
        raise InputError("nothing to score: no answer is known")
    puzzles = len(judged) + len(missing)
    predicted = [(each.question, each.prediction, answer) for each, answer in judged if each.prediction is not None]
    solved = sum(text == answer for _, text, answer in predicted)
    paths = sum(shows_shortest_path(question, text) for question, text, _ in predicted if is_maze(question))
    right = sum(sum(map(eq, text, answer)) for _, text, answer in predicted)  # of two lengths: cells at the same places
    cells = sum(len(answer) for _, answer in judged) + sum(map(len, missing))
    halting = [each.halting_probability for each, _ in judged if each.halting_probability is not None]
    return PuzzleScore(
        puzzles=puzzles,
        predicted=len(predicted),
        solved=solved,
        exact_accuracy=solved / puzzles,
        cell_accuracy=right / cells,
        mean_halting_probability=sum(halting) / len(halting) if halting else None,
        unknown=len(predictions) - len(judged),
        shortest_paths=paths if any(map(is_maze, answers_by_question)) else None,
    )


def format_puzzle_score(score: PuzzleScore, name: str, predictions: str, provenance: Provenance) -> str:
    """Return `score` as lines of text; `name` says what was scored, `predictions` is the path of the file."""
    missing = score.puzzles - score.predicted
    lines = [
        f"{name}: {plural(score.puzzles, 'puzzle')}; {predictions}",
        f"exact accuracy            {score.exact_accuracy:7.2%}  {score.solved} of {score.puzzles} with every cell right",
        f"cell accuracy             {score.cell_accuracy:7.2%}  of all cells, those that the question gives too",
    ]
    if score.shortest_path_accuracy is not None:
        counts = f"{score.shortest_paths} of {score.puzzles}"
        lines.insert(2, f"any shortest path         {score.shortest_path_accuracy:7.2%}  {counts}")
    if score.mean_halting_probability is not None:
        lines.append(f"mean halting probability  {score.mean_halting_probability:7.2%}")
    if missing:
        lines.append(f"not predicted, counted as wrong: {missing}")
    if score.unknown:
        lines.append(f"without a known answer, not counted: {score.unknown}")
    lines += format_rows(provenance.rows())
    return "\n".join(lines)


def write_predictions(path: Path, predictions: Iterable[PuzzlePrediction]) -> None:
    """Replace `path` with a CSV file of `predictions`, in order, as `replace_file` does. Unknown values are empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in predictions:
        probability = "" if each.halting_probability is None else repr(float(each.halting_probability))
        correct = "" if each.correct is None else str(int(each.correct))
        writer.writerow((each.question, each.prediction or "", probability, each.answer or "", correct))
    replace_file(path, text.getvalue().encode())


def read_predictions(path: Path) -> list[PuzzlePrediction]:
    """Read a file of `write_predictions`. Raises FileNotFoundError, and InputError that names the file and the line."""
    where = show_path(path)
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    predictions = []
    try:
        header = next(reader, None)
        if header is None or tuple(header) != COLUMNS:
            raise InputError(f"{where}: line 1: expected the columns {','.join(COLUMNS)}, got {show_value(header)}")
        for row in reader:
            if row:
                predictions.append(_parse_row(row, f"{where}: line {reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num}: not CSV: {error}") from error
    return predictions


def _parse_row(row: Sequence[str], where: str) -> PuzzlePrediction:
    if len(row) != len(COLUMNS):
        raise InputError(f"{where}: expected {len(COLUMNS)} fields, got {len(row)}")
    question, prediction, probability, answer, _ = row
    if not question:
        raise InputError(f"{where}: has no question")
    for name, text in (("prediction", prediction), ("answer", answer)):
        if text and len(text) != len(question):
            raise InputError(f"{where}: {name} has {len(text)} characters, expected {len(question)} as the question has")
    if bool(prediction) != bool(probability):
        raise InputError(f"{where}: expected prediction and halting_probability both or neither")
    try:
        halting = float(probability) if probability else None
    except ValueError:
        halting = -1.0
    if halting is not None and not 0 <= halting <= 1:
        raise InputError(f"{where}: halting_probability must be 0..1, got {show_value(probability)}")
    return PuzzlePrediction(question, prediction or None, halting, answer or None)
