"""Several processes without GPUs: how they are started."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pipeline.cli.main import main
from pipeline.system import launch
from pipeline.system.folder_lock import FolderLock
from pipeline.system.launch import STARTED, start_processes

Calls = list[tuple[list[str], dict[str, str]]]
"""Command and environment of each."""


class Replaced(Exception):
    """Raised in place of replacing the process."""


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    def execve(_: str, command: list[str], environment: dict[str, str]) -> None:
        calls.append((command, environment))
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return calls


def pretend_parent(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    parent = SimpleNamespace(cmdline=lambda: list(words))
    monkeypatch.setattr(launch.psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))


def test_one_process_and_processes_of_a_launcher_start_no_others(replaced: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    start_processes(None, ["train"], 0.0)
    start_processes(1, ["train"], 0.0)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # without MASTER_PORT, which accelerate sets for several processes
    start_processes(None, ["run"], 0.0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    start_processes(2, ["train"], 0.0)
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        start_processes(0, [], 0.0)
    assert replaced == []


def test_processes_share_the_threads_the_clock_and_the_lock(tmp_path: Path, replaced: Calls) -> None:
    with FolderLock(tmp_path) as lock:
        with pytest.raises(Replaced):
            start_processes(2, ["train", "--out", "x y"], 12.5, lock)
        assert os.get_inheritable(lock.descriptor)
    ((command, environment),) = replaced
    assert command[0] == sys.executable
    assert command[-5:] == ["-m", "pipeline", "train", "--out", "x y"]
    assert command[command.index("--nproc_per_node") + 1] == "2"
    assert int(environment["OMP_NUM_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)
    assert float(environment[STARTED]) == 12.5


@pytest.mark.parametrize("words", [("--cpu", "--num_processes", "3", "-m"), ("--num_processes=3", "--cpu")])
def test_accelerate_on_a_cpu_gets_the_processes_that_it_was_asked_for(
    replaced: Calls, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    pretend_parent(monkeypatch, "accelerate", "launch", *words, "pipeline")
    with pytest.raises(Replaced):
        start_processes(None, ["run"], 0.0)
    ((command, _),) = replaced
    assert command[command.index("--nproc_per_node") + 1] == "3"


def test_the_clock_starts_with_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    def handler(_: Namespace, started: float) -> int:
        begun.append(started)
        return 0

    parser = Mock()
    parser.parse_args.return_value = Namespace(command="none", handler=handler)
    monkeypatch.setattr("pipeline.cli.main._parser", lambda: parser)
    monkeypatch.delenv(STARTED, raising=False)
    assert main(started=5.0) == 0
    monkeypatch.setenv(STARTED, "3.25")
    assert main(started=5.0) == main([], started=5.0) == 0
    assert begun == [5.0, 3.25, 5.0]


@pytest.mark.parametrize(("exit_code", "expected"), [(2, 2), (1, 1), (-9, 1)])
def test_the_launcher_ends_with_the_exit_code_of_the_first_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exit_code: int, expected: int
) -> None:
    failure = ProcessFailure(local_rank=1, pid=7, exitcode=exit_code, error_file="none")

    def fail(arguments: list[str]) -> None:
        raise ChildFailedError("pipeline", {1: failure})

    monkeypatch.setattr("torch.distributed.run.main", fail)
    assert launch.launch(["--standalone"]) == expected
    assert capsys.readouterr().err == ("a process was killed by SIGKILL\n" if exit_code < 0 else "")
