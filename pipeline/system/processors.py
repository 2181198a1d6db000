"""The cores and GPUs of this machine, found without torch: for programs that only start others."""

import os
import shutil
import subprocess
from collections.abc import Mapping


def threads_each(count: int) -> int:
    """Return the threads of each of `count` processes that share this machine."""
    return max(1, (os.cpu_count() or 1) // count)


def find_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the GPUs that programs will see, by nvidia-smi; none without it."""
    if environment.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return ()
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/opt/bin:/usr/local/nvidia/bin:/usr/bin")
    if tool is None:
        return ()
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    names = [line.split("(UUID")[0].strip() for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return tuple(names if visible is None else names[: len(visible.split(","))])
