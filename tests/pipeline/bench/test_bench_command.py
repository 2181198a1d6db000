"""`bench` measures every stage, prints a table and writes all of it as JSON."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch

from pipeline.__main__ import main
from pipeline.bench import command, plan
from pipeline.bench.graphs import gpu_sides
from pipeline.bench.stages import Computing, Draws

TINY = replace(plan.QUICK, tasks=4, augmentations=5, peak_side=32)


def test_every_stage_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    path = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    for figure in ("augmented tasks/s", "sequences/s", "useful tokens/s", "share of the peak", "views/s", "candidates/s"):
        assert figure in printed
    for stage in ("build", "train", "predict"):
        assert f"\n{stage}: " in printed
    found = orjson.loads(path.read_bytes())
    assert set(found["rows"]) == set(found["differences"]) == {"build", "train", "predict"}
    assert set(found["details"]["train"]) == {"published", "unpadded", "ours"}
    assert found["details"]["train"]["ours"]["sizes"] == [1, 2]
    assert all(row["ours"] is not None for rows in found["rows"].values() for row in rows)
    assert found["machine"]["float32_gflops"] > 0


def test_one_stage_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    assert main(["bench", "build", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "augmented tasks/s" in printed
    assert "sequences/s" not in printed


def test_a_cpu_has_neither_graphs_nor_compiled_sides() -> None:
    store = plan.build_mix(TINY)
    eager = Computing("ours", store, TINY, torch.device("cpu"), torch.float32)
    assert gpu_sides(eager, Draws(store, "pairs", tries=1)) == {}
