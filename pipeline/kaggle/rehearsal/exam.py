"""The tasks of a rehearsal: public tasks under new ids as hidden tests, and a competition folder that contains none of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from augment.errors import InputError
from augment.grid import Grid
from augment.symmetry import task_content
from augment.task import Pair, Solutions, Task, TaskId
from pipeline.data.leakage import canonical_key
from pipeline.data.sources import Source, load_source


@dataclass(frozen=True, eq=False)
class Exam:
    """The tasks of a rehearsal."""

    tasks: tuple[Task, ...]
    """The hidden ones, under new ids."""
    solutions: dict[TaskId, tuple[Grid, ...]]
    training: Source
    evaluation: Source

    def smaller(self, count: int) -> "Exam":
        """Return the same with only the `count` smallest hidden tasks, which fit a short run."""
        cells = {task.id: sum(grid.size for example in task_content(task) for grid in example) for task in self.tasks}
        chosen = sorted(self.tasks, key=lambda task: cells[task.id])[:count]
        return replace(self, tasks=tuple(chosen), solutions={task.id: self.solutions[task.id] for task in chosen})


def make_exam(
    hidden_from: Sequence[str], training_from: str, evaluation_from: Sequence[str], count: int | None, seed: int
) -> Exam:
    """Return an exam of up to `count` tasks drawn by `seed` from sources whose solutions are known.

    Tasks for training and evaluation that share a pair with a hidden one, under any id and view, are left out. Raises
    InputError.
    """
    pool = [(task, source.solutions[task.id]) for source in map(load_source, hidden_from) for task in source.tasks
            if task.id in source.solutions]  # fmt: skip
    if not pool:
        raise InputError(f"the test outputs of {' + '.join(hidden_from)} are not known, so they cannot be the hidden tasks")
    random = np.random.default_rng(seed)
    chosen = [pool[i] for i in random.permutation(len(pool))[: count or 240].tolist()]  # as many as Kaggle hides
    ids: set[str] = set()
    while len(ids) < len(chosen):  # eight hex digits, like those of ARC and in their order
        ids.add(f"{int(random.integers(16**8)):08x}")
    tasks = tuple(replace(task, id=new) for (task, _), new in zip(chosen, sorted(ids), strict=True))
    solutions = {new: outputs for (_, outputs), new in zip(chosen, sorted(ids), strict=True)}
    keys = _keys(tasks, solutions)
    training = _without(load_source(training_from), keys, set())
    public, ids = list[Source](), set(training.solutions)
    for spec in evaluation_from:
        public.append(_without(load_source(spec), keys, ids))
        ids |= public[-1].solutions.keys()
    known = {task_id: grids for source in public for task_id, grids in source.solutions.items()}
    evaluation = Source("evaluation", tuple(task for source in public for task in source.tasks), known)
    return Exam(tasks, solutions, training, evaluation)


def write_competition(folder: Path, exam: Exam, tests: Sequence[Task]) -> None:
    """Lay out `folder` as Kaggle mounts it, with `tests` as its test file and no solutions of them."""
    folder.mkdir(parents=True)
    for split, source in (("training", exam.training), ("evaluation", exam.evaluation)):
        _write(folder / f"arc-agi_{split}_challenges.json", {task.id: _challenge(task) for task in source.tasks})
        known = {task.id: [grid.tolist() for grid in source.solutions[task.id]] for task in source.tasks}
        _write(folder / f"arc-agi_{split}_solutions.json", known)
    _write(folder / "arc-agi_test_challenges.json", {task.id: _challenge(task) for task in tests})
    blank = {"attempt_1": [[0, 0], [0, 0]], "attempt_2": [[0, 0], [0, 0]]}
    _write(folder / "sample_submission.json", {task.id: [blank for _ in task.test] for task in tests})


def _without(source: Source, keys: set[bytes], ids: set[TaskId]) -> Source:
    """Return `source` without tasks that have a pair with one of `keys`, an unknown output, or one of `ids`."""
    kept = [
        task
        for task in source.tasks
        if task.id in source.solutions and task.id not in ids and not _keys([task], source.solutions) & keys
    ]
    return replace(source, tasks=tuple(kept), solutions={task.id: source.solutions[task.id] for task in kept})


def _keys(tasks: Iterable[Task], solutions: Solutions) -> set[bytes]:
    """Return the keys, equal for all views of a pair, of all demonstrations and tests."""
    return {
        canonical_key(pair)
        for task in tasks
        for pair in (*task.train, *(Pair(given, wanted) for given, wanted in zip(task.test, solutions[task.id], strict=True)))
    }


def _challenge(task: Task) -> dict[str, object]:
    return {
        "train": [{"input": pair.input.tolist(), "output": pair.output.tolist()} for pair in task.train],
        "test": [{"input": grid.tolist()} for grid in task.test],
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
