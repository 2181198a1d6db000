"""The program starts once more with tcmalloc, and only where that is wanted and there."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from pipeline.system import allocator
from pipeline.system.allocator import AGAIN, PRELOAD, find_allocator, has_gpu, is_command, start_with_allocator, uses_tcmalloc
from pipeline.system.launch import program_environment

Calls = list[tuple[str, list[str], dict[str, str]]]
COMMAND = ["python3", "-u", "-m", "pipeline", "run", "--out", "x y"]


class Replaced(Exception):
    """Raised in place of replacing the process."""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of tcmalloc, in the environment of Python, on a machine without a GPU."""
    file = tmp_path / "lib" / allocator.LIBRARIES[0]
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "orig_argv", COMMAND)
    monkeypatch.setattr(allocator, "NVIDIA", str(tmp_path / "no driver"))
    monkeypatch.delenv(PRELOAD, raising=False)
    return file


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        calls.append((program, command, environment))
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    return calls


def test_the_program_starts_once_more_with_its_arguments(
    installed: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", "7")
    with pytest.raises(Replaced):
        start_with_allocator()
    [(program, command, environment)] = replaced
    assert program == sys.executable
    assert command == [sys.executable, *COMMAND[1:]]
    assert environment == os.environ | {PRELOAD: str(installed), AGAIN: "1"}


def test_what_was_started_again_goes_on_and_hands_nothing_on(
    installed: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loaded in (True, False):  # a loader that distrusts the program removes the variable
        if loaded:
            monkeypatch.setenv(PRELOAD, str(installed))
        monkeypatch.setenv(AGAIN, "1")
        start_with_allocator()
        assert replaced == []
        assert not {PRELOAD, AGAIN} & set(os.environ)


@pytest.mark.parametrize("chosen", ["", "libother.so"])
def test_what_the_user_preloads_stays(installed: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv(PRELOAD, chosen)
    start_with_allocator()
    assert os.environ[PRELOAD] == chosen
    assert replaced == []


def test_where_it_cannot_start_again_it_goes_on(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(installed))  # not a program
    start_with_allocator()


def test_what_is_preloaded_was_found(installed: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_allocator() == str(installed)
    monkeypatch.setattr(allocator, "LIBRARIES", ("libnone.so.4", allocator.LIBRARIES[0]))
    assert find_allocator() == str(installed)
    divided = tmp_path / "a folder" / "lib" / allocator.LIBRARIES[1]
    divided.parent.mkdir(parents=True)
    divided.touch()
    monkeypatch.setattr(sys, "prefix", str(divided.parents[1]))
    assert find_allocator() != str(divided)
    monkeypatch.setattr(allocator, "LIBRARIES", ("libnone.so.4",))
    assert find_allocator() is None
    start_with_allocator()
    assert replaced == []


def test_a_program_with_a_gpu_keeps_its_own(installed: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "NVIDIA", "/")
    for name in ("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    start_with_allocator()
    assert replaced == []
    assert has_gpu({"CUDA_VISIBLE_DEVICES": "1"})
    assert not has_gpu({"CUDA_VISIBLE_DEVICES": ""})
    assert not has_gpu({"ACCELERATE_USE_CPU": "True"})


def test_a_program_with_limited_memory_keeps_its_own(installed: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.resource, "getrlimit", lambda _: (1 << 32, -1))
    start_with_allocator()
    assert replaced == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("python3 -X dev -m pipeline run", True),
        ("python3 /usr/bin/arc-trm run -m pipeline", True),
        ("python3 -m pdb -m pipeline run", False),
        ("python3 /usr/bin/memray run -m other", False),
        ("python3 -c from_multiprocessing.spawn_import_spawn_main --multiprocessing-fork", False),
        ("python3 -m", False),
    ],
)
def test_only_the_command_itself_starts_again(words: str, expected: bool) -> None:
    assert is_command(words.split()) == expected


def test_the_command_loads_the_library_and_does_not_hand_it_on(tmp_path: Path) -> None:
    venv.create(tmp_path, symlinks=True, with_pip=False)
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines() if ".so" in line)
    library = tmp_path / "lib" / allocator.LIBRARIES[0]
    shutil.copy(next(file for file in mapped if Path(file).name.startswith("libm.so")), library)  # any will do
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os; print(os.getpid(), os.environ.get('LD_PRELOAD'))\n"
        "atexit.register(lambda: print(os.environ.get('LD_PRELOAD'), os.environ.get('ARC_PIPELINE_STARTED_AGAIN')))\n"
    )
    environment = {name: value for name, value in program_environment().items() if name != PRELOAD}
    packages = [path for path in sys.path if path.endswith("-packages")]
    paths = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"], *packages])
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    command = [str(tmp_path / "bin" / "python"), "-m", "pipeline", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    process = lines[0].split()[0]
    assert lines[0] == f"{process} None"
    assert lines[1] == f"{process} {library}"
    assert lines[-1] == "None None"
    assert done.stderr == ""


def test_a_process_tells_whether_it_has_it() -> None:
    assert uses_tcmalloc() == ("tcmalloc" in os.environ.get(PRELOAD, ""))
