"""What is read back from a run folder belongs together: tests and their truths, a submission and its votes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.config import BuildConfig
from pipeline.data.build import build
from pipeline.data.sources import Selection, hold_out, load_source
from pipeline.jobs.networks import candidates_of
from pipeline.reports.run_folder import KnownTask, RunFolder, known_tasks, result_of
from tests.grids import cell
from tests.pipeline.tiny import tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, write_run

SOURCE = tiny_source(3, 4, "task")


def test_the_truth_of_a_held_out_test_is_that_demonstration() -> None:
    held = hold_out(SOURCE)
    stored = {task.id: task for task in held.tasks}
    (first, *_) = known_tasks(stored, stored, [SOURCE])
    assert first.truth is not None
    assert [grid.tolist() for grid in first.truth] == [SOURCE.tasks[0].train[-1].output.tolist()]
    (first, *_) = known_tasks(stored, {}, [SOURCE])  # without a dataset nothing says that it was held out
    assert first.truth is not None
    assert [grid.tolist() for grid in first.truth] == [grid.tolist() for grid in SOURCE.solutions["task000"]]


def test_sources_that_differ_in_the_tests_of_a_task_are_refused_in_any_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(SOURCE, solutions=SOURCE.solutions | {"task001": (cell(7), cell(7))})
    specs = [
        write_kaggle(tmp_path / name, each, "evaluation", with_solutions=True) for name, each in (("a", SOURCE), ("b", other))
    ]
    write_run(tmp_path / "run", SOURCE, [(0, cell(0), 0.5)])
    submission = tmp_path / "run" / "submission.json"
    (tmp_path / "copy.json").write_bytes(submission.read_bytes())
    for given in (specs, specs[::-1]):
        sources = [word for spec in given for word in ("--source", spec)]
        for command in (("score", submission), ("compare", submission, tmp_path / "copy.json")):
            assert call(*command, *sources) == 2
            said = f"task task001 has other outputs in {given[1]} and {given[0]}: take one of them at a time"
            assert said in capsys.readouterr().err
    assert call("report", tmp_path / "run", "--source", specs[0], "--source", specs[1]) == 0  # the first is taken
    with pytest.raises(ValueError, match="task task001 has other outputs in"):
        build([SOURCE, other], [], BuildConfig(1, "all", 0, 1), leakage="allow")
    assert call("score", submission, "--source", specs[0], "--source", specs[0]) == 0


def test_what_a_vote_adds_is_judged_by_the_tests_of_its_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_kaggle(tmp_path / "kaggle", SOURCE, "evaluation", with_solutions=True)
    held = Selection(hold_out=True).apply(load_source(spec))
    right = [(number, held.solutions[task.id][0], 0.9) for number, task in enumerate(held.tasks)]
    for name, votes in (("good", right), ("bad", [(number, cell(0), 0.9) for number, _, _ in right])):
        write_run(tmp_path / name, held, votes * (2 if name == "good" else 1), name)
    votes = [tmp_path / name / "candidates" for name in ("good", "bad")]
    words = ("--candidates", *votes, "--source", spec, "--out", tmp_path / "out" / "submission.json")
    assert call("vote", "--data", tmp_path / "good" / "dataset", *words) == 0
    assert (
        "bad/candidates: other attempts for 4 of 4 test inputs, pass@2 100.00% in place of 100.00%" in capsys.readouterr().out
    )


def test_votes_of_another_submission_are_none(tmp_path: Path) -> None:
    write_run(tmp_path / "run", SOURCE, [(0, cell(1), 0.9)])
    assert RunFolder(tmp_path / "run").votes is not None
    path = tmp_path / "run" / "submission.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task000": [{"attempt_1": [[2]], "attempt_2": [[3]]}]}))
    assert RunFolder(tmp_path / "run").votes is None
    (known, *_) = RunFolder(tmp_path / "run").tasks([SOURCE])
    (result,) = RunFolder(tmp_path / "run").reported_results([known], [])
    assert [attempt.votes for attempt in result.tests[0].attempts] == [None, None]


def test_a_task_that_was_not_tried_has_two_missing_attempts() -> None:
    result = result_of(KnownTask(SOURCE.tasks[0], SOURCE.solutions["task000"]), {"task000": []})
    assert [attempt.grid for attempt in result.tests[0].attempts] == [None, None]
    assert result.tests[0].predicted
    assert "fallback" not in result.tags


def test_runs_on_different_tests_of_one_task_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_kaggle(tmp_path / "kaggle", SOURCE, "evaluation", with_solutions=True)
    whole = load_source(spec)
    write_run(tmp_path / "whole", whole, [(0, cell(1), 0.9)])
    write_run(tmp_path / "held", hold_out(whole), [(0, cell(1), 0.9)])
    assert call("compare", tmp_path / "whole", tmp_path / "held", "--source", spec) == 2
    assert "the runs have different tests of task task000: score each of them alone" in capsys.readouterr().err
    assert call("compare", tmp_path / "held", "--source", spec) == 0
    assert "demonstrations held out of: no public data" in capsys.readouterr().out


def test_votes_of_a_network_count_once_however_it_is_named(tmp_path: Path) -> None:
    spec = write_kaggle(tmp_path / "kaggle", SOURCE, "evaluation", with_solutions=True)
    run, further = tmp_path / "run", tmp_path / "run" / "networks" / "1"
    for folder in (run, further):
        write_run(folder, load_source(spec), [(test, cell(1), 0.9) for test in range(6)], str(folder))
    pooled = tmp_path / "pooled" / "submission.json"
    assert call("compare", run, further, "--source", spec, "--pool", pooled) == 0
    assert json.loads(pooled.with_name("votes.json").read_text())["views_most"] == 2


def test_votes_of_networks_that_a_run_went_on_without_do_not_count(tmp_path: Path) -> None:
    folders = [tmp_path, *(tmp_path / "networks" / str(number) for number in (1, 2, 10))]
    for folder in folders:
        write_run(folder, SOURCE, [(0, cell(1), 0.9)])
    assert [path.parent for path in candidates_of(tmp_path)] == folders
    for networks, there in ((3, folders[:3]), (1, folders[:1])):
        (tmp_path / "run.json").write_text(json.dumps({"sources": ["arc1:training"], "networks": networks}))
        assert [path.parent for path in candidates_of(tmp_path)] == there


def test_a_file_of_solutions_says_itself_what_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", SOURCE, [(0, cell(1), 0.9)])
    solutions = tmp_path / "solutions.json"
    known = {task_id: [np.asarray(grid).tolist() for grid in grids] for task_id, grids in SOURCE.solutions.items()}
    solutions.write_text(json.dumps(known))
    path = str(tmp_path / "run" / "submission.json")
    assert main(["score", path, "--solutions", str(solutions), "--max-side", "3"]) == 2
    assert "with --solutions, that file says what is judged" in capsys.readouterr().err
