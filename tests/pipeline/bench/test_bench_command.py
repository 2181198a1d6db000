"""`bench` measures every stage, prints a table and writes all of it as JSON."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch

from pipeline.bench import command, stages
from pipeline.bench.stages import QUICK, Computing, Draws, build_mix, gpu_sides, on_samples
from pipeline.cli.main import main
from pipeline.models.reasoner import Block
from tests.pipeline.packed_on_cpu import register_kernels

TINY = replace(QUICK, tasks=4, augmentations=5, peak_side=32)


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


def test_a_cpu_has_no_compiled_sides() -> None:
    dataset = build_mix(TINY)
    eager = Computing("ours", dataset, TINY, torch.device("cpu"), torch.float32)
    assert gpu_sides({"ours": eager}, Draws(dataset, "pairs", tries=1)) == {}


def test_a_gpu_has_compiled_sides_that_compute_what_ours_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel for packed attention and a compiler that a CPU does not have."""
    compile_block = Block.compile
    monkeypatch.setattr(Block, "compile", lambda block, **how: compile_block(block, backend="aot_eager", **how))
    monkeypatch.setattr(stages, "choose_way", lambda *_: "packed")
    register_kernels()
    torch._dynamo.reset()
    dataset = build_mix(TINY)
    draws = Draws(dataset, "pairs", tries=1)
    for side in ("ours", "published"):
        eager = Computing(side, dataset, TINY, torch.device("cpu"), torch.float32)
        compiled = Computing(side, dataset, TINY, torch.device("cpu"), torch.float32, compiled=True)
        step = on_samples(compiled.train, draws)(3)
        for _ in range(2):
            step()
            eager.train(draws.samples(3))
            for (name, found), expected in zip(compiled.network.named_parameters(), eager.network.parameters(), strict=True):
                torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=name)
    torch._dynamo.reset()
