"""A folder that a run or a prediction left, read again: what was asked, what was submitted, how the views voted.

For the commands that look back (`pipeline.cli.show`). Everything but the submission may be missing: a prediction has no
dataset of its own, a submission of another system no votes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from augment.grid import Grid, grid_key
from augment.task import Task, TaskId
from eval.provenance import Provenance
from eval.vote import Ballot
from pipeline.data.dataset import load_dataset
from pipeline.data.puzzles.build import PuzzleStore
from pipeline.data.sources import PUBLIC_SOURCES, Selection, Source, hold_out, load_source
from pipeline.data.store import Store
from pipeline.jobs.provenance import provenance_beside
from submission.format import PartialSubmission, read_submission

_NAMED = 5


@dataclass(frozen=True)
class RunFolder:
    """A run directory, a prediction's directory, or a submission file alone."""

    path: Path
    data: Path | None = None
    """The dataset that was predicted, where it is not in the folder itself."""

    def __post_init__(self) -> None:
        """Raise FileNotFoundError or ValueError, of one line, where there is no submission of ARC tasks."""
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder")
        if not self.submission_path.is_file():
            if (self.path / "predictions.csv").is_file():
                raise ValueError(f"{self.path}: a run on puzzles; this is for ARC tasks (score and curve are for puzzles)")
            raise FileNotFoundError(f"{self.path}: no submission.json here; is it the --out folder of run or predict?")

    @property
    def submission_path(self) -> Path:
        """The submission file."""
        return self.path / "submission.json" if self.path.is_dir() else self.path

    @cached_property
    def submission(self) -> PartialSubmission:
        """What was submitted; attempts may be missing."""
        return read_submission(self.submission_path, allow_missing=True)

    @cached_property
    def store(self) -> Store | None:
        """The dataset, None where there is none."""
        folder = self.data or self.path / "dataset"
        if self.data is None and not (folder / "manifest.json").is_file():
            return None
        store = load_dataset(folder)
        if isinstance(store, PuzzleStore):
            raise ValueError(f"{folder}: a dataset of puzzles; this is for ARC tasks")
        return store

    @property
    def candidates(self) -> Path | None:
        """The folder of the candidates, None where none were kept."""
        folder = self.path / "candidates"
        return folder if any(folder.glob("round-*.safetensors")) else None

    @cached_property
    def ballot(self) -> Ballot | None:
        """The votes of the candidates, None where they or the dataset were not kept."""
        from pipeline.inference.voting import tally  # noqa: PLC0415  (needs torch, which is slow to import)

        return tally([self.candidates], self.store) if self.candidates and self.store else None

    @cached_property
    def provenance(self) -> Provenance:
        """What the attempts rest on, as far as is known."""
        return provenance_beside(self.submission_path)

    def public_sources(self) -> list[str]:
        """Return the public sources that the dataset says its tests come from."""
        entries = self.store.manifest.get("sources") if self.store else None
        listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        named = [str(entry.get("name")) for entry in listed if entry.get("role") == "solve"]
        return [name for name in named if name in PUBLIC_SOURCES]

    def tests(self) -> dict[TaskId, tuple[Grid, ...] | None]:
        """Return the tasks that were to be solved, with their test inputs where the dataset is there."""
        if self.store is None:
            return dict.fromkeys(self.submission)
        return {task.id: task.test for task in self.store.tasks_to_solve()}


@dataclass(frozen=True, eq=False)
class Asked:
    """A task as a run was asked it."""

    task: Task
    truth: tuple[Grid, ...] | None
    """None where the test outputs are not known."""


def asked_tasks(folder: RunFolder, specs: Sequence[str] = (), selection: Selection | None = None) -> list[Asked]:
    """Return the tasks that `folder` solves, in the order of its submission, with what is known of them.

    Demonstrations and truth come from `specs`, by default the public sources that the dataset names; a source counts for a task
    whose test inputs are those of the run, be they the last demonstrations (`--hold-out`). Raises ValueError where neither a
    source nor the dataset says what the tasks are, and for `specs` that know none of them.
    """
    sources = [load_source(spec) for spec in specs or folder.public_sources()]
    if selection is not None:
        sources = [selection.apply(source) for source in sources]
    known = _by_id([*sources, *map(hold_out, sources)])
    tests, found, matched = folder.tests(), [], 0
    stored = {task.id: task for task in folder.store.tasks_to_solve()} if folder.store else {}
    for task_id in folder.submission:
        inputs = tests.get(task_id)
        fitting = [asked for asked in known.get(task_id, []) if inputs is None or _equal(asked.task.test, inputs)]
        if fitting:
            found.append(fitting[0])
            matched += 1
        elif task_id in stored:
            found.append(Asked(stored[task_id], None))
    if specs and not matched:
        named = ", ".join(list(folder.submission)[:_NAMED])
        raise ValueError(f"{' + '.join(specs)} does not have the tasks of {folder.path} ({named}, ...)")
    if not found:
        raise ValueError(f"{folder.path}: has no dataset beside it that says what the tasks are: name them with --source")
    return found


def _by_id(sources: Iterable[Source]) -> dict[TaskId, list[Asked]]:
    known: dict[TaskId, list[Asked]] = {}
    for source in sources:
        for task in source.tasks:
            known.setdefault(task.id, []).append(Asked(task, source.solutions.get(task.id)))
    return known


def _equal(first: Sequence[Grid], second: Sequence[Grid]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def places_of(ballot: Ballot, task_id: TaskId, index: int) -> dict[bytes, tuple[int, int]]:
    """Return for each grid that was a candidate of a test input, by its key, its votes and its place from 1."""
    ranked = ballot.top(task_id, index, None)
    return {grid_key(candidate.grid): (candidate.count, place) for place, candidate in enumerate(ranked, start=1)}
