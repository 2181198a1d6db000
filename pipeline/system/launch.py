"""Starts several processes on a machine without GPUs.

`accelerate launch` starts the processes of GPUs itself. With `--cpu --num_processes N` it starts one, whatever N is, unless
MPI is set up (huggingface/accelerate issue 2741). For this command and for `--processes N` the program therefore replaces
itself by torch's launcher, `python -m pipeline.system.launch`, and divides the threads of the machine. The launcher exits with
the code of the first process that failed, or names the signal that killed one.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from augment.errors import InputError
from eval.formatting import plural
from pipeline.system.folder_lock import FolderLock
from pipeline.system.processors import find_gpus, stays_on_cpu, threads_each

logger = logging.getLogger(__name__)

STARTED = "ARC_PIPELINE_STARTED"
"""Environment variable of processes that our launcher started: the monotonic time from which a time limit counts."""
TRACEBACKS = "ARC_PIPELINE_TRACEBACKS"
"""Environment variable: where it is set, what is refused has a traceback before its line, as in a notebook's log."""
TOGETHER_SECONDS = 10
"""Processes that wait for a killed one may fail this long before it is found; what fails later was ended by the launcher."""
_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""


def start_processes(count: int | None, arguments: Sequence[str], started: float, lock: FolderLock | None = None) -> None:
    """Replace this process by a launcher of `count` processes; return where one is enough, or where this is one of them.

    `count` is the value of `--processes`, None where it was not given; `arguments` are those of the command line. The launcher
    keeps `lock`, and also the alarm of a time limit.
    """
    if "LOCAL_RANK" in os.environ:
        _end_with_launcher()
        return
    count = _processes_of_accelerate() if count is None else count
    if count < 1:
        raise InputError(f"processes must be at least 1, got {count}")
    if count == 1:
        return
    if not stays_on_cpu(os.environ) and (gpus := find_gpus(os.environ)):
        logger.warning("--processes computes on the CPU; `accelerate launch` takes the %s here", plural(len(gpus), "GPU"))
    environment = {STARTED: repr(started), "OMP_NUM_THREADS": str(threads_each(count)), "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "pipeline.system.launch", "--standalone", "--nproc_per_node", str(count)]
    if lock:
        lock.share_with_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *launcher, "-m", "pipeline", *arguments], os.environ | environment)


def program_environment() -> dict[str, str]:
    """Return the environment in which `python -m pipeline` is this program, whatever the working directory is."""
    project, others = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(part for part in (project, others) if part)}


def launch(arguments: Sequence[str]) -> int:
    """Run `torch.distributed.run`; return the exit code of the first process that failed. Processes print their own errors."""
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415  (slow to import)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.run import main  # noqa: PLC0415

    try:
        # The name of a machine without a network may not be resolved, and logs leave an empty folder among temporary files.
        main(["--local-addr", "127.0.0.1", "--log-dir", os.devnull, *arguments])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        together = [each for each in error.failures.values() if each.timestamp < first.timestamp + TOGETHER_SECONDS]
        killed = [each.exitcode for each in together if each.exitcode < 0 and each.exitcode != -signal.SIGTERM]
        code = killed[0] if killed else first.exitcode
        if code < 0:
            print(f"a process was killed by {signal.Signals(-code).name}", file=sys.stderr)
        return max(code, 1)
    except SignalException:
        return 1
    return 0


def _end_with_launcher() -> None:
    """End this process as by SIGTERM when its launcher is killed, which has put it into a session of its own."""
    launcher = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:  # it was killed before
        os.kill(os.getpid(), signal.SIGTERM)


def _processes_of_accelerate() -> int:
    """Return N where the parent is `accelerate launch --cpu --num_processes N` and no launcher has set a rank, else 1."""
    if not stays_on_cpu(os.environ) or "MASTER_PORT" not in os.environ:
        return 1
    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--num_processes", "--num-processes", "-n"):
            text = value if equals else words[position + 1]
            return int(text) if text.isdigit() else 1
    logger.warning("MASTER_PORT is set, as for several processes, but this is one: --processes N starts N on CPUs")
    return 1


if __name__ == "__main__":
    code = launch(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # unloading torch takes seconds on a busy machine
