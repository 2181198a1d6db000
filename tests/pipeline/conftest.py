"""Runs of these tests leave no report, which takes a process and as long as a tiny run, unless they use `reports`."""

from collections.abc import Iterator

import pytest

import pipeline.run
from pipeline.run import leave_report


@pytest.fixture(autouse=True, scope="package")
def no_reports() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline.run, "leave_report", lambda *_: None)
        yield


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.run, "leave_report", leave_report)
