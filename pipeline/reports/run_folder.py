"""Reads the folder of a run or a prediction: submission, votes, candidates, drafts, tasks.

Shared by `show`, `compare` and `report`. Everything but the submission may be missing: a prediction has no dataset of its own,
a submission of another system has no votes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from augment.canvas import Tokens
from augment.errors import InputError
from augment.grid import Grid, grid_key
from augment.task import Task, TaskId, TestId, same_tests
from eval.decode import read_dataclass
from eval.files import read_object
from eval.formatting import show_name, show_path
from eval.results import Attempt, Draft, DraftUnit, TaskResult, TestResult
from eval.vote import Ballot
from pipeline.data.dataset import MANIFEST_FILE, PuzzleDataset, TaskDataset, load_dataset
from pipeline.data.sources import PUBLIC_SOURCES, Selection, Source, hold_out
from pipeline.inference.drafts import DRAFTS_FILE, read_drafts
from pipeline.inference.facts import SCORE_FILE, VoteFile, votes_of
from pipeline.jobs.networks import candidates_of
from pipeline.jobs.run_record import RECORD_FILE, RunRecord
from submission.format import PartialSubmission, read_partial_submission


@dataclass(frozen=True, eq=False)
class KnownTask:
    """A task as the run solved it."""

    task: Task
    truth: tuple[Grid, ...] | None = None
    """None where the test outputs are not known."""


@dataclass(frozen=True)
class RunFolder:
    """A run directory, a prediction's directory, or a submission file without one."""

    path: Path
    data: Path | None = None
    """The dataset that was predicted, for a folder that has none of its own."""

    def __post_init__(self) -> None:
        """Raise FileNotFoundError, of one line, where there is nothing that a run left."""
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder")
        if not self.is_puzzles and not self._submission_path.is_file():
            files = "submission.json and no predictions.csv"
            raise FileNotFoundError(f"{self.path}: no {files} here; is it the --out folder of run or predict?")

    @property
    def _submission_path(self) -> Path:
        return self.path / "submission.json" if self.path.is_dir() else self.path

    @property
    def is_puzzles(self) -> bool:
        """Whether puzzles were solved, so that there are predictions and no submission."""
        return not self._submission_path.is_file() and self.predictions_path.is_file()

    @property
    def predictions_path(self) -> Path:
        """The predictions of puzzles."""
        return self.path / "predictions.csv"

    @property
    def submission_path(self) -> Path:
        """The submission file. Raises InputError for a run on puzzles."""
        if self.is_puzzles:
            raise InputError(f"{self.path}: a run on puzzles; this is for ARC tasks (score and curve are for puzzles)")
        return self._submission_path

    @property
    def result_path(self) -> Path:
        """What the run is for: the predictions of puzzles, or the submission."""
        return self.predictions_path if self.is_puzzles else self._submission_path

    @cached_property
    def submission(self) -> PartialSubmission:
        """What was submitted; attempts may be missing."""
        return read_partial_submission(self.submission_path)

    @cached_property
    def record(self) -> RunRecord | None:
        """`run.json`; None where there is none."""
        return read_dataclass(RunRecord, self.path / RECORD_FILE)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file of the folder; an empty one where there is no file. Raises InputError."""
        path = self.path / name
        return read_object(path) if path.exists() else {}

    @cached_property
    def votes(self) -> VoteFile | None:
        """`votes.json`; None where there is none, or one of another submission."""
        return votes_of(self.submission_path)

    @cached_property
    def dataset(self) -> TaskDataset | None:
        """The dataset of ARC tasks, None where there is none."""
        own = self.path / "dataset"
        folder = own if not self.is_puzzles and (own / MANIFEST_FILE).is_file() else self.data
        if folder is None:
            return None
        dataset = load_dataset(folder)
        if isinstance(dataset, PuzzleDataset):
            raise InputError(f"{folder}: a dataset of puzzles; this is for ARC tasks")
        return dataset

    @cached_property
    def predicted_tasks(self) -> dict[TaskId, Task]:
        """The tasks that were predicted, as the dataset has them; empty where there is none."""
        return {task.id: task for task in self.dataset.tasks_to_solve()} if self.dataset else {}

    @property
    def candidates(self) -> list[Path]:
        """The folders of the candidates that were kept, those of further networks after those of the run itself."""
        return candidates_of(self.path)

    @cached_property
    def ballot(self) -> Ballot | None:
        """The votes of the candidates, None where they or the dataset were not kept."""
        from pipeline.inference.candidates import tally  # noqa: PLC0415  (needs torch, which is slow to import)

        return tally(self.candidates, self.dataset) if self.candidates and self.dataset else None

    def source_names(self) -> list[str]:
        """Return the sources that the run solves; without its record, the public ones that the dataset comes from."""
        if self.record:
            return list(self.record.sources)
        return public_sources(self.dataset) if self.dataset else []

    def load_sources(self, notes: list[str]) -> tuple[list[Source], list[Source]]:
        """Return the sources that the run solves, whole and as it selected from them; adds to `notes` why there are none."""
        try:
            return (self.record.selection if self.record else Selection()).load(self.source_names())
        except (InputError, FileNotFoundError) as error:
            notes.append(f"The sources of the run cannot be read any more: {error}")
            return [], []

    def tasks(self, sources: Sequence[Source], name: str = "") -> list[KnownTask]:
        """Return the tasks of the submission, in its order, that `sources` or the dataset know, as `known_tasks` does.

        Raises InputError if no task is known, or if the sources that the user named (`name`) know none.
        """
        found = known_tasks(self.submission, self.predicted_tasks, sources)
        if name and all(each.task is self.predicted_tasks.get(each.task.id) for each in found):
            named = ", ".join(map(show_name, list(self.submission)[:5]))
            raise InputError(f"{name} does not have the tasks of {self.path} ({named}, ...)")
        if not found:
            raise InputError(f"{self.path}: has no dataset beside it that says what the tasks are: name them with --source")
        return found

    def result(self, known: KnownTask, with_votes: bool = True) -> TaskResult:
        """Return the result of a task, with the votes of the candidates where they were kept. Raises InputError."""
        ballot = self.ballot if with_votes else None
        return result_of(known, self.submission, ballot, f"{show_path(self.submission_path)}: ")

    def reported_results(self, known: Sequence[KnownTask], notes: list[str]) -> list[TaskResult]:
        """Return the results of tasks with the votes and drafts that the run kept; adds to `notes` what could not be read."""
        counted = self.votes.tests if self.votes else {}
        ranks = self.read_json(SCORE_FILE).get("truth_ranks") if self.votes else None  # else they are of another submission
        unit: DraftUnit = "segment"
        drafts: Mapping[TestId, Sequence[tuple[Tokens, float]]] = {}
        try:
            if (self.path / DRAFTS_FILE).is_file():
                unit, drafts = read_drafts(self.path / DRAFTS_FILE)
        except InputError as error:
            notes.append(f"The drafts cannot be read: {error}")
        results = []
        for result in (self.result(each, with_votes=False) for each in known):
            voted = counted.get(result.task.id, ())
            ranked = ranks.get(result.task.id) if isinstance(ranks, dict) else None
            tests = []
            for index, submitted in enumerate(result.tests):
                rank = ranked[index] if isinstance(ranked, list) and index < len(ranked) else None
                drawn = tuple(Draft(*draft) for draft in drafts.get((result.task.id, index), ()))
                test = replace(submitted, truth_rank=rank if type(rank) is int else None, drafts=drawn, draft_unit=unit)
                if index < len(voted):  # the attempts are the first of `top`, and after these come fallbacks
                    votes, grids = voted[index], [attempt.grid for attempt in test.attempts]
                    top = [*votes.top, *[(0, None)] * len(grids)]
                    attempts = tuple(Attempt(grid, *given) for grid, given in zip(grids, top, strict=False))
                    test = replace(test, attempts=attempts, views=votes.candidates, distinct=votes.distinct)
                tests.append(test)
            results.append(replace(result, tests=tuple(tests)))
        return results


def known_tasks(task_ids: Iterable[TaskId], stored: Mapping[TaskId, Task], sources: Sequence[Source]) -> list[KnownTask]:
    """Return those of `task_ids`, in order, that `sources` or a dataset know, whose tasks to solve are `stored` by id.

    A source counts for a task if its test inputs, or its last demonstration (`--hold-out`), are those of the dataset. A task
    that only the dataset has comes without outputs.
    """
    known: dict[TaskId, list[KnownTask]] = {}
    for source in [*sources, *map(hold_out, sources)]:
        for task in source.tasks:
            known.setdefault(task.id, []).append(KnownTask(task, source.solutions.get(task.id)))
    found = []
    for task_id in task_ids:
        own = stored.get(task_id)
        fitting = [each for each in known.get(task_id, ()) if own is None or same_tests(each.task, own)]
        if fitting:
            truths = [each.truth for each in fitting if each.truth and same_tests(each.task, fitting[0].task)]
            found.append(replace(fitting[0], truth=truths[0] if truths else None))
        elif own is not None:
            found.append(KnownTask(own))
    return found


def public_sources(dataset: TaskDataset) -> list[str]:
    """Return the public sources that the tests of a dataset come from."""
    sources = dataset.manifest.get("sources")
    entries = [entry for entry in sources if isinstance(entry, dict)] if isinstance(sources, list) else []
    names = [str(entry.get("name")) for entry in entries if entry.get("role") == "solve"]
    return [name for name in names if name in PUBLIC_SOURCES]


def result_of(known: KnownTask, submission: PartialSubmission, ballot: Ballot | None = None, where: str = "") -> TaskResult:
    """Return the result of a task in `submission`, with the votes of `ballot`. Raises InputError, beginning with `where`."""
    task, given, tests = known.task, submission.get(known.task.id, []), []
    if given and len(given) != len(task.test):
        raise InputError(f"{where}task {show_name(task.id)}: {len(task.test)} test inputs, but attempts for {len(given)}")
    for index in range(len(task.test)):
        grids = given[index] if given else (None, None)
        truth = known.truth[index] if known.truth else None
        if ballot is None:
            tests.append(TestResult(tuple(map(Attempt, grids)), truth=truth))
            continue
        ranked = enumerate(ballot.top(task.id, index, None), start=1)
        places = {grid_key(candidate.grid): (candidate.count, place) for place, candidate in ranked}
        votes = [None if grid is None else places.get(grid_key(grid), (0, 0))[0] for grid in grids]
        truth_votes, rank = (None, None) if truth is None else places.get(grid_key(truth), (0, 0))
        counted = ballot.tally(task.id, index)
        attempts = tuple(map(Attempt, grids, votes))
        tests.append(TestResult(attempts, counted.candidates, counted.distinct, truth, rank, truth_votes=truth_votes))
    return TaskResult(task, tuple(tests))
