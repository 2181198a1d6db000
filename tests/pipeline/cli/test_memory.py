"""memory: a run scored with its own task memory, with none and with that of other tasks."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.data.puzzles.kinds import KindName
from pipeline.weights.files import change_memory, load_weights, network_from
from tests.pipeline.tiny import TINY, set_options, tiny_config, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinypuzzles import tiny_puzzles, write_csv
from tests.pipeline.tinyrun import call, one_error, write_weights


@pytest.mark.parametrize("settings", [("memory.residual=3",), ("memory.kind=table",)])
def test_rows_are_zero_or_those_of_the_next_task_and_nothing_else_changes(tmp_path: Path, settings: tuple[str, ...]) -> None:
    dataset = tiny_dataset()
    write_weights(tmp_path, dataset, tiny_config(*settings))
    weights = load_weights(tmp_path)
    rows = [name for name in weights.tensors if name.endswith("rows")]
    for number, name in enumerate(rows):
        weights.tensors[name].normal_(generator=torch.Generator().manual_seed(number))
    own, blank, swapped = (
        network_from(change_memory(weights, kind), dataset)[0].state_dict() for kind in ("own", "blank", "swapped")
    )
    for name in own.keys() - rows:
        assert torch.equal(own[name], blank[name])
        assert torch.equal(own[name], swapped[name])
    for name in rows:
        assert own[name].any()
        assert not blank[name].any()
        assert not (own[name] == swapped[name]).all(1).any()
    if settings == ("memory.kind=table",):
        identities = dataset.transform_start[:-1].astype(int)  # every task has it, and first
        assert torch.equal(swapped["memory.rows"][identities], own["memory.rows"][identities].roll(-1, 0))
    else:
        assert torch.equal(swapped["memory.rows"], own["memory.rows"].roll(-1, 0))


def run(out: Path, *arguments: object) -> Path:
    settings = set_options(TINY)
    assert call("run", "--out", out, "--set", "train.steps=3", *settings, *arguments) == 0
    return out


def test_a_run_whose_solutions_are_its_own_attempts_is_right_with_its_own_memory_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_kaggle(tmp_path / "kaggle", tiny_source(1, 6, "t"), "evaluation", with_solutions=True)
    out = run(tmp_path / "run", "--preset", "demo", "--source", spec, "--set", "optimizer.memory_rate=3")
    attempts = json.loads((out / "submission.json").read_text())
    solutions = tmp_path / "kaggle" / "arc-agi_evaluation_solutions.json"
    solutions.write_text(json.dumps({task: [test["attempt_1"] for test in tests] for task, tests in attempts.items()}))
    capsys.readouterr()
    assert call("memory", out, "--views", 4, "--json", tmp_path / "memory.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["own", "blank", "swapped"]
    found = json.loads((tmp_path / "memory.json").read_text())
    rates = {name: score["rules"]["mean_over_tasks"]["pass_at_1"] for name, score in found.items()}
    assert rates["own"] == 1.0
    assert "100.00%" in lines[0]
    assert rates["blank"] < 1 and rates["swapped"] < 1
    solutions.unlink()
    assert call("memory", out) == 2
    assert "the test outputs are not known, so there is nothing to score by" in one_error(capsys, "memory")


def test_the_memory_of_a_single_task_can_only_be_blank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_kaggle(tmp_path / "kaggle", tiny_source(1, 1, "t"), "evaluation", with_solutions=True)
    out = run(tmp_path / "run", "--preset", "demo", "--source", spec)
    capsys.readouterr()
    assert call("memory", out, "--views", 2, "--json", tmp_path / "memory.json") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["own", "blank"]
    assert list(json.loads((tmp_path / "memory.json").read_text())) == ["own", "blank"]


def test_puzzles_are_one_task_whose_memory_can_only_be_blank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind: KindName = "sudoku"
    trained, tested = (write_csv(tmp_path / f"{seed}.csv", tiny_puzzles(kind, seed=seed)) for seed in (1, 2))
    out = run(tmp_path / "run", "--preset", "trm-sudoku", "--source", f"sudoku:{tested}", "--train-source", f"sudoku:{trained}")
    capsys.readouterr()
    assert call("memory", out, "--json", tmp_path / "new" / "memory.json") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["own", "blank"]
    found = json.loads((tmp_path / "new" / "memory.json").read_text())
    assert found["own"]["exact_accuracy"] == json.loads((out / "score.json").read_text())["exact_accuracy"]
    shortened = tested.read_text().splitlines(keepends=True)[:-1]
    tested.write_text("".join(shortened))
    assert call("memory", out) == 2
    assert "1 of the " in one_error(capsys, "memory")
    weights = load_weights(out)
    with pytest.raises(ValueError, match="of one task, whose memory cannot be swapped"):
        change_memory(weights, "swapped")
