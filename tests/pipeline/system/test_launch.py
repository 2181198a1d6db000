"""Several processes without GPUs: how they are started."""

import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import pipeline.__main__ as program
from pipeline.cli.main import main
from pipeline.system import launch, processors
from pipeline.system.folder_lock import FolderLock
from pipeline.system.launch import STARTED, program_environment, start_processes

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


def test_one_process_and_processes_of_a_launcher_start_no_others(
    replaced: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start_processes(None, ["train"], 0.0)
    start_processes(1, ["train"], 0.0)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # without MASTER_PORT, which accelerate sets for several processes
    start_processes(None, ["run"], 0.0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(launch, "_end_with_launcher", followed := Mock())
    monkeypatch.setenv("MASTER_PORT", "29500")  # of a launcher, whatever started it
    pretend_parent(monkeypatch, "accelerate", "launch", "--cpu", "--num_processes", "2")
    start_processes(None, ["train"], 0.0)
    start_processes(2, ["train"], 0.0)
    assert followed.call_count == 2
    assert not caplog.text
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        start_processes(0, [], 0.0)
    assert replaced == []


def test_processes_on_the_cpu_of_a_machine_with_gpus_are_named_in_the_log(
    replaced: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launch, "find_gpus", lambda _: ("GPU 0: NVIDIA L4", "GPU 1: NVIDIA L4"))
    for told, said in ((None, True), ("true", False)):
        caplog.clear()
        if told:
            monkeypatch.setenv("ACCELERATE_USE_CPU", told)
        with pytest.raises(Replaced):
            start_processes(2, ["train"], 0.0)
        assert ("--processes computes on the CPU; `accelerate launch` takes the 2 GPUs here" in caplog.text) is said


def test_processes_end_in_order_when_their_launcher_is_killed(tmp_path: Path) -> None:
    child = f"""
import signal, sys, time
from pathlib import Path
from pipeline.system.launch import start_processes
signal.signal(signal.SIGTERM, lambda *_: (Path({str(tmp_path / "ended")!r}).touch(), sys.exit()))
start_processes(2, [], 0.0)
Path({str(tmp_path / "started")!r}).touch()
time.sleep(60)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    process = subprocess.Popen([sys.executable, "-c", parent], env=program_environment() | {"LOCAL_RANK": "0"})
    for name, then in (("started", process.kill), ("ended", process.wait)):
        latest = time.monotonic() + 60
        while not (tmp_path / name).exists():
            assert time.monotonic() < latest, name
            time.sleep(0.05)
        then()


def test_processes_share_the_threads_the_clock_and_the_lock(
    tmp_path: Path, replaced: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "usable_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS")
    with FolderLock(tmp_path) as lock:
        with pytest.raises(Replaced):
            start_processes(2, ["train", "--out", "x y"], 12.5, lock)
        assert os.get_inheritable(lock.descriptor)
    ((command, environment),) = replaced
    assert command[0] == sys.executable
    assert command[-5:] == ["-m", "pipeline", "train", "--out", "x y"]
    assert command[command.index("--nproc_per_node") + 1] == "2"
    assert int(environment["OMP_NUM_THREADS"]) == 3
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


def test_several_processes_that_accelerate_does_not_start_are_told(
    replaced: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    pretend_parent(monkeypatch, "accelerate", "launch", "--config_file", "two.yaml", "-m", "pipeline")
    start_processes(None, ["run"], 0.0)
    assert not replaced
    assert "this is one: --processes N starts N on CPUs" in caplog.text


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


@pytest.mark.parametrize(
    ("failures", "expected", "killed"),
    [
        ([(2, 0)], 2, False),
        ([(1, 0)], 1, False),
        ([(-9, 0)], 1, True),
        ([(2, 0), (-15, 1)], 2, False),
        ([(1, 0), (-9, 1)], 1, True),  # that which waited for the killed one was seen first
        ([(-9, 30), (2, 0), (-9, 30)], 2, False),  # those that did not end were killed by the launcher
    ],
)
def test_the_launcher_ends_with_the_exit_code_of_the_first_that_failed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failures: list[tuple[int, int]],
    expected: int,
    killed: bool,
) -> None:
    ended = {rank: ProcessFailure(rank, pid=7, exitcode=code, error_file="none") for rank, (code, _) in enumerate(failures)}
    for failure, (_, seconds) in zip(ended.values(), failures, strict=True):
        failure.timestamp = 1_000_000 + seconds

    def fail(arguments: list[str]) -> None:
        raise ChildFailedError("pipeline", ended)

    monkeypatch.setattr("torch.distributed.run.main", fail)
    assert launch.launch(["--standalone"]) == expected
    assert capsys.readouterr().err == ("a process was killed by SIGKILL\n" if killed else "")


def test_a_process_with_an_error_that_nobody_foresaw_does_not_wait_for_others_either(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(program, "_ended_with", ended)
    monkeypatch.setattr(program, "main", Mock(side_effect=RuntimeError("an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        program.start()
    assert ended == [1]  # with which `_leave` exits
