"""Sources that there is no time for are left out, and nothing else is."""

import logging
import time
from collections.abc import Callable

import pytest

from pipeline.data.sources import load_in_time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def loader(clock: list[float], seconds: float) -> Callable[[str], str]:
    def load(spec: str) -> str:
        clock[0] += seconds
        return spec.upper()

    return load


def test_what_comes_after_the_time_is_left_out_and_it_is_said(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_in_time(["a", "b", "c", "d"], loader(clock, 3.0), 5.0) == ["A", "B"]
    assert [record.getMessage() for record in caplog.records] == [
        "c is left out: reading the sources before it took 6 s",
        "d is left out: reading the sources before it took 6 s",
    ]


def test_the_first_is_always_read(clock: list[float]) -> None:
    assert load_in_time(["a", "b"], loader(clock, 1.0), 0.0) == ["A"]
