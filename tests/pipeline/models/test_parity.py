"""The comparison with reference vectors of the published code holds, and would notice if it did not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from tests.parity import TOLERANCE, compare, describe, main
from tests.pipeline.published.examples import read_golden

FOLDER = Path(__file__).parents[2] / "golden"


def write(path: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> str:
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    return str(path)


@pytest.mark.parametrize("name", ["trm_attention", "hrm", "urm"])
def test_ours_gives_what_the_published_network_gives(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(": ok")
    assert max(compare(path).found.values()) < TOLERANCE / 5


def test_the_mixer_gives_what_the_published_one_gives_as_far_as_rounding_lets_it_tell() -> None:
    errors = compare(FOLDER / "trm_mixer.safetensors")
    assert errors.found["eval.step1.logits"] < TOLERANCE
    assert errors.above() == []
    first = {name: error for name, error in errors.found.items() if name.split(".")[1] == "step1"}
    assert {"eval.step1.logits", "train.step1.loss", "train.step1.grad.puzzle_rows"} < first.keys()
    assert max(first.values()) < 3 * TOLERANCE  # gradients included
    assert describe(errors).endswith(f"the first segment is within {max(first.values()):.1e}")
    assert errors.rounding["eval.step3.logits"] > 10 * TOLERANCE  # the vectors are chaotic by the third segment
    assert replace(errors, found=errors.found | {"train.step1.loss": 1e-3}).above() == ["train.step1.loss"]  # not in the first


@pytest.mark.parametrize(
    ("file", "name", "changes"),
    [
        ("hrm", "param.inner.lm_head.weight", {}),
        ("hrm", "train.step1.grad.puzzle_rows", {}),
        ("trm_attention", None, {"L_cycles": 1}),
        ("hrm", None, {"no_ACT_continue": True}),  # a gradient through more than the last step
    ],
)
def test_a_small_difference_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, name: str | None, changes: dict[str, object]
) -> None:
    tensors, config = read_golden(file)
    if name:
        tensors[name] = tensors[name] * 1.001
    assert main([write(tmp_path / "changed.safetensors", tensors, config | changes)]) == 1
    assert "above 0.0001" in capsys.readouterr().out


def test_a_file_of_another_network_gives_one_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, config = read_golden("trm_attention")
    learned = write(tmp_path / "learned.safetensors", tensors, {**config, "pos_encodings": "learned"})
    assert main([learned, str(FOLDER / "trm_attention.safetensors")]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{learned}: published config has pos_encodings = 'learned', expected 'rope' or 'none'"
    assert second.endswith(": ok")


def test_a_file_that_is_no_reference_gives_one_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = read_golden("trm_attention")
    save_file(tensors, tmp_path / "nameless.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    for name in ("nameless", "noise", "missing"):
        assert main([str(tmp_path / f"{name}.safetensors")]) == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert f"{name}.safetensors: " in line
