"""What the processes of a launch take for the weights of the main one: each machine may have them at another path."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs import shared_weights
from pipeline.jobs.shared_weights import weights_of_main
from pipeline.weights.files import Weights, load_weights
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinyrun import write_weights


def shared(mine: Weights | None, of_main: Weights | None, monkeypatch: pytest.MonkeyPatch) -> Weights | None:
    """Return what a process takes that has found `mine`."""
    said: list[Any] = []
    monkeypatch.setattr(shared_weights, "from_main", lambda _, value: said.append(value) or value)
    weights_of_main(None, of_main)  # type: ignore[arg-type]
    monkeypatch.setattr(shared_weights, "from_main", lambda *_: said[0])
    return weights_of_main(None, mine)  # type: ignore[arg-type]


def test_a_process_takes_its_own_copy_where_that_is_of_the_same_training_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "main", tiny_dataset(), tiny_config())
    shutil.copytree(tmp_path / "main", tmp_path / "mine")
    of_main, mine = load_weights(tmp_path / "main"), load_weights(tmp_path / "mine")
    write_weights(tmp_path / "others", tiny_dataset(seed=5), tiny_config())
    others = load_weights(tmp_path / "others")
    taken = shared(others, of_main, monkeypatch)
    assert taken is not None and taken.path == of_main.path
    assert shared(None, None, monkeypatch) is None
    shutil.rmtree(tmp_path / "main")
    assert shared(mine, of_main, monkeypatch) is mine
    with pytest.raises(FileNotFoundError):
        shared(others, of_main, monkeypatch)
    write_weights(tmp_path / "main", tiny_dataset(seed=6), tiny_config())
    with pytest.raises(ValueError, match=r"main/weights\.safetensors: step 1, trained on \w+ here, and step 1, trained on"):
        shared(others, of_main, monkeypatch)
