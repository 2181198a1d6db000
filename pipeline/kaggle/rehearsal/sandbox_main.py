"""Runs in the sandbox: builds the file system of a Kaggle machine, executes the notebook there, keeps its files.

`python sandbox_main.py SPEC.json` is started by `pipeline.kaggle.rehearsal.sandbox` in new namespaces, where it is root. It
imports nothing of the project. With "isolate" false it does the same in a plain folder.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

SYSTEM = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt")
_SIOCSIFFLAGS, _UP_AND_RUNNING = 0x8914, 0x41


def main() -> int:
    """Return the exit code of the notebook; 124 when it did not end in time."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_bytes())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = Path(spec["root"])
    if spec["isolate"]:
        _build_root(root, spec)
        os.chroot(root)
        os.chdir("/")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:  # a new network has only loopback; Jupyter needs it
            fcntl.ioctl(channel, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))
        socket.sethostname("notebook.invalid")  # which nothing resolves
        root = Path("/")
    else:
        _build_folder(root, spec)
    kaggle = root / "kaggle"
    environment = {**spec["environment"], "HOME": str(root / "home"), "TMPDIR": str(root / "tmp")}
    if not spec["isolate"]:
        environment["ARC_KAGGLE_ROOT"] = str(kaggle)
    tools, results = root / "rehearsal" / "tools", root / "rehearsal" / "results"
    injector = None
    if spec["fault"]:
        command = [sys.executable, str(tools / "inject_fault.py"), spec["fault"], str(kaggle), str(root / "tmp"), str(results)]
        injector = subprocess.Popen(command, env=environment)
    files = (tools / "execute_notebook.py", root / "rehearsal" / "notebook.ipynb", results / "notebook.ipynb")
    notebook = [sys.executable, *map(str, files)]
    with (results / "notebook.log").open("wb") as log:
        runner = subprocess.Popen(
            notebook, cwd=kaggle / "working", env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = runner.wait(timeout=spec["seconds"])
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            with suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
            runner.wait()
            if injector:
                injector.kill()
    for path in (kaggle / "working").iterdir():  # what Kaggle would keep
        if path.is_file() and path.name != "filler":
            shutil.copyfile(path, results / path.name)
    return code


def _build_root(root: Path, spec: dict[str, Any]) -> None:
    """Mount a file system: system, Python and inputs read-only, working and scratch of limited size."""
    _mount("-t", "tmpfs", "tmpfs", root)
    for name in SYSTEM:
        place = Path("/", name)
        if place.is_symlink():
            (root / name).symlink_to(place.readlink())
        elif place.is_dir():
            _bind(place, root / name, writable=False)
    for name in ("dev", "sys"):
        _mount("--rbind", f"/{name}", _made(root / name))
    _mount("-t", "tmpfs", "-o", f"size={spec['scratch_bytes']}", "tmpfs", root / "dev" / "shm")  # instead of the machine's
    _mount("-t", "proc", "proc", _made(root / "proc"))
    _mount("-t", "tmpfs", "-o", f"size={spec['scratch_bytes']}", "tmpfs", _made(root / "tmp"))
    for python in spec["python"]:
        _bind(Path(python), root / python.lstrip("/"), writable=False)
    _mount("-t", "tmpfs", "-o", f"size={spec['working_bytes']}", "tmpfs", _made(root / "kaggle" / "working"))
    for inside, outside in spec["inputs"].items():
        _bind(Path(outside), root / "kaggle" / "input" / inside, writable=False)
    _made(root / "kaggle" / "input")
    _made(root / "home")
    _bind(Path(spec["tools"]), root / "rehearsal" / "tools", writable=False)
    _bind(Path(spec["results"]), root / "rehearsal" / "results", writable=True)
    shutil.copyfile(spec["notebook"], root / "rehearsal" / "notebook.ipynb")


def _build_folder(root: Path, spec: dict[str, Any]) -> None:
    """Make the same folders without namespaces: read-only copies of the inputs, no limits."""
    for name in ("tmp", "home", "kaggle/working", "kaggle/input", "rehearsal"):
        _made(root / name)
    for inside, outside in spec["inputs"].items():
        target = root / "kaggle" / "input" / inside
        shutil.copytree(outside, target)
        for path in (target, *target.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    (root / "rehearsal" / "tools").symlink_to(spec["tools"])
    (root / "rehearsal" / "results").symlink_to(spec["results"])
    shutil.copyfile(spec["notebook"], root / "rehearsal" / "notebook.ipynb")


def _bind(source: Path, target: Path, writable: bool) -> None:
    _mount("--bind", source, _made(target))
    if not writable:
        _mount("-o", "remount,bind,ro", target)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


if __name__ == "__main__":
    sys.exit(main())
