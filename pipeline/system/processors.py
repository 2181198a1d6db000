"""The cores and GPUs of this machine, found without torch: for programs that only start others."""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""Before nvidia-smi is asked again, which may fail while a driver starts."""
LISTING_SECONDS = 60.0
"""For nvidia-smi to answer."""
NEEDS_GPU = "ARC_PIPELINE_NEEDS_GPU"
"""Environment variable of a run that is to fail where no GPU can be used, so that what started it learns of it."""


def usable_cores() -> int:
    """Return the number of cores that this process may use: those of its affinity, within the quota of its container."""
    from joblib import cpu_count  # noqa: PLC0415  (takes a quarter of a second)

    return int(cpu_count())


def threads_each(count: int) -> int:
    """Return the threads of each of `count` processes that share these cores, at most what OMP_NUM_THREADS says."""
    threads, given = max(1, usable_cores() // count), os.environ.get("OMP_NUM_THREADS", "")
    return min(threads, max(1, int(given))) if given.isdecimal() else threads


def stays_on_cpu(environment: Mapping[str, str]) -> bool:
    """Return whether Accelerate is told to compute on the CPU."""
    return environment.get("ACCELERATE_USE_CPU", "").lower() in ("y", "yes", "t", "true", "on", "1")


def hides_gpus(environment: Mapping[str, str]) -> bool:
    """Return whether programs are shown none of the GPUs."""
    return environment.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")


def visible_gpu(environment: Mapping[str, str], place: int) -> str:
    """Return the CUDA_VISIBLE_DEVICES of a program that is to see only the GPU at `place` of those that are visible."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[place] if named else str(place)


def find_gpus(environment: Mapping[str, str], tries: int = 1) -> tuple[str, ...]:
    """Return the names of the GPUs that programs will see, by nvidia-smi; none without it, or where it fails `tries` times."""
    if hides_gpus(environment):
        return ()
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/opt/bin:/usr/local/nvidia/bin:/usr/bin")
    if tool is None:
        return ()
    names: list[str] = []
    for left in reversed(range(tries)):
        try:
            listed, code = _list_gpus(tool)
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = str(error)
        else:
            names = [line.split("(UUID")[0].strip() for line in listed.splitlines() if line.startswith("GPU ")]
            failure = "" if names else listed.strip() or f"exit code {code}"
        if not failure:
            break
        if left:
            logger.warning("%s found no GPU and is asked again: %s", tool, failure)
            time.sleep(PAUSE_SECONDS)
    return _visible(names, environment)


def _visible(gpus: list[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return as many of `gpus` as programs are shown."""
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    return tuple(gpus if shown is None else gpus[: len(shown.split(","))])


def _list_gpus(tool: str) -> tuple[str, int]:
    """Return what nvidia-smi prints and its exit code. One that a driver holds up cannot be killed, and is left behind."""
    process = subprocess.Popen(
        [tool, "-L"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        return process.communicate(timeout=LISTING_SECONDS)[0], process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def gpu_device_files(environment: Mapping[str, str], folder: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the device files of the GPUs that programs will see, which are there also while nvidia-smi fails."""
    return () if hides_gpus(environment) else _visible(sorted(map(str, folder.glob("nvidia[0-9]*"))), environment)
