"""Metrics reach a tracker line by line, none twice, and a tracker that fails ends nothing."""

import logging
import threading
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import orjson
import pytest
from accelerate.tracking import GeneralTracker

import pipeline.training.trackers
from pipeline.cli.main import main
from pipeline.training.trackers import follow, tracked
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle


class Recorder(GeneralTracker):
    """A tracker that remembers what it is given."""

    name = "recorder"
    requires_logging_directory = False
    logged: ClassVar[list[tuple[int | None, dict[str, Any]]]] = []
    configs: ClassVar[list[dict[str, Any]]] = []
    finished = 0

    def __init__(self, run_name: str) -> None:
        super().__init__()

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        Recorder.configs.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        Recorder.logged.append((step, values))

    def finish(self) -> None:
        Recorder.finished += 1


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(pipeline.training.trackers, "POLL_SECONDS", 0.02)
    Recorder.logged, Recorder.configs, Recorder.finished = [], [], 0
    return Recorder


def line(step: int) -> bytes:
    return orjson.dumps({"step": step, "loss": step / 10, "note": "words"}) + b"\n"


def ended() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_every_line_arrives_with_its_step_and_figures_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(orjson.dumps({"train": {"seed": 3}}))
    with tracked("recorder", tmp_path), (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line(10) + line(20) + line(30)[:5])
        file.flush()
        file.write(line(30)[5:])
    assert Recorder.logged == [(10, {"loss": 1.0}), (20, {"loss": 2.0}), (30, {"loss": 3.0})]
    assert Recorder.configs == [{"train.seed": 3}]
    assert Recorder.finished == 1


def test_a_resumed_run_sends_nothing_twice(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(line(10) + line(20))
    follow("recorder", tmp_path, ended())
    metrics.write_bytes(line(10))  # resuming drops what came after the checkpoint
    follow("recorder", tmp_path, ended())
    metrics.write_bytes(line(10) + line(20) + line(30))
    follow("recorder", tmp_path, ended())
    assert [step for step, _ in Recorder.logged] == [10, 20, 30]


def test_a_tracker_that_fails_is_told_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(Recorder, "log", fail)
    (tmp_path / "metrics.jsonl").write_bytes(line(10))
    with caplog.at_level(logging.WARNING), tracked("recorder", tmp_path):
        pass
    assert "the tracker recorder failed and gets nothing more" in caplog.text


def test_nothing_is_started_without_a_name_or_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    for name, rank in ((None, "0"), ("recorder", "1")):
        monkeypatch.setenv("RANK", rank)
        with tracked(name, tmp_path):
            assert threading.active_count() == before


@pytest.mark.parametrize(("name", "words"), [("nope", "unknown tracker 'nope'; one of: aim"), ("aim", "pip install aim")])
def test_a_tracker_that_is_not_there_is_one_line(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    with pytest.raises(ValueError, match=words):
        tracked(name, Path())


def test_a_training_sends_its_metrics_by_a_flag(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "kaggle", tiny_source(2, 2, "task"), "test", with_solutions=False)
    data, out = str(tmp_path / "data"), str(tmp_path / "out")
    assert main(["build", "--source", f"kaggle:{tmp_path / 'kaggle'}", "--augmentations", "2", "--out", data]) == 0
    settings = set_options((*TINY, "train.steps=4", "train.packs=1"))
    assert main(["train", "--data", data, "--preset", "demo", *settings, "--out", out, "--tracker", "recorder"]) == 0
    assert [step for step, _ in Recorder.logged] == [2, 4]
    assert {"loss", "tokens_per_second"} <= Recorder.logged[0][1].keys()
    assert main(["train", "--data", data, "--preset", "demo", "--out", f"{out}2", "--tracker", "nope"]) == 2


def test_tensorboard_gets_curves_that_it_can_read(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "metrics.jsonl").write_bytes(line(10) + line(20))
    follow("tensorboard", tmp_path, ended())
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / tmp_path.name))
    events.Reload()
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("loss")] == [(10, 1.0), (20, 2.0)]
