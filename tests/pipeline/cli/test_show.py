"""show and compare: pictures, attempts and votes of a finished run, and one line for bad input."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

import pipeline.cli.show
import pipeline.data.sources
import pipeline.reports.run_folder
from augment.transform import Transform, transform_to_int
from pipeline.config import BuildConfig
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.sources import Source, hold_out, load_source
from pipeline.inference.candidates import read_candidates, write_candidates
from submission.format import check_submission, read_submission
from tests.pipeline.tiny import tiny_config, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, one_error, write_run, write_weights

SOURCE = tiny_source(3, 4, "task")
FIRST, SECOND = "task000", "task001"
"""The second has two tests."""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source with solutions, which stands for the public ones where none is named."""
    spec = write_kaggle(tmp_path / "kaggle", SOURCE, "evaluation", with_solutions=True)
    monkeypatch.setattr(pipeline.data.sources, "PUBLIC_SOURCES", (spec,))
    return spec


@pytest.fixture
def made(tmp_path: Path, spec: str) -> Path:
    """A run: the first task is missed by one cell, its truth is third; the second is solved in one of two tests."""
    near, far = SOURCE.solutions[FIRST][0].copy(), np.full((1, 9), 7, np.uint8)
    near[0, 0] = (near[0, 0] + 1) % 10
    votes = [(0, near, 0.9)] * 3 + [(0, far, 0.5)] * 2 + [(0, SOURCE.solutions[FIRST][0], 0.9), (0, None, 0.1)]
    votes += [(1, SOURCE.solutions[SECOND][0], 0.9)] * 2
    votes += [(test, grid, 0.2) for test in range(2, 6) for grid in (far, far.T.copy())]  # no fallback may be right by chance
    write_run(tmp_path / "run", load_source(spec), votes)
    return tmp_path / "run"


def test_a_task_is_drawn_with_its_truth(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", FIRST) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == f"Task {FIRST} of {spec}"
    assert all(words in shown for words in ("input 3", "output 3", "test input 1", "truth"))
    assert "attempt" not in shown  # nobody has made one
    assert "\x1b" not in shown, "no colors where the output is no terminal"
    assert call("show", FIRST, "--source", spec, "--color", "always") == 0
    assert "\x1b[48;2;" in capsys.readouterr().out


def test_a_view_is_drawn_by_either_code(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    transform = Transform.parse("3.463582197")
    shown = []
    for code in (transform.code, transform_to_int(transform)):
        assert call("show", FIRST, "--transform", code) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    row = " ".join(map(str, transform.apply(SOURCE.tasks[0].test[0])[0].tolist()))
    assert f"seen through transform {transform.code}" in shown[0]
    assert f" {row} " in shown[0]


def test_a_run_adds_attempts_votes_and_the_reason(made: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", FIRST, "--run", made, "--source", spec) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = SOURCE.solutions[FIRST][0].size
    assert any(line.startswith(f"  attempt 1 (3 of 7 votes): 1 of {cells} cells is wrong: row 1, column 1") for line in lines)
    assert any(line.startswith("  attempt 2 (2 of 7 votes): wrong size: 1 x 9") for line in lines)
    assert lines[-1] == "  the truth got 1 of 7 votes, place 3"
    assert call("show", FIRST, "--run", made) == 0
    shown = capsys.readouterr().out
    assert "  attempt 1 (3 of 7 votes)\n" in shown
    assert "\ntruth" not in shown, "it is not known without --source"
    assert "WRONG" not in shown


def test_a_run_without_a_task_lists_near_misses_first(made: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--run", made, "--source", spec) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{FIRST}         attempt 1: 1 of ")
    assert any(line == f"{SECOND} test 1  right by attempt 1" for line in lines)
    assert lines[-1].startswith("1 of 6 test outputs solved")


def test_held_out_demonstrations_are_judged_by_their_outputs(
    tmp_path: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held = hold_out(load_source(spec))
    write_run(tmp_path / "held", held, [(0, held.solutions[FIRST][0], 0.9)])
    assert call("show", FIRST, "--run", tmp_path / "held", "--source", spec) == 0
    assert "  attempt 1 (1 of 1 votes): right" in capsys.readouterr().out


def test_pictures_are_drawn_with_and_without_a_run(made: Path, spec: str, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "task.png"
    for options in (("--source", spec), ("--run", made, "--transform", "5")):
        assert call("show", SECOND, *options, "--png", path) == 0
        assert path.read_bytes().startswith(b"\x89PNG")
        path.unlink()


def test_the_attempts_of_any_submission_are_shown(made: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", SECOND, "--source", spec, "--submission", made / "submission.json") == 0
    assert "  attempt 1: right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "which task? name it, or name a run with --run"),
        (("nothing",), "no task 'nothing' in kaggle:"),
        ((FIRST, "--transform", "9.1"), "expected a digit, a dot and nine digits"),
        ((FIRST, "--transform", "99999999"), "an integer transform code is 0..2903039"),
        ((FIRST, "--run", "nowhere"), "nowhere: no such file or folder"),
        (("nothing", "--run", "{run}"), "has no task 'nothing'; it solves 4 tasks: task000, task001"),
        ((FIRST, "--run", "{run}", "--source", "{other}"), "does not have the tasks of"),
    ],
)
def test_bad_questions_get_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    other = write_kaggle(tmp_path / "kaggle", tiny_source(9, 2, "other"), "training", with_solutions=True)
    assert call("show", *(argument.format(run=made, other=other) for argument in arguments)) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_runs_are_compared_and_their_votes_pooled(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = SOURCE.solutions[FIRST][0]
    wrong = np.full((1, 9), 7, np.uint8)
    votes = [(test, grid, 0.2) for test in range(1, 6) for grid in (wrong, wrong.T.copy())]
    write_run(tmp_path / "other", load_source(spec), [(0, truth, 0.8)] * 3 + votes, "step 2")
    pool, json = tmp_path / "pooled" / "submission.json", tmp_path / "found.json"
    assert call("compare", made, tmp_path / "other", "--source", spec, "--pool", pool, "--json", json) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{spec}: 4 tasks, 6 test outputs"
    assert f"solved only by {made}: 1 output ({SECOND} test 1)" in lines
    assert f"solved only by {tmp_path / 'other'}: 1 output ({FIRST})" in lines
    assert any(line.startswith("votes of 2 pooled") and "37.50%" in line for line in lines)
    check_submission(pool, SOURCE.tasks)
    assert np.array_equal(read_submission(pool)[FIRST][0][0], truth), "4 of 10 votes are the most"
    assert len(orjson.loads((pool.parent / "votes.json").read_bytes())["sources"]) == 2
    assert orjson.loads(json.read_bytes())["alone"][str(made)] == [[SECOND, 0]]


def test_submissions_of_other_systems_are_compared_without_votes(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.json"
    alone.write_bytes((made / "submission.json").read_bytes())
    assert call("compare", made, alone, "--source", spec) == 0
    shown = capsys.readouterr().out
    assert "solved by all: 1 output\nsolved by none, left to a further run: 5 outputs" in shown
    assert "pooled" not in shown
    assert call("compare", alone, "--source", spec, "--pool", tmp_path / "p.json") == 2
    assert "no votes to pool" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "vote"])
def test_the_votes_of_a_run_are_not_replaced_by_those_of_another_submission_in_its_folder(
    made: Path, spec: str, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    votes, pool = (made / "votes.json").read_bytes(), made / "pooled.json"
    words = {
        "compare": ("compare", made, "--source", spec, "--pool", pool),
        "vote": ("vote", "--data", made / "dataset", "--candidates", made / "candidates", "--out", pool),
    }
    assert call(*words[command]) == 2
    assert f"its folder has the votes of {made}/submission.json; choose another one" in one_error(capsys, command)
    assert (made / "votes.json").read_bytes() == votes
    assert not pool.exists()


def test_runs_that_predicted_different_tests_are_not_pooled(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = load_source(spec)
    write_run(tmp_path / "smaller", replace(source, tasks=source.tasks[:2]), [(0, SOURCE.solutions[FIRST][0], 0.8)])
    compare = ("compare", made, tmp_path / "smaller", "--source", spec)
    assert call(*compare) == 0
    assert "the runs have different tests, so their votes are not pooled" in capsys.readouterr().out
    assert call(*compare, "--pool", tmp_path / "p.json") == 2
    assert not (tmp_path / "p.json").exists()


def test_a_run_keeps_its_own_dataset_whatever_others_are_given(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = load_source(spec)
    write_run(tmp_path / "smaller", replace(source, tasks=source.tasks[:2]), [])
    shown = []
    for more in ((), ("--data", tmp_path / "smaller" / "dataset")):
        assert call("compare", made, "--source", spec, *more) == 0
        assert call("show", "--run", made, "--source", spec, *more) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_a_run_on_puzzles_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "predictions.csv").touch()
    assert call("compare", tmp_path) == 2
    assert "a run on puzzles" in capsys.readouterr().err


def test_public_sources_are_found_in_the_dataset(tmp_path: Path) -> None:
    write_run(tmp_path / "run", Source("arc1:training", SOURCE.tasks, {}), [])
    assert pipeline.reports.run_folder.RunFolder(tmp_path / "run").source_names() == ["arc1:training"]


def test_the_record_of_a_run_says_where_the_truth_is(made: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever kind its source is of; one that has moved since costs the truth, not the page."""
    (made / "run.json").write_bytes(orjson.dumps({"sources": [spec]}))
    assert call("show", "--run", made) == 0
    assert "1 of 6 test outputs solved" in capsys.readouterr().out
    assert call("compare", made) == 0
    assert capsys.readouterr().out.startswith(f"{spec}: 4 tasks, 6 test outputs\n")
    (made / "run.json").write_bytes(orjson.dumps({"sources": ["json:moved"]}))
    assert call("show", "--run", made) == 0
    assert "no test output is known here; show one with" in capsys.readouterr().out
    assert call("compare", made) == 2
    assert "moved: no such file or folder" in capsys.readouterr().err


def test_a_run_folder_and_a_folder_of_results_are_scored(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("score", made, "--source", spec) == 0
    assert "solved 1 of 6 outputs" in (own := capsys.readouterr().out)
    assert "step 1" in own
    assert "votes                     unknown" not in own
    results = made / "results"  # not what the votes beside it are of
    results.mkdir()
    for task, entries in orjson.loads((made / "submission.json").read_bytes()).items():
        told = [{name: {"answer": grid} for name, grid in entry.items()} for entry in entries]
        (results / f"{task}.json").write_bytes(orjson.dumps(told))
    assert call("score", results, "--source", spec) == 0
    assert "solved 1 of 6 outputs" in (theirs := capsys.readouterr().out)
    assert "votes                     unknown" in theirs


def test_voting_says_what_each_prediction_adds(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = SOURCE.solutions["task002"]
    write_run(
        tmp_path / "other", load_source(spec), [(3 + i, grid, 0.9) for i, grid in enumerate(truth) for _ in range(9)], "step 2"
    )
    votes = ("--candidates", made / "candidates", tmp_path / "other" / "candidates", "--out", tmp_path / "pooled" / "s.json")
    assert call("vote", "--data", made / "dataset", *votes) == 0
    other = f"without {tmp_path}/other/candidates: other attempts for {len(truth)} of 6 test inputs"
    assert other in capsys.readouterr().out.splitlines(), "the sources of the dataset are not public"
    assert call("vote", "--data", made / "dataset", *votes, "--source", spec) == 0
    assert f"{other}, pass@2 12.50% in place of 37.50% (mean over tasks)" in capsys.readouterr().out.splitlines()


def test_a_prediction_without_a_dataset_is_shown_with_the_one_that_is_named(
    made: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "dataset").rename(tmp_path / "data")
    assert call("show", FIRST, "--run", made) == 2
    assert "has no dataset beside it that says what the tasks are: name them with --source" in capsys.readouterr().err
    assert call("show", FIRST, "--run", made, "--source", spec) == 0
    assert "votes" not in capsys.readouterr().out, "only the dataset says which test a candidate is for"
    assert call("show", FIRST, "--run", made, "--data", tmp_path / "data") == 0
    assert "attempt 1 (3 of 7 votes)" in capsys.readouterr().out


def test_all_networks_of_a_run_vote_where_the_run_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    further = made / "networks" / "1" / "candidates"
    shutil.copytree(made / "candidates", further)
    path = next(further.glob("round-*"))
    candidates, origin = read_candidates(path)
    write_candidates(path, candidates, replace(origin, source="step 7"))
    words = ("vote", "--data", made / "dataset", "--out", tmp_path / "pooled" / "submission.json", "--candidates")
    assert call(*words, made) == 0
    assert "step 1" in (said := capsys.readouterr().out)
    assert "step 7" in said
    assert "networks" not in caplog.text
    assert call(*words, made / "candidates") == 0
    assert "step 7" not in capsys.readouterr().out
    assert f"{made} has 2 networks, and these are the votes of one: name the run" in caplog.text


def test_a_vote_needs_the_name_of_a_file(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("vote", "--data", made / "dataset", "--candidates", made / "candidates", "--out", ".") == 2
    assert "python -m pipeline vote: .: expected the name of a file" in capsys.readouterr().err


def test_a_prediction_replaces_no_run_and_needs_tests(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = TaskDataset.load(made / "dataset")
    write_weights(tmp_path / "weights", dataset, tiny_config())
    (made / "run.json").write_text("{}")
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    words = ("predict", "--weights", tmp_path / "weights", "--out")
    assert call(*words, made, "--data", made / "dataset", "--resume") == 2
    others = tmp_path / "weights" / "weights.safetensors"
    assert f"{made} holds a run, whose votes those of {others} would replace: choose another --out" in capsys.readouterr().err
    words = ("predict", "--weights", made, "--out")
    assert call(*words, made, "--data", made / "dataset") == 2
    assert f"{made} holds a run, whose votes these would replace: choose another --out, or --resume" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    (made / "networks").mkdir()
    assert call(*words, made, "--data", made / "dataset", "--resume") == 2
    assert f"{made} holds a run of several networks, whose votes one would replace" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    words = ("predict", "--weights", tmp_path / "weights", "--out")
    build([], [tiny_source()], BuildConfig(1, "all", 0, 1)).save(tmp_path / "lessons")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "submission.json").write_text("an earlier one")
    assert call(*words, tmp_path / "out", "--data", tmp_path / "lessons") == 2
    assert f"{tmp_path}/lessons: a dataset without tests, to train on only; build it with --source" in capsys.readouterr().err
    assert (tmp_path / "out" / "submission.json").read_text() == "an earlier one"


def test_a_reader_that_has_had_enough_is_no_error(
    spec: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> list[str]:
        raise BrokenPipeError

    monkeypatch.setattr(pipeline.cli.show, "draw_text", stop)
    with monkeypatch.context() as kept:  # else nothing more of the tests would be printed
        kept.setattr(os, "dup2", lambda *_: None)
        assert call("show", FIRST) == 1
    assert capsys.readouterr().err == ""
