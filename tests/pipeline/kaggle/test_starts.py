"""The program is started, watched and ended; what is tried after a start that failed."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.device_limits import OUT_OF_MEMORY
from pipeline.kaggle import starts
from pipeline.kaggle.starts import PREDICT_SECONDS as TURN
from pipeline.kaggle.starts import EndedStart, Log, Setup, Start, next_setup

IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('there', flush=True); time.sleep(300)"


@pytest.mark.parametrize(
    ("line", "noticed"),
    [
        *((f"RuntimeError: CPU{words}", True) for words in (*OUT_OF_MEMORY, "MemoryError")),
        ("12:00:00 step 4: out of memory; it is repeated with 2 micro-batches to a pack", False),
        ("12:00:00 out of memory: packs of 8192 tokens from now on, not 16384", False),
    ],
)
def test_memory_that_ran_out_is_noticed_unless_the_program_went_on(tmp_path: Path, line: str, noticed: bool) -> None:
    start = Start(["echo", line], tmp_path, {}, Log(tmp_path / "log"))
    start.wait(10.0)
    start.end()
    assert start.ended(1, False, "").out_of_memory is noticed


def test_the_micro_batches_that_a_process_asks_for_are_noted(tmp_path: Path) -> None:
    said = "step 7: process 1 of 4 is out of memory with train.pieces=2; go on with --resume --set train.pieces=4"
    start = Start(["echo", said], tmp_path, {}, Log(tmp_path / "log"))
    start.wait(10.0)
    start.end()
    assert start.ended(1, False, "").pieces == 4


def test_a_process_that_cannot_be_killed_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "END_SECONDS", 0.2)
    monkeypatch.setattr(psutil.Process, "kill", lambda _: None)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
    start = Start([sys.executable, "-c", IGNORES_SIGTERM], tmp_path, dict(os.environ), Log(tmp_path / "log"))
    monkeypatch.setattr(start.reader, "join", lambda timeout: None)
    try:
        latest = time.monotonic() + 60
        while not start.lines and time.monotonic() < latest:
            time.sleep(0.05)
        assert start.end(patience=0.1) == -9
        assert "warning: 1 killed processes do not end" in start.log.tail
    finally:
        os.kill(start.process.pid, 9)


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path / "nowhere" / "run.log")
    for number in range(3):
        log.say(f"line {number}")
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4
    assert sum("from here on the log is only in the notebook's output" in line for line in shown) == 1


KILLED, FAILED, REFUSED = EndedStart(-9, False, False), EndedStart(1, False, False), EndedStart(2, False, False)
HUNG = EndedStart(1, False, False, seconds=1900.0)
KILLED_LATE = EndedStart(-9, True, False)
NO_MEMORY, TRAINED, ENDED = EndedStart(1, False, True), EndedStart(1, True, False), EndedStart(0, False, False)
SMALLER = ("packs in 8 micro-batches", "packs in 64 micro-batches")
FEWER = ("on one GPU", "on another GPU", "on the CPU")
UNPREDICTED = [EndedStart(2, False, False, predicting=True)] * 2
ALONE = "on the CPU, with predictions alone"


@pytest.mark.parametrize(
    ("setup", "ended", "expected"),
    [
        (Setup(4), [EndedStart(0, True, False)], None),
        (Setup(4), [EndedStart(None, True, False)], None),
        (Setup(4), [TRAINED], (Setup(4), "as before")),
        (Setup(4), [KILLED_LATE] * 3, (Setup(4), "as before")),
        (Setup(0), [KILLED_LATE] * 2, (Setup(0, pieces=8), "packs in 8 micro-batches")),
        (Setup(4, pieces=8), [EndedStart(1, True, True)], (Setup(4, pieces=64), "packs in 64 micro-batches")),
        (Setup(4, pieces=64), [EndedStart(1, False, True)], (Setup(4, pieces=64), "as before")),
        (Setup(4), [EndedStart(1, True, True, pieces=2)], (Setup(4, pieces=2), "packs in 2 micro-batches")),
        (Setup(4, pieces=8), [EndedStart(1, True, True, pieces=8)], (Setup(4, pieces=64), "packs in 64 micro-batches")),
        (Setup(4), [FAILED] * 3, (Setup(4), "as before")),
        (Setup(4, weights=True), [FAILED] * 4, (Setup(1, weights=True), "on one GPU")),
        (Setup(4, weights=True), [FAILED, HUNG], (Setup(1, weights=True), "on one GPU")),
        (Setup(4, weights=True), [HUNG], (Setup(4, weights=True), "as before")),
        (Setup(1, weights=True), [FAILED] * 5, (Setup(1, device=3, weights=True), "on another GPU")),
        (Setup(1, device=3, weights=True), [FAILED] * 6, (Setup(4, fresh=1), "without the weights")),
        (Setup(4, weights=True), [TRAINED, *[FAILED] * 4], (Setup(1, weights=True), "on one GPU")),
        (Setup(4), [TRAINED, REFUSED, REFUSED], (Setup(4, predict_seconds=TURN), ALONE)),
        (Setup(4, predict_seconds=TURN), [TRAINED, REFUSED, REFUSED, REFUSED], (Setup(4, predict_seconds=TURN), "as before")),
        (Setup(4, predict_seconds=TURN), [TRAINED, REFUSED, REFUSED, *UNPREDICTED], (Setup(4, fresh=1), "in a fresh folder")),
        (Setup(4, predict_seconds=TURN, fresh=1), [TRAINED, REFUSED, REFUSED, *UNPREDICTED], (Setup(0, fresh=2), "on the CPU")),
        (Setup(4), [TRAINED, REFUSED, REFUSED, ENDED, REFUSED, REFUSED], (Setup(4, predict_seconds=math.inf), ALONE)),
        (Setup(1, 3), [FAILED, FAILED, FAILED], (Setup(0, fresh=1), "on the CPU")),
        (Setup(1, 3, pieces=8), [TRAINED, FAILED, FAILED], (Setup(4, pieces=8, predict_seconds=TURN), ALONE)),
        (Setup(0, fresh=1), [FAILED, *[TRAINED] * 12], (Setup(0, fresh=1, predict_seconds=TURN), ALONE)),
        (Setup(4, predict_seconds=TURN), [TRAINED, FAILED, FAILED, NO_MEMORY], (Setup(4, predict_seconds=TURN), "as before")),
        (Setup(4, predict_seconds=TURN), [TRAINED, FAILED, *UNPREDICTED, FAILED], (Setup(0, fresh=1), "on the CPU")),
        (Setup(4, predict_seconds=TURN), [TRAINED, FAILED, FAILED, TRAINED], (Setup(4), "training goes on")),
        (Setup(4, predict_seconds=TURN), [TRAINED, FAILED, FAILED, ENDED, FAILED, KILLED], (Setup(4), "training goes on")),
        (Setup(4, predict_seconds=TURN), [TRAINED, FAILED, FAILED, FAILED, ENDED], (Setup(4), "training goes on")),
        (Setup(4, predict_seconds=TURN), [TRAINED, *[FAILED] * 11, ENDED], (Setup(4, predict_seconds=math.inf), ALONE)),
        (Setup(4, predict_seconds=math.inf), [TRAINED, *[FAILED] * 11, ENDED, ENDED], None),
        (Setup(0), [FAILED, FAILED], (Setup(0), "as before")),
        (Setup(0), [FAILED] * 12, None),
        (Setup(4), [TRAINED] * 11, (Setup(4), "as before")),
        (Setup(4), [TRAINED] * 12, (Setup(4, predict_seconds=TURN), ALONE)),
        (Setup(4), [TRAINED] * 12 + [ENDED, TRAINED], (Setup(4), "as before")),
        (Setup(4), [TRAINED] + [FAILED] * 12, (Setup(4, predict_seconds=math.inf), ALONE)),
        (Setup(4, predict_seconds=math.inf), [TRAINED] * 12 + [FAILED] * 12, None),
        (Setup(2, weights=True), [REFUSED], (Setup(2, weights=True), "as before")),
        (Setup(2, weights=True), [REFUSED] * 3, (Setup(2, fresh=1), "without the weights")),
        (
            Setup(2, weights=True, overrides=True),
            [REFUSED] * 2,
            (Setup(2, weights=True, fresh=1), "without the overrides of the settings"),
        ),
        (Setup(2, fresh=1), [REFUSED] * 4, (Setup(2, further_tasks=False, fresh=2), "without further training tasks")),
        (Setup(2, further_tasks=False), [REFUSED] * 2, (Setup(2, further_tasks=False, fresh=1), "in a fresh folder")),
        (Setup(2, further_tasks=False, fresh=1), [REFUSED] * 5, (Setup(1, further_tasks=False, fresh=1), "on one GPU")),
        (Setup(2, weights=True), [TRAINED, REFUSED], (Setup(2, weights=True), "as before")),
        (Setup(2, weights=True), [FAILED, REFUSED], (Setup(2, weights=True), "as before")),
    ],
)
def test_what_is_started_next(setup: Setup, ended: Sequence[EndedStart], expected: tuple[Setup, str] | None) -> None:
    assert next_setup(setup, ended, gpus=4) == expected


@pytest.mark.parametrize(
    ("failure", "tried"),
    [
        (KILLED, [*["as before"] * 3, *FEWER, *SMALLER, *["as before"] * 3]),
        (NO_MEMORY, [*SMALLER, "as before", *FEWER, *SMALLER, *["as before"] * 3]),
        (
            FAILED,
            [*["as before"] * 3, *FEWER[:2], "without the weights", *FEWER, *["as before"] * 2],
        ),
        (
            REFUSED,
            [
                *("as before", "without the overrides of the settings", "without the weights"),
                *("without further training tasks", *FEWER, *["as before"] * 4),
            ],
        ),
    ],
)
def test_whatever_fails_each_time_everything_that_may_help_is_tried(failure: EndedStart, tried: list[str]) -> None:
    setup, ended, changes = Setup(4, weights=True, overrides=True), [failure], list[str]()
    while chosen := next_setup(setup, ended, gpus=4):
        setup, words = chosen
        changes.append(words)
        ended.append(failure)
    assert changes == tried


def test_gpus_that_fail_after_progress_are_tried_again_after_predictions() -> None:
    setup, ended, changes = Setup(4), [TRAINED], list[tuple[str, int]]()
    while chosen := next_setup(setup, ended, gpus=4):
        setup, words = chosen
        changes.append((words, setup.processes))
        ended.append(ENDED if setup.predict_seconds else FAILED)
    assert changes == [
        *([("as before", 4)] * 4),
        *([("on one GPU", 1), ("on another GPU", 1), (ALONE, 0), ("training goes on", 4)] * 2),
        (ALONE, 0),
    ]
