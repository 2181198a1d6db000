"""What a machine has, without torch."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.system import processors
from pipeline.system.launch import program_environment
from pipeline.system.processors import find_gpus, gpu_device_files, threads_each


def test_gpus_are_those_that_programs_will_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU 0: NVIDIA L4 (UUID: GPU-1)\\nGPU 1: NVIDIA L4 (UUID: GPU-2)\\nodd \\377 line\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_gpus({}) == ("GPU 0: NVIDIA L4", "GPU 1: NVIDIA L4")
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == ("GPU 0: NVIDIA L4",)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": ""}) == find_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == ()
    listing = tool.read_text()
    tool.write_text(f"#!/bin/sh\nif [ -e {tmp_path}/ready ]; then {listing[10:-1]}; else touch {tmp_path}/ready; exit 9; fi\n")
    monkeypatch.setattr(processors, "PAUSE_SECONDS", 0.0)
    assert find_gpus({}) == ()  # it fails once
    (tmp_path / "ready").unlink()
    assert len(find_gpus({}, tries=2)) == 2
    assert "nvidia-smi found no GPU and is asked again: exit code 9" in caplog.text
    tool.write_text("#!/bin/sh\nexec sleep 4\n")
    monkeypatch.setattr(processors, "LISTING_SECONDS", 0.2)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)  # as where a driver holds it up
    started = time.monotonic()
    assert find_gpus({}) == ()
    assert time.monotonic() - started < 3
    tool.unlink()
    assert find_gpus({}, tries=2) == ()


def test_device_files_of_gpus_are_those_that_programs_will_see(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    both = (str(tmp_path / "nvidia0"), str(tmp_path / "nvidia1"))
    assert gpu_device_files({}, tmp_path) == both
    assert gpu_device_files({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == both[:1]
    assert gpu_device_files({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == gpu_device_files({}, tmp_path / "none") == ()


@pytest.mark.parametrize(("given", "threads"), [(None, 4), ("3", 3), ("16", 4), ("0", 1), ("", 4), ("4,2", 4)])
def test_processes_have_their_share_of_the_threads_and_no_more_than_was_said(
    monkeypatch: pytest.MonkeyPatch, given: str | None, threads: int
) -> None:
    monkeypatch.setattr(processors, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_each(2) == threads


def test_cores_are_those_that_the_process_may_use() -> None:
    program = "import os; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); "
    program += "from pipeline.system.processors import threads_each, usable_cores; print(usable_cores(), threads_each(2))"
    words = [sys.executable, "-c", program]
    ended = subprocess.run(words, env=program_environment(), capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "1"]
