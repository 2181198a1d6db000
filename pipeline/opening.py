"""The opening of a run, before torch is imported: the tasks to be solved, and a complete fallback submission for them."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from augment.task import Task
from eval.puzzles import PuzzlePrediction, read_predictions, write_predictions
from eval.replace import remove_unfinished
from pipeline.data.puzzles import Puzzles, load_puzzles
from pipeline.data.select import Selection
from pipeline.data.sources import Source, load_source
from pipeline.occupied import Occupation, occupied
from submission.format import fallback_submission, read_submission, write_submission

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Challenge:
    """Which tasks a run has to solve."""

    sources: tuple[str, ...]
    """In the order of the submission."""
    selection: Selection = field(default_factory=Selection)

    def load(self, with_solutions: bool) -> list[Source]:
        """Return the sources, with the selected tasks alone."""
        return [self.selection.apply(load_source(spec, with_solutions)) for spec in self.sources]

    def tasks(self) -> list[Task]:
        """Return the tasks to solve, in order. Raises ValueError when there are none, or two of one id."""
        return self.select()[0]

    def select(self) -> tuple[list[Task], int]:
        """Return the tasks to solve, as `tasks`, and how many the sources have before the selection."""
        whole = [load_source(spec, with_solutions=False) for spec in self.sources]
        tasks = [task for source in whole for task in self.selection.apply(source).tasks]
        seen: set[str] = set()
        for task in tasks:
            if task.id in seen:
                raise ValueError(f"task {task.id!r} is in several of the sources to be solved; a submission has room for one")
            seen.add(task.id)
        if not tasks:
            raise ValueError("there are no tasks to be solved in these sources")
        return tasks, sum(len(source.tasks) for source in whole)

    def fallback(self) -> "TaskFallback":
        """Return what is to be left before anything is tried."""
        tasks, available = self.select()
        logger.info("%d of %d tasks of %s", len(tasks), available, " + ".join(self.sources))
        return TaskFallback(tasks)


@dataclass(frozen=True)
class PuzzleChallenge:
    """Which puzzles a run has to solve."""

    sources: tuple[str, ...]
    limit: int | None = None
    """So many of each source, the same whatever the seed of the run; None for all."""

    def load(self, with_answers: bool) -> list[Puzzles]:
        """Return the puzzles to solve. Raises ValueError when there are answers to some of them only."""
        return [load_puzzles(spec, "test", with_answers, self.limit, jobs=os.cpu_count() or 1) for spec in self.sources]

    def fallback(self) -> "PuzzleFallback":
        """Return what is to be left before anything is tried."""
        questions = [text for puzzles in self.load(with_answers=False) for text in puzzles.question_texts()]
        logger.info("%d puzzles of %s", len(questions), " + ".join(self.sources))
        return PuzzleFallback(questions)


AnyChallenge = Challenge | PuzzleChallenge


@dataclass(frozen=True)
class TaskFallback:
    """The result of a run that predicts nothing, for tasks."""

    tasks: Sequence[Task]

    def leave(self, out: Path, resume: bool) -> None:
        """See to it that a complete submission stands in `out`; a resumed run keeps the one that it has."""
        path = out / "submission.json"
        if not (resume and _keeps(path, self.tasks)):
            write_submission(path, fallback_submission(self.tasks), self.tasks)


@dataclass(frozen=True)
class PuzzleFallback:
    """The result of a run that predicts nothing, for puzzles."""

    questions: Sequence[str]

    def leave(self, out: Path, resume: bool) -> None:
        """See to it that `predictions.csv` with every question stands in `out`; a resumed run keeps the one that it has."""
        path = out / "predictions.csv"
        if not (resume and _has_questions(path, self.questions)):
            write_predictions(path, [PuzzlePrediction(question, None, None) for question in self.questions])


@contextmanager
def open_run(challenge: AnyChallenge, out: Path, resume: bool) -> Iterator[Occupation]:
    """Make the folder `out` of a run, occupy it, and see to it that a complete result stands there, without solutions.

    Raises ValueError when `out` holds a run that is not to be resumed, one for other tasks, or one that is at work.
    """
    _refuse_second(out, resume)
    fallback = challenge.fallback()
    with occupied(out) as occupation:
        _refuse_second(out, resume)  # it may have begun and ended meanwhile
        for folder in (out, out / "dataset", out / "candidates"):
            remove_unfinished(folder)
        fallback.leave(out, resume)
        yield occupation


def _refuse_second(out: Path, resume: bool) -> None:
    if not resume and ((out / "config.json").exists() or (out / "checkpoints").exists()):
        raise ValueError(f"{out} holds a run already: continue it with --resume, or choose another --out")


def _has_questions(path: Path, questions: Sequence[str]) -> bool:
    """Return whether there are predictions to keep. Raises ValueError where they are for other puzzles."""
    try:
        predictions = read_predictions(path)
    except (ValueError, FileNotFoundError):
        return False
    if [prediction.question for prediction in predictions] != list(questions):
        raise ValueError(f"{path}: predictions for other puzzles than those of the sources; resume with the sources of the run")
    return True


def _keeps(path: Path, tasks: Sequence[Task]) -> bool:
    """Return whether there is a submission to keep. Raises ValueError where it is one for other tasks."""
    try:
        submission = read_submission(path)
    except (ValueError, FileNotFoundError):
        return False  # damaged or missing: a new one is better than none
    if {task_id: len(tests) for task_id, tests in submission.items()} != {task.id: len(task.test) for task in tasks}:
        raise ValueError(f"{path}: a submission for other tasks than those of the sources; resume with the sources of the run")
    return True
