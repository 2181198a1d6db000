"""What GPUs are for, shown without one: every preset trains and predicts on one device, by fast kernels, and waits for nothing.

One process finds everything (inspect_presets.py), on a CUDA device that guard.cpp gives to PyTorch.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.presets import PRESETS

pytestmark = pytest.mark.fake_gpu

HERE = Path(__file__).parent
BOUNDS: dict[str, dict[str, tuple[int, float]]] = {
    "demo": {"step in rooms": (1980, 1.66), "step": (610, 0.57), "prediction": (235, 6.8)},  # its gate is not fused
    "arc1-cpu": {"step in rooms": (1980, 7.2), "step": (610, 3.1), "prediction": (235, 9.8)},
    "demo-sudoku": {"step in rooms": (620, 0.23), "prediction": (190, 0.15)},
    "fast": {"step in rooms": (470, 10.7), "step": (470, 10.4), "prediction": (160, 9.5), "step in rooms of a T4": (1900, 45)},
    "trm-arc1": {"step in rooms": (580, 212), "prediction": (240, 22)},
    "trm-sudoku": {"step in rooms": (520, 33), "prediction": (190, 8.2)},
    "trm-sudoku-attention": {"step in rooms": (580, 24), "prediction": (240, 5.9)},
    "trm-maze": {"step in rooms": (580, 211), "prediction": (240, 55)},
    "hrm-arc1": {"step in rooms": (810, 157), "prediction": (250, 22)},
    "hrm-sudoku": {"step in rooms": (810, 16.3), "prediction": (250, 5.0)},
    "urm-arc1": {"step in rooms": (550, 98), "prediction": (210, 18.1)},
    "urm-arc2": {"step in rooms": (650, 98), "prediction": (210, 18.1)},
    "charm-arc1": {"step in rooms": (840, 100), "prediction": (230, 18.1)},
    "charm-arc2": {"step in rooms": (820, 100), "prediction": (230, 18.1)},
    "sudoku-fast": {"step in rooms": (690, 17.1), "prediction": (230, 8)},
    "maze-fast": {"step in rooms": (750, 178), "prediction": (260, 67)},
}
"""By preset and run: the most kernels, and gigabytes that they read and write; about 15% above what they are today."""
OTHERS = ["bench", *(f"{path.stem}: parity" for path in (HERE.parent / "golden").glob("*.safetensors"))]
RUNS = [f"{preset}: {run}" for preset, of_preset in BOUNDS.items() for run in of_preset]
STEPS = [run for run in RUNS if "step" in run]
PREDICTIONS = [run for run in RUNS if "prediction" in run]


@pytest.fixture(scope="session")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The findings by the name of the run; found once, by whichever process of pytest-xdist is first."""
    folder = tmp_path_factory.getbasetemp()
    found = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "fake-gpu.json"
    with found.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            load = "import ctypes, sys; ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)"
            code = f"{load}; from tests.fake_gpu.inspect_presets import main; main()"
            found.write_bytes(run([sys.executable, "-c", code, str(build_guard(found.with_suffix(".so")))]))
    return json.loads(found.read_bytes())


def build_guard(library: Path) -> Path:
    """Compile guard.cpp, with the headers and libraries of the installed PyTorch."""
    torch_folder = Path(torch.__file__).parent
    compiler = shutil.which("c++") or shutil.which("g++")
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
    libraries = [f"-Wl,-rpath,{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    run([compiler, *options, str(HERE / "guard.cpp"), "-o", str(library), *libraries])
    return library


def run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, cwd=HERE.parents[1], check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def test_every_preset_and_network_is_inspected(findings: dict[str, Any]) -> None:
    assert sorted(findings) == sorted([*RUNS, *OTHERS])


@pytest.mark.parametrize("name", [*RUNS, *OTHERS])
def test_everything_is_on_one_device_and_no_value_is_read(findings: dict[str, Any], name: str) -> None:
    assert not findings[name]["error"]


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_waits_for_nothing_but_halting(findings: dict[str, Any], name: str) -> None:
    train, waits = PRESETS[name.partition(":")[0]].train, list(findings[name]["waits"])
    if train.segments > 1:
        assert "pipeline/training/carry.py" in waits.pop()
    assert not waits


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_prediction_waits_for_its_result_only(findings: dict[str, Any], name: str) -> None:
    waits = findings[name]["waits"]
    assert 1 <= len(waits) <= 2
    assert all("_read" in wait for wait in waits)


@pytest.mark.parametrize("name", RUNS)
def test_few_kernels_move_few_bytes(findings: dict[str, Any], name: str) -> None:
    preset, run = name.split(": ")
    most_kernels, most_gigabytes = BOUNDS[preset][run]
    assert findings[name]["kernels"] <= most_kernels
    assert findings[name]["gigabytes"] <= most_gigabytes
