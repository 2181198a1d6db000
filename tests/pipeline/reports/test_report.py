"""The report of a run: one file that holds everything, where markup in names is text."""

import json
import re
from pathlib import Path

import pytest

from pipeline import device_limits
from pipeline.cli.main import main
from pipeline.models import compiled
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle

FALLS_BACK = "train.execution=compiled"
SETTINGS = set_options((*TINY, "train.segments=2", "train.steps=3", FALLS_BACK))


def no_compiler() -> float:
    raise RuntimeError("no C++ compiler found")


@pytest.mark.usefixtures("reports")
def test_a_run_leaves_a_report_that_needs_nothing_else_and_the_command_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_limits, "_known", {})  # whether a compiler works may be known from an earlier test
    monkeypatch.setattr(compiled, "trial_error", no_compiler)
    data, out = tmp_path / "<b>data", tmp_path / "out"
    spec = write_kaggle(data, tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)
    assert main(["run", "--source", spec, "--preset", "demo", "--out", str(out), *SETTINGS]) == 0
    assert json.loads((out / "run.json").read_text())["sources"] == [spec]
    page = (out / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert all(words in page for words in ("eval000", "eval001", "eval002", "mean over tasks"))
    assert "the compiler for CPUs does not work here" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "<b>data" not in page
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    again = (out / "report.html").read_text()
    assert all(words in again for words in ("eval000", "eval001", "eval002", "mean over tasks"))
    assert abs(len(again) - len(page)) < 0.1 * len(page)
    record = json.loads((out / "run.json").read_text()) | {"seconds": {"train": 7200.0}, "starts": 3, "time_limit": "50m"}
    (out / "run.json").write_text(json.dumps(record))
    assert main(["report", str(out)]) == 0
    again = (out / "report.html").read_text()
    assert "2h00m, in 3 starts, the last of 50m, " in again
    assert "Last started" in again


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "eval000"], "require --png FILE"),
        (["--dark"], "require --png FILE"),
        (["--width", "700"], "require --png FILE"),
        (["--png", "x.png", "--width", "20"], "between 300 and 4000"),
        (["--png", "x.png"], "apt install chromium"),
    ],
)
def test_wrong_options_of_a_picture_are_one_line(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chromium").write_text("")
    (tmp_path / "chromium").chmod(0o755 if "--width" in options else 0o644)
    monkeypatch.delenv("ARC_BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["report", str(tmp_path), *options]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert says in told[0]
