"""Finds what a Kaggle machine offers: the competition's data, weights, GPUs, and the kind of run. No torch, no CUDA."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

TEST_FILE = "arc-agi_test_challenges.json"
EXPECTED_GPUS = {"NvidiaTeslaT4": 2, "NvidiaL4": 4, "none": 0}
"""By Kaggle's name of the machine shape."""
DEEPEST = 5
"""Levels below `input` that are searched."""


def is_hidden_run(environment: Mapping[str, str]) -> bool:
    """Return whether Kaggle reruns the notebook on the hidden tasks."""
    return environment.get("KAGGLE_IS_COMPETITION_RERUN", "").strip().lower() not in ("", "0", "false")


def find_data(inputs: Path, competition: str, given: str = "") -> Path:
    """Return the folder with the competition's tasks: `given`, else that of either Kaggle layout, else any with the test file.

    Raises FileNotFoundError of one line that says which folders were searched and which are there.
    """
    named = [Path(given)] if given else [inputs / "competitions" / competition, inputs / competition]
    for folder in named:
        if (folder / TEST_FILE).is_file():
            return folder
    found = [] if given else sorted(_find(inputs, TEST_FILE), key=lambda path: (competition not in path.parts, len(path.parts)))
    if found:
        return found[0].parent
    there = sorted(path.name for path in inputs.iterdir()) if inputs.is_dir() else []
    looked = " or ".join(map(str, named))
    raise FileNotFoundError(
        f"no {TEST_FILE} in {looked}, nor anywhere under {inputs}, where there is {', '.join(there) or 'nothing'}: "
        f"add the competition {competition} to the notebook's inputs"
    )


def find_weights(inputs: Path, dataset: str, code: Path) -> Path | None:
    """Return the weights file of the dataset OWNER/NAME or, where none is named, the one beside the code; None without one."""
    if not dataset:
        beside = code / "weights" / "weights.safetensors"
        return beside if beside.is_file() else None
    owner, name = dataset.split("/")
    for folder in (inputs / "datasets" / owner / name, inputs / name):
        found = sorted(_find(folder, "*.safetensors"), key=lambda path: (path.name != "weights.safetensors", len(path.parts)))
        if found:
            return found[0]
    return None


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


def _find(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files of a name below `folder`, not deeper than `DEEPEST`."""
    for depth in range(DEEPEST):
        for path in sorted(folder.glob("*/" * depth + pattern)):
            if os.access(path, os.R_OK) and path.is_file():
                yield path
