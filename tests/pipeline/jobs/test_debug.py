"""The command debug trains on one task and prints how its drafts change."""

import json
import logging
from pathlib import Path

import pytest

from pipeline.cli.main import main
from tests.pipeline.tiny import TINY, set_options, tiny_config, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinyrun import write_weights

SETTINGS = set_options((*TINY, "train.segments=2", "train.packs=1"))


@pytest.fixture
def spec(tmp_path: Path) -> str:
    return write_kaggle(tmp_path / "kaggle", tiny_source(3, 3, "task"), "evaluation", with_solutions=True)


def test_drafts_of_every_test_are_printed_before_during_and_after_and_training_logs_nothing_between_them(
    spec: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("pipeline.training.metrics.LINE_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.jobs.time_split.MEASURE_SECONDS", 0.1)
    settings = [*SETTINGS, "--set", "train.log_steps=1"]
    assert main(["debug", "--task", "task001", "--source", spec, "--time-limit", "2s", *settings]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"task001 of {spec}: 3 demonstrations in 6 views")
    assert "0s: before training" in shown
    assert "step " in shown.split("before training")[1]
    assert shown.count("test input 1: halting") >= 1
    assert "test input 2: halting" in shown
    assert "segment by segment (2 of them)" in shown
    assert shown.split("segment by segment")[1].count("segment 2") == 2, "for each of two tests"
    truth = tiny_source(3, 3, "task").solutions["task001"][0]
    assert " ".join(map(str, truth[0].tolist())) in shown
    logged = {record.name for record in caplog.records}
    assert not {"pipeline.training.trainer", "pipeline.training.metrics"} & logged
    assert logging.getLogger("pipeline.training.metrics").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("settings", [(), ("predict.latents=2", "predict.halting=first")])
def test_weights_predict_without_training(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    write_weights(tmp_path / "weights", tiny_dataset(), tiny_config(*settings))
    weights = ("--weights", str(tmp_path / "weights"))
    assert main(["debug", "--task", "task000", "--source", spec, *weights, "--time-limit", "0s"]) == 0
    shown = capsys.readouterr().out
    assert "task memory: 0 tasks by id, 1 new from the mean, 4 not needed" in shown
    assert "before training" in shown
    assert "step " not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "nothing"), "no task 'nothing'"),
        (("--task", "task000", "--time-limit", "soon"), "a duration reads like"),
        (("--task", "task000", "--weights", "start", "--preset", "demo"), "weights of another network"),
        (("--task", "task000", "--weights", "nowhere"), "nowhere: no such weights file"),
    ],
)
def test_bad_input_is_one_line(spec: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str) -> None:
    assert main(["debug", "--source", spec, *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_a_task_without_test_inputs_has_no_drafts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made.json").write_text(json.dumps([{"input": [[1]], "output": [[2]]}]))
    assert main(["debug", "--source", f"rearc:{tmp_path}", "--task", "made"]) == 2
    assert "has no test inputs, so there is nothing to show drafts of" in capsys.readouterr().err
