"""The exam of a rehearsal: no hidden task can be learned from what is mounted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from augment.grid import Grid
from augment.transform import Transform
from pipeline.data.leakage import canonical_key
from pipeline.data.sources import Source, load_source
from pipeline.kaggle.rehearsal.exam import make_exam, write_competition
from tests.pipeline.tiny import tiny_source, write_kaggle


def recolored(grid: Grid) -> Grid:
    """A rule that makes pairs of different sources different."""
    return ((grid + 3) % 10).astype(np.uint8)


def seen_through(source: Source, transform: Transform, name: str) -> Source:
    """The tasks of a source through a transform, under other ids."""
    tasks = tuple(replace(transform.apply_task(task), id=f"{name}{task.id}") for task in source.tasks)
    solutions = {name + key: tuple(map(transform.apply, grids)) for key, grids in source.solutions.items()}
    return Source(name, tasks, solutions)


def joined(*sources: Source) -> Source:
    tasks = tuple(task for source in sources for task in source.tasks)
    return Source("joined", tasks, {key: value for source in sources for key, value in source.solutions.items()})


def large(seed: int, tasks: int, name: str) -> Source:
    """Tasks with grids so large that no two are alike by chance."""
    return tiny_source(seed, tasks, name, recolored, lambda rng: rng.integers(0, 10, size=(6, 7), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    secret = large(1, 6, "secret")
    turned = seen_through(secret, Transform(3, (0, 2, 1, 4, 3, 6, 5, 8, 7, 9)), "turned")
    write_kaggle(tmp_path, joined(large(2, 20, "train"), turned), "training", True)
    write_kaggle(tmp_path, joined(secret, large(3, 12, "eval")), "evaluation", True)
    write_kaggle(tmp_path / "secret", secret, "evaluation", True)
    return tmp_path


def mounted(folder: Path) -> tuple[str, list[str]]:
    """The sources of training and evaluation tasks."""
    return f"kaggle:{folder}:training", [f"kaggle:{folder}:evaluation"]


def test_no_view_of_a_hidden_task_is_mounted_under_any_id(folder: Path, tmp_path: Path) -> None:
    exam = make_exam([f"kaggle:{folder}/secret:evaluation"], *mounted(folder), None, 0)
    assert len(exam.tasks) == 6
    assert [task.id for task in exam.training.tasks] == [f"train{number:03d}" for number in range(20)]
    assert [task.id for task in exam.evaluation.tasks] == [f"eval{number:03d}" for number in range(12)]
    write_competition(tmp_path / "mounted", exam, exam.tasks)
    hidden = {canonical_key(pair) for task in exam.tasks for pair in task.train}
    for split in ("training", "evaluation"):
        public = load_source(f"kaggle:{tmp_path}/mounted:{split}")
        assert len(public.solutions) == len(public.tasks) > 0
        assert not {canonical_key(pair) for task in public.tasks for pair in task.train} & hidden


def test_the_hidden_tests_are_mounted_without_solutions_and_old_ids(folder: Path, tmp_path: Path) -> None:
    exam = make_exam([f"kaggle:{folder}/secret:evaluation"], *mounted(folder), 4, 7)
    write_competition(tmp_path / "mounted", exam, exam.tasks)
    assert {path.name for path in (tmp_path / "mounted").iterdir()} == {
        *(f"arc-agi_{split}_{kind}.json" for split in ("training", "evaluation") for kind in ("challenges", "solutions")),
        *("arc-agi_test_challenges.json", "sample_submission.json"),
    }
    found = load_source(f"kaggle:{tmp_path}/mounted:test")
    assert [task.id for task in found.tasks] == [task.id for task in exam.tasks]
    assert found.solutions == {}
    for name in ("arc-agi_test_challenges.json", "sample_submission.json"):
        assert "secret" not in (tmp_path / "mounted" / name).read_text()
    sample = json.loads((tmp_path / "mounted" / "sample_submission.json").read_text())
    assert {task_id: len(entries) for task_id, entries in sample.items()} == {task.id: len(task.test) for task in exam.tasks}
    again = make_exam([f"kaggle:{folder}/secret:evaluation"], *mounted(folder), 4, 7)
    assert [task.id for task in again.tasks] == [task.id for task in exam.tasks]


def test_a_smaller_exam_has_the_smallest_tasks(folder: Path) -> None:
    exam = make_exam(["arc1:evaluation"], *mounted(folder), 30, 0)
    small = exam.smaller(5)
    assert len(small.tasks) == len(small.solutions) == 5
    largest = max(grid.size for task in small.tasks for grid in task.test)
    assert largest <= sorted(max(grid.size for grid in task.test) for task in exam.tasks)[20]


def test_hidden_tasks_need_known_solutions(folder: Path) -> None:
    write_kaggle(folder, large(5, 3, "blind"), "test", False)
    with pytest.raises(ValueError, match="are not known, so they cannot be the hidden tasks"):
        make_exam([f"kaggle:{folder}:test"], *mounted(folder), None, 0)
