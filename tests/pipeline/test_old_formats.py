"""Folders that an earlier version wrote (tests/fixtures/old_run) are read, reported, resumed and predicted from as before."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline.run
from pipeline.tensor_files import read_tensors
from submission.format import read_submission
from tests.pipeline.tinyrun import call

OLD = Path(__file__).parents[1] / "fixtures" / "old_run"
ARC, SUDOKU = "kaggle:kaggle:evaluation", "sudoku:sudoku-test.csv"
RESUME = ("run", "--source", ARC, "--preset", "demo", "--set", "train.steps=50", "--resume", "--out")
LAST = Path("checkpoints/step-00000050")


@pytest.fixture(autouse=True)
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of what the earlier version left: its files name each other by relative paths."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def answers(path: Path) -> dict[str, object]:
    return {task: [[grid.tolist() for grid in test] for test in tests] for task, tests in read_submission(path).items()}


def predictions(path: Path) -> list[str]:
    return [line.split(",")[1] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("folder", "words"),
    [("arc", "old00002"), ("interrupted", "old00002"), ("predicted", "old00002"), ("sudoku", "sudoku:sudoku-test.csv")],
)
def test_a_folder_is_reported(folder: str, words: str) -> None:
    assert call("report", folder, *(("--source", ARC) if folder == "predicted" else ())) == 0
    assert words in Path(folder, "report.html").read_text()


def test_a_run_and_a_prediction_are_shown_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--run", "arc", "--source", ARC) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of 4 test outputs solved")
    assert call("show", "old00001", "--run", "arc", "--source", ARC) == 0
    assert "of 4 votes" in capsys.readouterr().out
    assert call("show", "old00001", "--run", "predicted", "--source", ARC, "--data", "dataset") == 0
    assert "attempt 1 (1 of 2 votes)" in capsys.readouterr().out
    assert call("compare", "arc", "predicted", "--source", ARC, "--json", "compared.json") == 0
    assert read_json("compared.json")["alone"] == {"arc": [["old00000", 0], ["old00002", 0]], "predicted": []}


@pytest.mark.parametrize(
    ("result", "source"), [("arc/submission.json", ARC), ("sudoku/predictions.csv", SUDOKU)], ids=["tasks", "puzzles"]
)
def test_a_result_has_the_score_that_was_written_beside_it(result: str, source: str) -> None:
    assert call("score", result, "--source", source, "--json", "score.json") == 0
    again, before = read_json("score.json"), read_json(Path(result).with_name("score.json"))
    assert again.keys() <= before.keys()
    assert again.pop("provenance").keys() == before["provenance"].keys()
    assert all(before[name] == again[name] for name in again)


def test_candidates_vote_for_the_same_bytes() -> None:
    assert call("vote", "--data", "arc/dataset", "--candidates", "arc/candidates", "--out", "again/submission.json") == 0
    assert Path("again/submission.json").read_bytes() == Path("arc/submission.json").read_bytes()
    again, before = read_json("again/votes.json"), read_json("arc/votes.json")
    assert again.pop("sources") == [f"arc/candidates: {source}" for source in before.pop("sources")]
    assert before.pop("ranking") == "count"  # today there is no other
    assert again == before


@pytest.mark.parametrize(("data", "weights", "expected"), [("arc/dataset", "arc", "arc"), ("dataset", "imported", "predicted")])
def test_weights_predict_the_same_answers(data: str, weights: str, expected: str) -> None:
    settings = ("--set", "predict.segments=2", "--set", "train.precision=float32") if weights == "imported" else ()
    assert call("predict", "--data", data, "--weights", weights, "--views", 4, *settings, "--out", "again") == 0
    assert answers(Path("again/submission.json")) == answers(Path(expected, "submission.json"))


def test_a_resumed_prediction_keeps_its_submission_until_there_is_a_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("stopped before the first round")

    before = [Path("predicted", name).read_bytes() for name in ("submission.json", "votes.json")]
    monkeypatch.setattr("pipeline.inference.predictor.predict_and_vote", fail)
    assert call("predict", "--data", "arc/dataset", "--weights", "arc", "--resume", "--out", "predicted") == 1
    assert [Path("predicted", name).read_bytes() for name in ("submission.json", "votes.json")] == before


def test_weights_predict_the_same_puzzles() -> None:
    assert call("predict", "--data", "sudoku/dataset", "--weights", "sudoku", "--out", "again") == 0
    assert predictions(Path("again/predictions.csv")) == predictions(Path("sudoku/predictions.csv"))
    assert call("curve", "sudoku", "--source", SUDOKU, "--json", "curve.json") == 0
    [checkpoint] = read_json("curve.json")
    assert checkpoint["step"] == 300


def test_an_interrupted_run_ends_as_the_one_that_was_not() -> None:
    assert call(*RESUME, "interrupted") == 0
    assert answers(Path("interrupted/submission.json")) == answers(Path("arc/submission.json"))
    found, trained = (read_tensors(Path(run) / LAST / "weights.safetensors")[0] for run in ("interrupted", "arc"))
    torch.testing.assert_close(found, trained, atol=1e-3, rtol=1e-3)
    lines = [json.loads(line) for line in Path("interrupted/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 51))
    expected = [json.loads(line)["loss"] for line in Path("arc/metrics.jsonl").read_text().splitlines()]
    assert np.allclose([line["loss"] for line in lines], expected, atol=1e-2)


def test_a_run_that_was_killed_while_predicting_goes_on_with_predictions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.delattr(pipeline.run, "_train")
    before = {path: path.read_bytes() for path in Path("arc").glob("c*/**/*") if path.is_file()}
    submission = Path("arc/submission.json").read_bytes()
    Path("arc/predicting").touch()  # as if it had been killed in the last round
    Path("arc/candidates/round-0003.safetensors").unlink()
    assert call(*RESUME, "arc") == 0
    assert Path("arc/submission.json").read_bytes() == submission
    kept = {path: path.read_bytes() for path in Path("arc").glob("c*/**/*") if path.is_file()}
    assert kept.keys() == before.keys()
    assert all(kept[path] == before[path] for path in before if path.name != "round-0003.safetensors")
    assert "2 rounds of predictions, 3 views of each test input, are there already and count" in caplog.text
    assert not Path("arc/predicting").exists()
