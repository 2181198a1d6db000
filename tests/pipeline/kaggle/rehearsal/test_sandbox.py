"""The sandbox: what a notebook can reach in it, and what remains of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.kaggle.rehearsal.sandbox import Machine, namespaces_work, run_notebook
from pipeline.system.launch import program_environment

PROBE = (
    f"SOURCE = {__file__!r}"
    + """
import json, os, socket, time
from pathlib import Path
root = Path(os.environ.get("ARC_KAGGLE_ROOT", "/kaggle"))
found = {"home": sorted(os.listdir(os.path.expanduser("~"))), "variables": sorted(os.environ)}
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
    found["network"] = "there"
except OSError as error:
    found["network"] = error.strerror or str(error)
try:
    (root / "input" / "data" / "new").write_text("x")
    found["input"] = "written"
except OSError as error:
    found["input"] = error.strerror
found["first"] = Path("/proc/1/environ").read_bytes().decode() if "ARC_KAGGLE_ROOT" not in os.environ else ""
if "ARC_KAGGLE_ROOT" not in os.environ:
    Path("/dev/shm/probe-of-a-rehearsal").touch()
found["source"] = os.path.exists(SOURCE)
found["data"] = (root / "input" / "data" / "file").read_text()
(root / "working" / "found.json").write_text(json.dumps(found))
"""
)


def notebook(folder: Path, *cells: str) -> Path:
    code = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": cell, "execution_count": None, "outputs": []}
            for i, cell in enumerate(cells)]  # fmt: skip
    path = folder / "probe.ipynb"
    path.write_text(json.dumps({"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def machine(folder: Path, *cells: str, environment: Mapping[str, str] | None = None, working_bytes: int = 512 << 20) -> Machine:
    data = folder / "data"
    data.mkdir()
    (data / "file").write_text("content")
    return Machine(notebook(folder, *cells), {"data": data}, environment or {}, 60.0, working_bytes=working_bytes)


needs_namespaces = pytest.mark.skipif(not namespaces_work(), reason="this machine does not permit namespaces")


@needs_namespaces
def test_the_sandbox_has_no_network_no_home_no_foreign_variables_and_read_only_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "planted-secret")
    results = tmp_path / "results"
    code = run_notebook(machine(tmp_path, PROBE, environment={"FLAG": "1"}), results, isolate=True)
    assert code == 0, (results / "notebook.log").read_text()
    found = json.loads((results / "found.json").read_text())
    assert found["network"] == "Network is unreachable"
    assert found["input"] == "Read-only file system"
    assert found["data"] == "content"
    assert "FLAG" in found["variables"]
    assert not [name for name in found["variables"] if "KEY" in name or "TOKEN" in name]
    assert "planted-secret" not in found["first"]
    assert not Path("/dev/shm/probe-of-a-rehearsal").exists()
    assert not found["source"]
    assert ".kaggle" not in found["home"]
    assert b"planted-secret" not in b"".join(path.read_bytes() for path in results.iterdir())
    assert not Path("/kaggle").exists()


@needs_namespaces
def test_the_working_folder_has_a_limit(tmp_path: Path) -> None:
    fill = "open('/kaggle/working/kept', 'w').write('x')\nopen('/kaggle/working/large', 'wb').write(bytes(9 << 20))"
    assert run_notebook(machine(tmp_path, fill, "open('later', 'w')", working_bytes=8 << 20), tmp_path / "results", True) == 1
    log = (tmp_path / "results" / "notebook.log").read_text()
    assert "the notebook failed: OSError: [Errno 28] No space left on device" in log
    assert (tmp_path / "results" / "kept").is_file()
    assert not (tmp_path / "results" / "later").exists()


@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=needs_namespaces)])
def test_a_notebook_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path, isolate: bool) -> None:
    marked = f"orphan-{os.getpid()}-{isolate}"
    hang = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)', {marked!r}], start_new_session=True)\n"
        "print('started', flush=True)\ntime.sleep(100)"
    )
    hanging = machine(tmp_path, hang)
    for seconds in (4.0, 10.0, 30.0):  # a busy machine takes longer until it hangs
        assert run_notebook(replace(hanging, seconds=seconds), tmp_path / "results", isolate) == 124
        if "started" in (tmp_path / "results" / "notebook.log").read_text():
            break
    assert "started" in (tmp_path / "results" / "notebook.log").read_text()
    time.sleep(0.2)
    left = [process for process in psutil.process_iter(["cmdline", "status"]) if marked in (process.info["cmdline"] or [])]
    assert not [process for process in left if process.info["status"] != psutil.STATUS_ZOMBIE]


def test_a_rehearsal_that_is_ended_by_a_signal_leaves_nothing_running(tmp_path: Path) -> None:
    made = notebook(tmp_path, "open('started', 'w')\nimport time\ntime.sleep(100)")
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.kaggle.rehearsal.sandbox import Machine, run_notebook\n"
        "from pipeline.system.signals import interruptible\n"
        f"with interruptible(): run_notebook(Machine(Path({str(made)!r}), {{}}, {{}}, 90.0), Path(sys.argv[1]), False)"
    )
    results = tmp_path / "results"
    environment = program_environment() | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program, results], env=environment)
    until = time.monotonic() + 40
    while not list(tmp_path.glob("arc-rehearsal-*/root/kaggle/working/started")) and time.monotonic() < until:
        time.sleep(0.1)
    assert list(tmp_path.glob("arc-rehearsal-*/root/kaggle/working/started"))
    process.terminate()
    assert process.wait(timeout=20) != 0
    assert not list(tmp_path.glob("arc-rehearsal-*"))
    there = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in there if str(results) in line or f"{tmp_path}/arc-rehearsal-" in line]


def test_without_namespaces_the_notebook_runs_in_a_plain_folder_up_to_the_first_cell_that_raises(tmp_path: Path) -> None:
    results, cells = tmp_path / "results", (PROBE, "raise SystemExit('nothing to do')", "print('third')")
    assert run_notebook(machine(tmp_path, *cells), results, isolate=False) == 1
    log = (results / "notebook.log").read_text()
    assert log.splitlines()[-1] == "the notebook failed: SystemExit: nothing to do"
    assert "third" not in log
    assert (results / "notebook.ipynb").is_file()
    found = json.loads((results / "found.json").read_text())
    assert found["data"] == "content"
    assert ".kaggle" not in found["home"]
