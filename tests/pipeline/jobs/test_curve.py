"""A curve has a point for every checkpoint of a run, each with the score that its weights earn."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle
from tests.pipeline.tinypuzzles import tiny_puzzles, write_csv
from tests.pipeline.tinyrun import call, one_error, write_run

SETTINGS = (*TINY, "train.segments=2", "train.checkpoint_steps=2", "train.checkpoints_kept=9", "train.steps=5")


def train_run(out: Path, *arguments: object, preset: str = "trm-sudoku") -> Path:
    settings = set_options(SETTINGS)
    assert call("run", "--preset", preset, "--out", out, *settings, *arguments) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of puzzles and two seeds of a run, of which the second solves some of the puzzles alone; a run cut short."""
    folder = tmp_path_factory.mktemp("curve")
    trained = write_csv(folder / "train.csv", tiny_puzzles(count=8))
    tested = write_csv(folder / "test.csv", tiny_puzzles(count=5, seed=99))
    sources = ("--source", f"sudoku:{tested}", "--train-source", f"sudoku:{trained}")
    train_run(folder / "mixer-0", *sources)
    train_run(folder / "mixer-12", *sources, "--seed", 12, "--test-limit", 3)
    write_csv(folder / "bare.csv", tiny_puzzles(count=5, seed=99), with_answers=False)
    for name in ("untrained", "arc"):
        (folder / name).mkdir()
    (folder / "untrained" / "dataset").symlink_to(folder / "mixer-0" / "dataset")
    write_run(folder / "arc", tiny_source(1, 3), [])
    return folder


def test_every_checkpoint_is_a_point_with_its_score(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, source = ("--json", tmp_path / "curve.json", "--png", tmp_path / "curve.png"), f"sudoku:{folder / 'test.csv'}"
    assert call("curve", folder / "mixer-0", folder / "mixer-12", "--source", source, *files) == 0
    shown = capsys.readouterr().out.splitlines()
    points = json.loads((tmp_path / "curve.json").read_text())
    assert [(point["name"], point["run"], point["step"]) for point in points] == [
        ("mixer", str(folder / run), step) for run in ("mixer-0", "mixer-12") for step in (2, 4, 5)
    ]
    assert len(shown) == len(points)
    assert re.match(rf"{re.escape(str(folder / 'mixer-0'))}: step 2, \d+s: ", shown[0])
    for last in (points[2], points[5]):
        score = json.loads((Path(last["run"]) / "score.json").read_text())
        assert last["exact"] == score["exact_accuracy"]
        assert last["cells"] == score["cell_accuracy"]
        assert last["halting"] == pytest.approx(score["mean_halting_probability"])
    seconds = [point["seconds"] for point in points[:3]]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert len({point["cells"] for point in points[:3]}) > 1  # each is asked with weights of its own
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert call("curve", folder / "mixer-0", "--source", source) == 0  # without files
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_arc_runs_have_a_curve_of_pass_at_2_and_their_own_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    spec = write_kaggle(tmp_path / "kaggle", tiny_source(1, 3, "t"), "evaluation", with_solutions=True)
    run = train_run(tmp_path / "run-0", "--source", spec, preset="demo")
    files = ("--views", 4, "--json", tmp_path / "curve.json", "--png", tmp_path / "curve.png")
    capsys.readouterr()
    assert call("curve", run, *files) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [re.search(r"step (\d+), .*: pass@1 [\d.]+%, pass@2 [\d.]+%, mean over tasks$", line)[1] for line in shown] == [
        "2", "4", "5"
    ]  # fmt: skip
    points = json.loads((tmp_path / "curve.json").read_text())
    rules = json.loads((run / "score.json").read_text())["rules"]["mean_over_tasks"]
    assert (points[-1]["pass_at_1"], points[-1]["exact"]) == (rules["pass_at_1"], rules["pass_at_2"])
    assert 0 < points[0]["processor_seconds"] <= points[-1]["processor_seconds"]
    state = json.loads((run / "checkpoints" / "step-00000005" / "training.json").read_text())
    parts = (state["progress"], state["totals"])  # until and since the last line of metrics.jsonl
    assert points[-1]["processor_seconds"] == sum(part["processor_seconds"] for part in parts) > 0
    assert not any((tmp_path / "temporary").iterdir())

    weights = run / "checkpoints" / "step-00000005" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert call("curve", run, *files) == 2
    assert "step-00000005" in one_error(capsys, "curve")
    assert json.loads((tmp_path / "curve.json").read_text()) == points[:2]
    shutil.rmtree(weights.parent)
    kept = write_kaggle(tmp_path / "kept", tiny_source(1, 3, "t"), "evaluation", with_solutions=True)
    next((tmp_path / "kaggle").glob("*solutions.json")).unlink()
    assert call("curve", run) == 2
    assert "the test outputs are not known" in one_error(capsys, "curve")
    assert call("curve", run, *files, "--source", kept) == 0
    assert json.loads((tmp_path / "curve.json").read_text()) == points[:2]


def test_score_curve_and_report_name_both_metrics_of_mazes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "maze:generated:side=7,count=6"
    run = train_run(tmp_path / "run-0", "--source", source, "--train-source", source, preset="trm-maze")
    score = json.loads((run / "score.json").read_text())
    assert score["shortest_path_accuracy"] >= score["exact_accuracy"]
    capsys.readouterr()
    assert call("curve", run, "--source", source, "--json", tmp_path / "curve.json") == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(re.search(r"% exact, [\d.]+% any shortest path, [\d.]+% of cells$", line) for line in shown)
    assert json.loads((tmp_path / "curve.json").read_text())[-1]["shortest_path"] == score["shortest_path_accuracy"]
    assert call("report", run) == 0
    page = (run / "report.html").read_text()
    assert "Puzzles with every cell right" in page
    assert "Mazes with any shortest path" in page


@pytest.mark.parametrize(
    ("runs", "source", "message"),
    [
        ("mixer-0 nowhere", "test.csv", "no such file; a dataset has"),
        ("mixer-0 untrained", "test.csv", "untrained: no checkpoints"),
        ("mixer-0 arc", "test.csv", "arc: no checkpoints"),
        ("mixer-0", "train.csv", "mixer-0: 5 of the 5 tests are not among the puzzles of the sources"),
        ("mixer-0", "bare.csv", "has no answers, so there is nothing to score by"),
        ("untrained", "test.csv", "untrained: no weights.safetensors and no checkpoint in this folder"),
        ("mixer-0", "arc1:training", "unknown source 'arc1:training': expected one of sudoku:FILE.csv"),
    ],
)
def test_a_curve_that_cannot_be_drawn_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str], runs: str, source: str, message: str
) -> None:
    spec = source if ":" in source else f"sudoku:{folder / source}"
    assert call("curve", *(folder / name for name in runs.split()), "--source", spec) == 2
    assert message in one_error(capsys, "curve")


@pytest.mark.parametrize("content", [b"noise", b"{}", b'{"progress": {"seconds": "long"}}', None])
def test_a_foreign_training_file_is_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    run = tmp_path / "mixer-0"
    shutil.copytree(folder / "mixer-0", run)
    path = run / "checkpoints" / "step-00000002" / "training.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert call("curve", run, "--source", f"sudoku:{folder / 'test.csv'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m pipeline curve: {path}: ")
