"""A machine like Kaggle's from Linux namespaces: no network, read-only inputs, limited disks, a file system of its own.

Where namespaces are not permitted the notebook runs in a plain folder, and `NOT_ISOLATED` says what that means.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psutil

TOOLS = Path(__file__).parent
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child")
_TRIAL = """set -e
mount -t tmpfs tmpfs /tmp; mkdir /tmp/usr /tmp/sys /tmp/proc
mount --bind /usr /tmp/usr; mount -o remount,bind,ro /tmp/usr; mount --rbind /sys /tmp/sys; mount -t proc proc /tmp/proc"""
"""Every kind of mount that the sandbox needs: containers that hide parts of /proc refuse only the last one."""
ISOLATED = "sandbox: no network, read-only inputs, limited disks, a clean environment and file system"
NOT_ISOLATED = "no namespaces here: network, read-only inputs and disk limits are NOT isolated; the environment is clean"
_PASSED_ON = ("OMP_NUM_THREADS", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Machine:
    """The conditions of a notebook."""

    notebook: Path
    inputs: Mapping[str, Path]
    """Folders below /kaggle/input, by their names there."""
    environment: Mapping[str, str]
    seconds: float
    """After which the notebook is killed."""
    fault: str = ""
    """One of `inject_fault.INJECTIONS`, injected while it runs."""
    working_bytes: int = 512 << 20
    scratch_bytes: int = 2 << 30


@cache
def namespaces_work() -> bool:
    """Return whether this machine permits the namespaces of the sandbox."""
    if not shutil.which("unshare"):
        return False
    try:
        tried = subprocess.run([*_UNSHARE, "sh", "-c", _TRIAL], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def run_notebook(machine: Machine, results: Path, isolate: bool) -> int:
    """Execute a notebook, fill `results`, end all its processes; return its exit code, 124 where it did not end in time."""
    results.mkdir(parents=True, exist_ok=True)
    environment = {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "ARC_REHEARSAL": uuid.uuid4().hex,
        **machine.environment,
    }
    real = Path(sys.executable).resolve().parents[1]
    folders = sorted({Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_prefix).resolve(), real})
    outer = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    with tempfile.TemporaryDirectory(prefix="arc-rehearsal-", ignore_cleanup_errors=True) as temporary:
        root = Path(temporary, "root")
        root.mkdir()
        spec = asdict(machine) | {
            "isolate": isolate,
            "root": str(root),
            "python": [str(folder) for folder in outer if Path("/usr") not in (folder, *folder.parents)],
            "inputs": {name: str(folder.resolve()) for name, folder in machine.inputs.items()},
            "notebook": str(machine.notebook.resolve()),
            "results": str(results.resolve()),
            "tools": str(TOOLS.resolve()),
            "environment": environment,
        }
        path = Path(temporary, "spec.json")
        path.write_text(json.dumps(spec))
        command = [*(_UNSHARE if isolate else ()), sys.executable, str(TOOLS / "sandbox_main.py"), str(path)]
        # also for the sandbox's first process, whose environment is readable in there as /proc/1/environ
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
        try:
            code = process.wait(timeout=machine.seconds + 60.0)  # it ends the notebook itself
        except subprocess.TimeoutExpired:
            code = 124
        finally:  # a namespace dies with its first process, others are found by their mark
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for other in psutil.process_iter():
                with suppress(psutil.Error, OSError):  # not ours, or gone
                    if other.environ().get("ARC_REHEARSAL") == environment["ARC_REHEARSAL"]:
                        other.kill()
        if not isolate:
            for folder in (root, *root.rglob("*")):
                if folder.is_dir() and not folder.is_symlink():
                    folder.chmod(0o755)
        return code
