"""The comparison with reference vectors of the published code holds, and would notice if it did not."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.parity import TOLERANCE, compare, main

GOLDEN = Path(__file__).parents[2] / "golden" / "trm_attention.safetensors"


def read_golden() -> tuple[dict[str, Tensor], dict[str, object]]:
    with safe_open(str(GOLDEN), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


def write(path: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> str:
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    return str(path)


def test_ours_gives_what_the_published_network_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(": ok")
    assert compare(GOLDEN).worst < TOLERANCE / 5


@pytest.mark.parametrize(
    "name",
    [
        "param.inner.lm_head.weight",
        "param.inner.puzzle_emb.weights",
        "train.step1.grad.puzzle_rows",
        "eval.step3.q_halt_logits",
    ],
)
def test_a_slightly_different_tensor_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    tensors, config = read_golden()
    tensors[name] = tensors[name] * 1.001
    assert main([write(tmp_path / "changed.safetensors", tensors, config)]) == 1
    assert capsys.readouterr().out.rstrip().endswith("above 0.0001")


def test_other_cycles_are_noticed(tmp_path: Path) -> None:
    tensors, config = read_golden()
    cycles = config["L_cycles"]
    assert isinstance(cycles, int)
    assert main([write(tmp_path / "deeper.safetensors", tensors, {**config, "L_cycles": cycles + 1})]) == 1


def test_a_file_of_another_network_gives_one_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, config = read_golden()
    mixer = write(tmp_path / "mixer.safetensors", tensors, {**config, "mlp_t": True})
    assert main([mixer, str(GOLDEN)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{mixer}: published config has mlp_t = True; only False is supported"
    assert second.endswith(": ok")


def test_a_file_that_is_no_reference_gives_one_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = read_golden()
    save_file(tensors, tmp_path / "nameless.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    for name in ("nameless", "noise", "missing"):
        assert main([str(tmp_path / f"{name}.safetensors")]) == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert f"{name}.safetensors: " in line
