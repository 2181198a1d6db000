"""Several processes on one machine without GPUs, and what a process is among them.

`accelerate launch` starts the processes of GPUs itself. With `--cpu --num_processes N` it starts one, whatever N is, unless
MPI is set up (huggingface/accelerate issue 2741). So that this command and `--processes N` do what they say, the program starts
itself again through torch's launcher, with the threads of the machine shared out. `python -m pipeline.system.launch` is that
one; it ends with its processes, with the exit code of the first that failed.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil

from pipeline.system.time_limit import Deadline, Watchdog

if TYPE_CHECKING:
    from pipeline.system.folder_lock import Occupation


STARTED = "ARC_PIPELINE_STARTED"
"""Environment variable with the monotonic time at which the first process began, from which a time limit counts."""

DEADLINE = "ARC_PIPELINE_DEADLINE"
"""Environment variable with the three monotonic times of the deadline; empty for none."""


def start_processes(
    asked: int | None,
    arguments: Sequence[str],
    started: float,
    deadline: Deadline | None = None,
    occupation: "Occupation | None" = None,
) -> None:
    """Replace this process by a launcher of as many as are asked for; return where it is one of them, or one is enough.

    `asked` is the value of `--processes`, None where it was not given; `arguments` are those of the command line. The launcher
    has the same `deadline`, and `occupation` goes on in it.
    """
    count = asked if asked is not None else _asked_of_accelerate()
    if count < 1:
        raise ValueError(f"processes must be at least 1, got {count}")
    if count == 1 or "LOCAL_RANK" in os.environ:
        return
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = os.environ | {
        STARTED: repr(started),
        DEADLINE: f"{deadline.earliest!r} {deadline.latest!r} {deadline.limit!r}" if deadline else "",
        "OMP_NUM_THREADS": str(threads),
        "ACCELERATE_USE_CPU": "true",
    }
    launcher = ["-m", "pipeline.system.launch", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *launcher, "-m", "pipeline", *arguments]
    if occupation:
        occupation.share_with_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)


def first_start(own: float) -> float:
    """Return the monotonic time at which the first process of this program began: `own` unless another one started this."""
    return float(os.environ.get(STARTED, own))


def is_first_process() -> bool:
    """Return whether this is the process that began the program, and none of those that a launcher of ours started."""
    return STARTED not in os.environ and int(os.environ.get("RANK", "0")) == 0


def is_launched() -> bool:
    """Return whether this process is one of those that a launcher of ours started."""
    return STARTED in os.environ


def launch(arguments: Sequence[str]) -> int:
    """Start processes as `torch.distributed.run` with these arguments, and wait; return the exit code of the first that failed.

    Processes have told what was wrong; what the launcher thinks of it is not repeated here.
    """
    moments = [float(text) for text in os.environ.get(DEADLINE, "").split()]
    if moments:
        Watchdog(Deadline(*moments)).start()  # over the import of torch and the end of this process, too
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415  (slow to import)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.run import main  # noqa: PLC0415

    try:
        main(list(arguments))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code < 0:
            print(f"a process was killed by {signal.Signals(-code).name}", file=sys.stderr)
        return max(code, 1)
    except SignalException:
        return 1
    return 0


def _asked_of_accelerate() -> int:
    """Return N where the parent is `accelerate launch --cpu --num_processes N` and no launcher has set a rank, else 1."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true") or "MASTER_PORT" not in os.environ:
        return 1
    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--num_processes", "--num-processes", "-n"):
            text = value if equals else words[position + 1]
            return int(text) if text.isdigit() else 1
    return 1


if __name__ == "__main__":
    code = launch(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking torch apart takes seconds on a busy machine
