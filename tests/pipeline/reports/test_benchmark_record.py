"""record: runs of several seeds become a folder of records/, from which each can be started again."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import read_config
from pipeline.jobs.run_record import RunRecord
from pipeline.reports.benchmark_record import command
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, one_error

ABOUT = ("--benchmark", "three tasks", "--machine", "a laptop", "--commit", "abc1234")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    spec = write_kaggle(folder / "kaggle", tiny_source(1, 3, "t"), "evaluation", with_solutions=True)
    settings = set_options((*TINY, "train.steps=3"))
    for seed in range(3):
        again = ("--source", spec, "--preset", "demo", "--seed", seed, *settings, "--out", folder / f"run-{seed}")
        assert call("run", *again) == 0
    return [folder / f"run-{seed}" for seed in range(3)]


def edit(run: Path, name: str, **changes: Any) -> None:
    path = run / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_three_seeds_have_a_median(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    for share, run in zip((0.1, 0.9, 0.2), copies, strict=True):
        rules = json.loads((run / "score.json").read_text())["rules"]
        rules["mean_over_tasks"]["pass_at_2"] = share
        edit(run, "score.json", rules=rules)
    out = tmp_path / "new" / "record"
    assert call("record", *copies, *ABOUT, "--out", out) == 0
    assert "pass@2, mean over tasks, 20.0%, the median of 3 seeds" in capsys.readouterr().out
    found = json.loads((out / "result.json").read_text())
    assert found["median"]["pass_at_2"]["mean_over_tasks"] == 0.2
    assert [(run["seed"], run["steps"], run["commit"]) for run in found["runs"]] == [(seed, 3, "abc1234") for seed in range(3)]
    assert "--seed {seed}" in found["command"]
    assert read_config(out / "config.json") == read_config(runs[0] / "config.json")
    for seed, run in enumerate(copies):
        for name, ending in (("metrics", "jsonl"), ("submission", "json"), ("score", "json")):
            assert (out / f"{name}-{seed}.{ending}").read_bytes() == (run / f"{name}.{ending}").read_bytes()
    assert all(run["starts"] == 1 and 0 <= run["processor_hours"] < 0.1 for run in found["runs"])
    page = (out / "README.md").read_text()
    assert "Pass@2, mean over tasks, 20.0%, the median" in page
    (out / "README.md").write_text("completed")
    assert call("record", *copies[:2], *ABOUT, "--out", out) == 0  # fewer are no median, and what a person wrote stays
    assert "no median: that takes three seeds" in capsys.readouterr().out
    assert "median" not in json.loads((out / "result.json").read_text())
    assert (out / "README.md").read_text() == "completed"
    assert call("record", *copies[:2], *ABOUT, "--out", tmp_path / "two") == 0
    assert "seed 0: two make no median; seeds 0, 1 are in" in (tmp_path / "two" / "README.md").read_text()


@pytest.mark.parametrize(("kind", "side"), [("sudoku", 4), ("maze", 7)])
def test_runs_on_puzzles_have_a_record_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, side: int) -> None:
    puzzles, runs = f"{kind}:generated:side={side},count=5", [tmp_path / str(seed) for seed in range(3)]
    settings = set_options((*TINY, "train.steps=2"))
    for seed, run in enumerate(runs):
        limits = ("--limit", 4, "--test-limit", 3)
        again = ("--source", puzzles, "--train-source", puzzles, *limits, "--preset", "demo-sudoku", "--seed", seed, *settings)
        assert call("run", *again, *(["--set", "model.mixing=attention"] if kind == "maze" else []), "--out", run) == 0
        edit(run, "score.json", exact_accuracy=(0.1, 0.9, 0.2)[seed])
    assert call("record", *runs, *ABOUT, "--out", tmp_path / "record") == 0
    assert "exact accuracy 20.0%, the median of 3 seeds" in capsys.readouterr().out
    found = json.loads((tmp_path / "record" / "result.json").read_text())
    assert found["median"]["accuracy"]["exact_accuracy"] == 0.2
    assert ("shortest_path_accuracy" in found["median"]["accuracy"]) == (kind == "maze")
    assert [run["steps"] for run in found["runs"]] == [2, 2, 2]
    assert " --limit 4 --test-limit 3 " in found["command"]
    assert found["views"] == 1
    assert (tmp_path / "record" / "predictions-1.csv").read_bytes() == (runs[1] / "predictions.csv").read_bytes()
    page = (tmp_path / "record" / "README.md").read_text()
    assert "Exact accuracy 20.0%, the median of all seeds" in page
    assert "python -m pipeline score predictions-SEED.csv" in page
    (runs[0] / "score.json").unlink()
    assert call("record", runs[0], *ABOUT, "--out", tmp_path / "none") == 2
    assert "it has not ended" in one_error(capsys, "record")


def test_a_record_says_in_how_many_starts_and_how_much_processor_time_a_run_trained(runs: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    edit(run, "run.json", starts=3)
    path = run / "metrics.jsonl"
    line = json.loads(path.read_text().splitlines()[-1])
    path.write_text(json.dumps(line | {"processor_seconds": 9000.0}) + "\n")
    assert call("record", run, *ABOUT, "--out", tmp_path / "record") == 0
    page = (tmp_path / "record" / "README.md").read_text()
    assert "**Processor time** of training, all processes: 2.5 hours, in 3 starts, of which the command is the last." in page
    further = run / "networks" / "1" / "metrics.jsonl"
    further.parent.mkdir(parents=True)
    further.write_text(json.dumps(line | {"processor_seconds": 1800.0}) + "\n")
    assert call("record", run, *ABOUT, "--out", tmp_path / "two") == 0
    assert "all processes: 3 hours, in 3 starts" in (tmp_path / "two" / "README.md").read_text()
    del line["processor_seconds"]
    path.write_text(json.dumps(line) + "\n")
    assert call("record", run, *ABOUT, "--out", tmp_path / "older") == 0
    assert "all processes: unknown, in 3 starts" in (tmp_path / "older" / "README.md").read_text()


def test_the_command_of_a_record_starts_the_same_run_again(runs: list[Path], tmp_path: Path) -> None:
    record = RunRecord(**json.loads((runs[1] / "run.json").read_text()))
    words = shlex.split(command(record, str(tmp_path / "again")))
    assert words[:3] == ["python", "-m", "pipeline"]
    assert call(*words[3:]) == 0
    assert (tmp_path / "again" / "submission.json").read_bytes() == (runs[1] / "submission.json").read_bytes()
    whole = RunRecord(
        ("arc1:training",),
        ("json:a b",),
        6,
        hold_out=True,
        preset="demo",
        seed=3,
        time_limit="10m",
        device="2 x cpu, tcmalloc",
        weights="w",
    )
    assert command(whole, "runs/x") == (
        "python -m pipeline run --source arc1:training --train-source 'json:a b' --max-side 6 --hold-out --preset demo "
        "--seed 3 --time-limit 10m --processes 2 --weights w --out runs/x"
    )
    on_gpus = command(RunRecord(("arc1:training",), time_limit="8m", reserve="12s", device="4 x NVIDIA L4"), "x")
    assert on_gpus.startswith("accelerate launch --num_processes 4 -m pipeline run --source arc1:training ")
    assert on_gpus.endswith(" --time-limit 8m --reserve 12s --out x")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("run.json", {"settings": ["train.steps=4"]}, "not the run of"),
        ("run.json", {"seed": 0}, "two of the runs have the same seed"),
        ("score.json", {"rules": None}, "it has not ended"),
        ("score.json", {"rules": {}}, "it has not ended"),
        ("score.json", {"rules": {"mean_over_tasks": 3}}, "it has not ended"),
        ("dataset/manifest.json", {"audit": {"leakage": "allow", "leaks": ["x"]}}, "trained on pairs that show the answer"),
    ],
)
def test_what_is_no_other_seed_of_a_clean_run_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, changes: dict[str, Any], message: str
) -> None:
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    edit(other, name, **changes)
    assert call("record", runs[0], other, *ABOUT, "--out", tmp_path / "out") == 2
    assert message in one_error(capsys, "record")
    assert not (tmp_path / "out").exists()
