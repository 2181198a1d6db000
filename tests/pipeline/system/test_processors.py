"""What a machine has, without torch."""

from pathlib import Path

import pytest

from pipeline.system.processors import find_gpus


def test_gpus_are_those_that_programs_will_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU 0: NVIDIA L4 (UUID: GPU-1)\\nGPU 1: NVIDIA L4 (UUID: GPU-2)\\nodd \\377 line\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_gpus({}) == ("GPU 0: NVIDIA L4", "GPU 1: NVIDIA L4")
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == ("GPU 0: NVIDIA L4",)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": ""}) == find_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == ()
    tool.unlink()
    assert find_gpus({}) == ()
