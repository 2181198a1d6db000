"""`python -m pipeline COMMAND ...`, installed `arc-trm`: starts a run's clock before anything slow is imported."""

import os
import time
from contextlib import suppress

_STARTED = time.monotonic()
with suppress(OSError, ValueError, IndexError), open("/proc/self/stat", encoding="ascii") as _stat:  # noqa: PTH123 (pathlib is slow)
    _ticks = int(_stat.read().rpartition(")")[2].split()[19])  # since boot, when the kernel started this process
    _age = time.clock_gettime(time.CLOCK_BOOTTIME) - _ticks / os.sysconf("SC_CLK_TCK")
    _STARTED -= _age if 0 < _age < 60 else 0.0  # Python was being loaded; a sandbox may tell anything

import atexit  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

from pipeline.system.allocator import start_with_allocator  # noqa: E402

_ended_with: list[int] = []
"""The exit code, once there is one."""


def _leave() -> None:
    """Exit at once after all other exit handlers: unloading torch takes seconds on a busy machine."""
    if _ended_with:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended_with[0])


if __name__ == "__main__" or sys.argv[0].endswith("arc-trm"):
    while (_descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed by who started this process: no file may get its place
        pass
    os.close(_descriptor)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` listens there is nothing to put in order
    atexit.register(_leave)  # handlers run in reverse order, so this one is the last
    start_with_allocator()

# OpenMP reads this when torch is loaded. Threads that spin for long while they wait lose time slices to whatever else runs.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# oneDNN makes code for each shape of a product, and packs have many: the 1,024 that it keeps are soon made again and again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

_ENVIRONMENT = "`source .venv/bin/activate`, or `pip install '.[all]'` in the folder of the project"
try:
    from pipeline.cli.main import main
except ModuleNotFoundError as _error:
    sys.exit(f"python -m pipeline: {_error}: {_ENVIRONMENT}")


def start() -> None:
    """Run the command that this process was started with, and exit with its code."""
    try:
        _ended_with.append(main(started=_STARTED))
    except Exception as error:  # whatever it is
        _ended_with.append(1)  # without waiting for other processes or a broken device
        if not isinstance(error, ModuleNotFoundError) or (error.name or "").startswith("pipeline"):
            raise  # with its traceback
        print(f"python -m pipeline: {error}: {_ENVIRONMENT}", file=sys.stderr)
    sys.exit(_ended_with[0])


if __name__ == "__main__":
    start()
