"""Progress as it is told: means over what happened since the last line."""

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from accelerate import PartialState

from pipeline.training import metrics as progress
from pipeline.training.metrics import (
    MetricsWriter,
    Progress,
    Totals,
    drop_lines_after,
    metrics_line,
    read_further_metrics,
    read_metrics,
)


def a_line() -> dict[str, float]:
    totals = Totals(token_loss=8.0, halting_loss=2.0, exact=1.0, sequences=4.0, tokens=1000.0, segments=6.0, seconds=0.5)
    return metrics_line(totals, Progress(step=7, seconds=30.123, processor_seconds=59.87), factor=0.25)


def test_a_line_has_means_of_sequences_and_speeds() -> None:
    assert a_line() == {
        "step": 7, "loss": 2.0, "halting_loss": 0.5, "exact": 0.25, "segments": 1.5, "sequences_per_second": 8.0,
        "tokens_per_second": 2000.0, "rate_factor": 0.25, "seconds": 30.12, "processor_seconds": 59.87,
    }  # fmt: skip


def test_a_writer_adds_to_what_is_there_and_says_a_line_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    PartialState()
    caplog.set_level("INFO")
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":6}\n')
    with MetricsWriter(path) as writer:
        for _ in range(3):
            writer.write(a_line(), done=0.5, left=90.0)
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        writer.write(a_line(), done=0.75, left=float("inf"))
    assert [orjson.loads(line)["step"] for line in path.read_bytes().splitlines()] == [6, 7, 7, 7, 7]
    said = [record.getMessage().split("] ")[-1] for record in caplog.records]
    assert said == [
        "train  50%: step 7, loss 2.000, exact 0.25, 2.0k tokens/s, 1m30s left",
        "train  75%: step 7, loss 2.000, exact 0.25, 2.0k tokens/s",
    ]


def test_lines_that_the_disk_does_not_take_are_told_once_and_written_when_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PartialState()
    path = tmp_path / "metrics.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(path) as writer:
        writer.write(a_line(), done=0.5, left=90.0)
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))  # the next line is cut short
        try:
            for step in (8, 9, 10):
                writer.write(a_line() | {"step": step}, done=0.5, left=90.0)
                assert [line["step"] for line in read_metrics(path)] == [7]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.write(a_line() | {"step": 11}, done=0.5, left=90.0)
        assert [line["step"] for line in read_metrics(path)] == [7, 8, 9, 10, 11]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "metrics.jsonl: lines wait from step 8 on: " in caplog.text


def test_lines_that_wait_are_written_at_the_end_or_said_to_be_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    PartialState()
    with MetricsWriter(tmp_path / "later" / "metrics.jsonl") as writer:
        writer.write(a_line(), done=0.5, left=90.0)
        writer.write(a_line() | {"step": 8}, done=0.5, left=90.0)
        (tmp_path / "later").mkdir()
    assert [line["step"] for line in read_metrics(tmp_path / "later" / "metrics.jsonl")] == [7, 8]
    with MetricsWriter(tmp_path / "never" / "metrics.jsonl") as writer:
        writer.write(a_line(), done=0.5, left=90.0)
        writer.write(a_line() | {"step": 8}, done=0.5, left=90.0)
    assert caplog.messages[-1] == f"{tmp_path}/never/metrics.jsonl: the last 2 lines are lost"


def test_a_writer_draws_a_bar_in_a_notebook_and_says_no_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(a_line(), done=0.5, left=90.0)
        writer.bar.refresh()
    assert "train  50%|" in capsys.readouterr().err
    assert not caplog.records


def test_further_lines_are_those_that_came_since(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_further_metrics(path) == ([], (0, 0))
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    lines, place = read_further_metrics(path)
    assert lines == [{"step": 1}, {"step": 2}]
    with path.open("ab") as file:
        file.write(b'ep": 3}\n')
    lines, place = read_further_metrics(path, place)
    assert lines == [{"step": 3}]
    assert read_further_metrics(path, place) == ([], place)
    drop_lines_after(path, 1)  # as a resumed run does, which computes the others again
    with path.open("ab") as file:
        file.write(b'{"step": 20, "loss": 1}\n{"step": 40, "loss": 1}\n')
    assert [line["step"] for line in read_further_metrics(path, place)[0]] == [1, 20, 40]
