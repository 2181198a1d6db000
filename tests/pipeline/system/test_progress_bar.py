"""Progress is shown after two seconds: log lines in a file, bars in a terminal, only by rank 0."""

import io
import logging
import time

import pytest

import pipeline.system.progress_bar
from pipeline.system.progress_bar import Progress, doing, watch


@pytest.fixture
def immediate(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(pipeline.system.progress_bar, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(pipeline.system.progress_bar, "LINE_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    caplog.set_level(logging.INFO)
    return caplog


def test_watched_items_are_passed_on_and_logged(immediate: pytest.LogCaptureFixture) -> None:
    assert list(watch("abcd", "reading x", unit="files")) == list("abcd")
    assert immediate.messages[0] == "reading x: 25% 1 of 4 files, 0s so far"
    assert immediate.messages[-1] == "reading x: 100% 4 of 4 files, 0s so far"


def test_an_unknown_total_is_left_out_and_lines_have_a_distance(
    immediate: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.system.progress_bar, "LINE_SECONDS", 1000.0)
    with Progress("reading x", unit="puzzles") as progress:
        progress.add(1000)
        progress.add(1)
    assert immediate.messages == ["reading x: 1000 puzzles, 0s so far"]


def test_quick_work_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with doing("checking"):
        list(watch(range(1000), "counting"))
    assert caplog.messages == []


def test_work_that_cannot_be_counted_is_logged_while_it_lasts(
    immediate: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.system.progress_bar, "LINE_SECONDS", 1000.0)
    with doing("checking"):
        deadline = time.monotonic() + 5
        while not immediate.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert immediate.messages == ["checking: 0s so far"]


def test_other_processes_are_silent(immediate: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with doing("checking"):
        list(watch(range(10), "counting"))
    assert immediate.messages == []


def test_a_terminal_gets_a_bar_and_no_lines(immediate: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    for _ in watch(range(3), "counting", unit="things"):
        time.sleep(0.15)
    assert "counting" in terminal.getvalue()
    assert "1/3" in terminal.getvalue()
    assert immediate.messages == []
