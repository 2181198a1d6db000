"""Several processes on one machine without GPUs.

`accelerate launch` starts the processes of GPUs itself. With `--cpu --num_processes N` it starts one, whatever N is, unless
MPI is set up (huggingface/accelerate issue 2741). So that this command and `--processes N` do what they say, the program starts
itself again through torch's launcher, with the threads of the machine shared out.
"""

import os
import sys
from collections.abc import Sequence

import psutil

STARTED = "ARC_PIPELINE_STARTED"
"""Environment variable with the monotonic time at which the first process began, from which a time limit counts."""


def start_processes(asked: int | None, arguments: Sequence[str], started: float) -> None:
    """Replace this process by a launcher of as many as are asked for; return where it is one of them, or one is enough.

    `asked` is the value of `--processes`, None where it was not given; `arguments` are those of the command line.
    """
    count = asked if asked is not None else _asked_of_accelerate()
    if count < 1:
        raise ValueError(f"processes must be at least 1, got {count}")
    if count == 1 or "LOCAL_RANK" in os.environ:
        return
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = os.environ | {STARTED: repr(started), "OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *launcher, "-m", "pipeline", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)


def first_start(own: float) -> float:
    """Return the monotonic time at which the first process of this program began: `own` unless another one started this."""
    return float(os.environ.get(STARTED, own))


def is_first_process() -> bool:
    """Return whether this is the process that began the program, and none of those that a launcher of ours started."""
    return STARTED not in os.environ and int(os.environ.get("RANK", "0")) == 0


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
