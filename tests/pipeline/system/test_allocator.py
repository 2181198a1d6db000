"""The program starts once more with tcmalloc, and only where that is wanted and there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.system import allocator
from pipeline.system.allocator import PRELOAD, find_allocator, start_with_allocator, uses_tcmalloc


class Replaced(Exception):
    """Raised in place of replacing the process."""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of tcmalloc, in the environment of Python, on a machine without a GPU."""
    file = tmp_path / "lib" / allocator.LIBRARIES[0]
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(allocator, "NVIDIA", str(tmp_path / "no driver"))
    monkeypatch.delenv(PRELOAD, raising=False)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    return str(file)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, str]]]:
    calls: list[tuple[str, list[str], dict[str, str]]] = []

    def execve(*call: object) -> None:
        calls.append(call)  # type: ignore[arg-type]
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    return calls


def test_the_program_starts_once_more_with_its_arguments(
    installed: str, replaced: list[tuple[str, list[str], dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-u", "-m", "pipeline", "run", "--out", "x y"])
    monkeypatch.setenv("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", "7")
    with pytest.raises(Replaced):
        start_with_allocator()
    [(program, command, environment)] = replaced
    assert program == sys.executable
    assert command == [sys.executable, "-u", "-m", "pipeline", "run", "--out", "x y"]
    assert environment == os.environ | {PRELOAD: installed}


@pytest.mark.parametrize(("chosen", "left"), [("", ""), ("libother.so", "libother.so"), (None, None)])
def test_it_goes_on_as_it_was_started(installed: str, monkeypatch: pytest.MonkeyPatch, chosen: str, left: str | None) -> None:
    monkeypatch.setenv(PRELOAD, installed if chosen is None else chosen)
    start_with_allocator()
    assert os.environ.get(PRELOAD) == left


def test_what_is_preloaded_was_found(installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_allocator({}) == installed
    other = tmp_path / "conda" / "lib" / allocator.LIBRARIES[1]
    other.parent.mkdir(parents=True)
    other.touch()
    assert find_allocator({"CONDA_PREFIX": str(tmp_path / "conda")}) == installed
    Path(installed).unlink()
    monkeypatch.setattr(allocator, "LIBRARIES", allocator.LIBRARIES[1:])
    assert find_allocator({"CONDA_PREFIX": str(tmp_path / "conda")}) == str(other)
    monkeypatch.setattr(allocator, "LIBRARIES", ("libnone.so.4",))
    assert find_allocator({}) is None
    start_with_allocator()


def test_a_machine_with_a_gpu_keeps_its_own(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "NVIDIA", "/")
    assert find_allocator({}) is None


def test_the_library_is_loaded_and_not_handed_on(tmp_path: Path) -> None:
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines() if ".so" in line)
    library = tmp_path / allocator.LIBRARIES[0]
    shutil.copy(next(file for file in mapped if Path(file).name.startswith("libm.so")), library)  # any will do
    script = (
        "import os, sys; from pipeline.system import allocator\n"
        "print('started', sys.argv[1:], flush=True)\n"
        f"allocator.find_allocator = lambda _: {str(library)!r}\n"
        "allocator.start_with_allocator()\n"
        "print(allocator.uses_tcmalloc(), os.environ.get('LD_PRELOAD'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != PRELOAD}
    command = [sys.executable, "-c", script, "a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["started ['a b']", "started ['a b']", "True None"]
    assert done.stderr == ""


def test_a_process_tells_whether_it_has_it() -> None:
    assert uses_tcmalloc() == ("tcmalloc" in os.environ.get(PRELOAD, ""))
