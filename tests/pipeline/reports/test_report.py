"""The report of a run: one file that holds everything, where markup in names is text."""

import json
import re
from pathlib import Path

import pytest

from pipeline.cli.main import main
from tests.pipeline.tiny import TINY, tiny_source, write_kaggle

SETTINGS = [part for setting in (*TINY, "train.segments=2", "train.steps=3") for part in ("--set", setting)]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of three tasks of known solutions, whose source has markup in its name."""
    folder = tmp_path / "<b>data"
    write_kaggle(folder, tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)
    arguments = ["run", "--source", f"kaggle:{folder}:evaluation", "--preset", "demo", "--out", str(tmp_path / "out")]
    assert main([*arguments, *SETTINGS]) == 0
    return tmp_path / "out"


def test_a_run_leaves_a_report_that_needs_nothing_else(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    for task in ("eval000", "eval001", "eval002"):
        assert task in page
    assert "mean over tasks" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "<b>data" not in page
    assert len(page) < 1_000_000


def test_the_command_makes_the_same_report_again(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    (run_folder / "report.html").unlink()
    assert main(["report", str(run_folder)]) == 0
    again = (run_folder / "report.html").read_text()
    assert [task in again for task in ("eval000", "eval001", "eval002")] == [True] * 3
    assert abs(len(again) - len(page)) < 0.1 * len(page)


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_run_says_what_it_was_asked(run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    assert "evaluation" in json.dumps(record)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "eval000"], "require --png FILE"),
        (["--dark"], "require --png FILE"),
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
    monkeypatch.setattr("eval.report.screenshot._OF_MACOS", ())
    assert main(["report", str(tmp_path), *options]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert says in told[0]
