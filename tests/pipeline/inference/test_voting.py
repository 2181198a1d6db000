"""Votes from disk: what was pooled is called pooled, and every test has its two attempts."""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from augment.grid import Grid
from eval.vote import Ballot
from pipeline.config import PredictConfig
from pipeline.data.dataset import TaskDataset
from pipeline.inference import facts as votes
from pipeline.inference.candidates import Candidates, Origin, count_votes, tally, write_candidates
from pipeline.inference.facts import write_attempts
from pipeline.inference.predictor import predict_and_vote
from pipeline.jobs.arc import leave_submission
from pipeline.system.time_limit import Budget
from submission.format import check_submission, read_submission
from tests.pipeline.tiny import tiny_dataset
from tests.pipeline.tinyrun import make_candidates

UNASKED = {"candidates": 0, "distinct": 0, "empty": 0, "top": []}
RED, BLUE = np.full((2, 3), 2, np.uint8), np.full((1, 1), 1, np.uint8)


def write(
    folder: Path, number: int, dataset: TaskDataset, votes: list[tuple[int, Grid | None, float]], source: str = "step 1"
) -> None:
    folder.mkdir(exist_ok=True)
    origin = Origin(source, dataset.tests_hash, number, number - 1, number, True)
    write_candidates(folder / f"round-{number:04d}.safetensors", make_candidates(votes), origin)


def place(dataset: TaskDataset, test: int) -> tuple[str, int]:
    return dataset.task_ids[dataset.test_task[test]], int(dataset.test_index[test])


def test_candidates_are_counted_under_the_ids_of_their_tests() -> None:
    dataset, ballot = tiny_dataset(), Ballot("here")
    votes = [(test, np.full((1, test + 1), 3, np.uint8), 0.5) for test in range(len(dataset.test_task))]
    count_votes(ballot, make_candidates([*votes, (0, None, 0.9)]), dataset)
    for test, grid, _ in votes:
        (best,) = ballot.top(*place(dataset, test), None)
        assert np.array_equal(best.grid, grid)
        assert (best.count, best.mean_probability) == (1, 0.5)
    assert ballot.tally(*place(dataset, 0)).empty == 1
    assert len({place(dataset, test) for test, _, _ in votes}) == 6


def test_rounds_of_a_checkpoint_are_one_source_and_folders_and_checkpoints_are_pooled_by_name(tmp_path: Path) -> None:
    dataset, one, two = tiny_dataset(), tmp_path / "one", tmp_path / "two"
    write(one, 1, dataset, [(0, RED, 0.5)])
    write(one, 2, dataset, [(0, RED, 1.0), (0, BLUE, 0.5)])
    write(one, 3, dataset, [(0, RED, 0.5)], "step 2")
    write(two, 1, dataset, [(0, RED, 0.5), (1, BLUE, 0.5)])
    for folders, sources, counted in (
        ([two], (f"{two}: step 1",), [(1, 0.5)]),
        ([one, two], (f"{one}: step 1", f"{one}: step 2", f"{two}: step 1"), [(4, 0.625), (1, 0.5)]),
    ):
        ballot = tally(folders, dataset)
        assert ballot.sources == sources
        assert [(each.count, each.mean_probability) for each in ballot.top(*place(dataset, 0), None)] == counted
        assert ballot.top(*place(dataset, 1), 1)[0].count == 1


def test_candidates_fit_every_dataset_of_the_same_tests_and_no_other_and_a_folder_without_any_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"^{folder}: no candidates here"):
            tally([folder], tiny_dataset())
    write(tmp_path, 1, tiny_dataset(augmentations=0), [(0, RED, 0.5)])
    dataset = tiny_dataset(augmentations=9)
    assert tally([tmp_path], dataset).top(*place(dataset, 0), 1)[0].count == 1
    with pytest.raises(ValueError, match=r"round-0001\.safetensors: candidates for other tests"):
        tally([tmp_path], tiny_dataset(seed=1))


def test_attempts_are_a_complete_file_that_says_where_it_comes_from(tmp_path: Path) -> None:
    dataset, ballot = tiny_dataset(), Ballot("step 1")
    count_votes(
        ballot, make_candidates([(0, RED, 0.5), (0, BLUE, 0.9), (0, RED, 0.1), (1, BLUE, 0.5), (1, None, 0.5)]), dataset
    )
    tasks, path = dataset.tasks_to_solve(), tmp_path / "submission.json"
    filled = write_attempts(path, ballot, tasks, dataset)
    check_submission(path, tasks)
    attempts = read_submission(path)
    task, index = place(dataset, 0)
    assert [grid.tolist() for grid in attempts[task][index]] == [RED.tolist(), BLUE.tolist()]
    task, index = place(dataset, 1)
    first, second = attempts[task][index]
    assert first.tolist() == BLUE.tolist()
    assert second.tolist() != BLUE.tolist()
    unasked = [list(place(dataset, test)) for test in range(2, 6)]
    assert orjson.loads((tmp_path / "votes.json").read_bytes()) == {
        "sources": ["step 1"],
        "views_least": 0,
        "views_most": 3,
        "submission": hashlib.sha256(path.read_bytes()).hexdigest(),
        "dataset": dataset.data_hash,
        "audit": {
            "leakage": "allow",
            "leaks": len(dataset.manifest["audit"]["leaks"]),
            "tests_checked": 6,
            "tests_unchecked": 0,
        },
        "empty_candidates": 1,
        "without_prediction": unasked,
        "with_one_prediction": [list(place(dataset, 1))],
        "tests": {
            "tiny000": [{"candidates": 3, "distinct": 2, "empty": 0, "top": [[2, 0.3], [1, 0.9]]}],
            "tiny001": [{"candidates": 2, "distinct": 1, "empty": 1, "top": [[1, 0.5]]}, UNASKED],
            "tiny002": [UNASKED],
            "tiny003": [UNASKED, UNASKED],
        },
    }
    assert [list(place) for place in filled.without_prediction] == unasked


def test_a_new_submission_loses_the_score_of_the_earlier_one(tmp_path: Path) -> None:
    dataset, ballot = tiny_dataset(), Ballot("step 1")
    (tmp_path / "score.json").write_text("{}")
    write_attempts(tmp_path / "submission.json", ballot, dataset.tasks_to_solve(), dataset)
    assert not (tmp_path / "score.json").exists()


def test_tasks_that_are_not_asked_for_are_not_submitted(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    tasks = [replace(task, test=task.test[:1]) for task in dataset.tasks_to_solve()[:2]]
    write_attempts(tmp_path / "submission.json", Ballot("none"), tasks, dataset)
    assert list(read_submission(tmp_path / "submission.json")) == [task.id for task in tasks]


class Rounds:
    """Stands in for a predictor: two rounds, of one view each."""

    def __init__(self, dataset: TaskDataset) -> None:
        self.dataset = self.given_dataset = dataset
        self.config, self.source, self.available = PredictConfig(), "step 1", dict.fromkeys(dataset.test_names(), 2)
        self.accelerator = SimpleNamespace(is_main_process=True)

        self.kept: list[object] = []

    def keep_rounds(self, folder: Path) -> list[object]:
        return self.kept

    def rounds(self, folder: Path, budget: Budget, kept: Origin | None) -> Iterator[tuple[Candidates, Origin]]:
        for number, grid in enumerate((RED, BLUE), start=1):
            yield make_candidates([(0, grid, number / 2)]), Origin("step 1", "", number, number - 1, number, complete=True)


class CutShort(Rounds):
    """Rounds of two views each; the last is cut short before the last test input."""

    def rounds(self, folder: Path, budget: Budget, kept: Origin | None) -> Iterator[tuple[Candidates, Origin]]:
        tests = range(len(self.dataset.test_task))
        for number, predicted in enumerate((tests, tests[:-1]), start=1):
            candidates = make_candidates([(test, RED, 0.5) for test in predicted for _ in range(2)])
            yield candidates, Origin("w, step 1", "", number, 2 * number - 2, 2 * number, complete=predicted == tests)


@pytest.mark.parametrize(("failing", "kept"), [(1, False), (2, False), (1, True)])
def test_a_submission_that_the_disk_does_not_take_is_tried_again_after_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: int, kept: bool
) -> None:
    dataset, calls, write_it = tiny_dataset(), [], votes.write_submission

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        write_it(*arguments)

    monkeypatch.setattr(votes, "write_submission", full)
    tasks = dataset.tasks_to_solve()
    expected = nullcontext() if failing == 1 else pytest.raises(OSError, match="No space left")
    rounds = Rounds(dataset)
    if kept:  # of an earlier start, while the disk is still full
        rounds.kept = list(rounds.rounds(tmp_path, Budget(None, 0.0), None))[:1]
    with expected:
        predict_and_vote(rounds, tmp_path, Budget(None, 0.0), tasks, resume=kept)  # type: ignore[arg-type]
    assert "the earlier submission stays: [Errno 28] No space left on device" in caplog.text
    first, second = read_submission(tmp_path / "submission.json")[tasks[0].id][0]
    chosen = (RED, BLUE) if kept else (BLUE, RED) if failing == 1 else (RED, None)  # of a round that was kept RED counts twice
    assert np.array_equal(first, chosen[0])
    assert chosen[1] is None or np.array_equal(second, chosen[1])


@pytest.mark.parametrize(
    ("earlier", "own", "round_views", "views"),
    [
        ("w, step 1", True, 2, 3),
        ("w, step 1", False, 2, 2),  # whose votes are of another submission
        ("w, step 0", True, 2, 2),
        ("w, step 0", True, 8, 3),
        ("w, step 7", True, 2, 3),
    ],
)
def test_a_submission_of_more_views_stays_unless_a_later_network_has_had_a_round_of_them(
    tmp_path: Path, earlier: str, own: bool, round_views: int, views: int
) -> None:
    dataset, ballot, path = tiny_dataset(), Ballot(earlier), tmp_path / "submission.json"
    tasks, rounds = dataset.tasks_to_solve(), Rounds(dataset)
    count_votes(ballot, make_candidates([(0, BLUE, 0.5)] * 3), dataset)
    write_attempts(path, ballot, tasks, dataset)
    if not own:
        left = (tmp_path / "votes.json").read_bytes()
        leave_submission(tasks, tmp_path, resume=False)
        assert not (tmp_path / "votes.json").exists()
        (tmp_path / "votes.json").write_bytes(left)  # as if an earlier version had left it
    rounds.available = dict.fromkeys(dataset.test_names(), 9)
    rounds.config, rounds.source = replace(rounds.config, round_views=round_views), "w, step 1"
    predict_and_vote(rounds, tmp_path, Budget(None, 0.0), tasks)  # type: ignore[arg-type]
    kept = votes.votes_of(path)
    assert kept is not None
    assert kept.views_most == views


@pytest.mark.parametrize(("earlier", "views", "stays"), [(2, 9, False), (3, 9, True), (3, 2, False)])
def test_a_round_that_is_cut_short_replaces_no_submission_of_more_views_of_the_last_test_input_if_it_has_more(
    tmp_path: Path, earlier: int, views: int, stays: bool
) -> None:
    dataset, ballot, path = tiny_dataset(), Ballot("w, step 1"), tmp_path / "submission.json"
    tasks, rounds, tests = dataset.tasks_to_solve(), CutShort(dataset), range(len(dataset.test_task))
    count_votes(ballot, make_candidates([(test, BLUE, 0.5) for test in tests for _ in range(earlier)]), dataset)
    write_attempts(path, ballot, tasks, dataset)
    rounds.source, rounds.available = "w, step 1", dict.fromkeys(dataset.test_names(), 9)
    rounds.available[dataset.test_names()[-1]] = views
    predict_and_vote(rounds, tmp_path, Budget(None, 0.0), tasks)  # type: ignore[arg-type]
    submitted = read_submission(path)
    assert all(np.array_equal(first, BLUE if stays else RED) for task in tasks for first, _ in submitted[task.id])
