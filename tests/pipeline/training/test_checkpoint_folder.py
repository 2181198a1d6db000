"""Folders of checkpoints: complete or not there, the last ones kept, and what is missing or replaced is noticed."""

from pathlib import Path

import orjson
import pytest
import torch

from pipeline.system.time_limit import NO_LIMIT
from pipeline.tensor_files import Damaged, write_tensors
from pipeline.training import checkpoint as checkpoint_folder
from pipeline.training.checkpoint import begin_checkpoint, finish_checkpoint, read_state, set_aside, write_state
from pipeline.training.state import checkpoint_bytes
from pipeline.weights.find import CHECKPOINTS, checkpoints, newest_checkpoint
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.trainers import last_checkpoint, make_trainer


def make_checkpoint(folder: Path, step: int, kept: int = 9) -> Path:
    temporary = begin_checkpoint(folder, step)
    (temporary / "weights.safetensors").write_text(str(step))
    return finish_checkpoint(temporary, kept)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_checkpoints_of_most_steps_are_kept_and_the_newest_is_the_last_of_them(tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINTS
    assert newest_checkpoint(tmp_path) is None
    for step in (99_999_999, 123_456_789, 5):
        make_checkpoint(folder, step)
    assert newest_checkpoint(tmp_path) == folder / "step-123456789"
    make_checkpoint(folder, 6, kept=3)
    assert names(folder) == ["step-00000006", "step-123456789", "step-99999999"]
    make_checkpoint(folder, 200_000_000, kept=1)
    assert names(folder) == ["step-200000000"]


def test_an_unfinished_checkpoint_is_hidden_and_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINTS
    begin_checkpoint(folder, 2)
    assert newest_checkpoint(tmp_path) is None
    make_checkpoint(folder, 4)
    assert names(folder) == ["step-00000004"]  # what another save left unfinished is gone
    unfinished = begin_checkpoint(folder, 8)
    (unfinished / "weights.safetensors").write_text("half")
    assert newest_checkpoint(tmp_path) == folder / "step-00000004"
    again = begin_checkpoint(folder, 8)
    assert names(again) == []
    assert finish_checkpoint(again, kept=1) == folder / "step-00000008"
    assert names(folder) == ["step-00000008"]


def test_a_checkpoint_of_the_same_step_replaces_the_first(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 4)
    (tmp_path / "step-00000004" / "left").write_text("over")
    make_checkpoint(tmp_path, 4)
    assert names(tmp_path / "step-00000004") == ["weights.safetensors"]


def write_files(folder: Path) -> None:
    for number, name in enumerate(("weights.safetensors", "carry-0.safetensors")):
        write_tensors(folder / name, {"a": torch.full((2,), number)})
    write_state(folder, {"progress": {"step": 7}, "scaler": {}})


def test_every_changed_value_of_a_state_is_damage(tmp_path: Path) -> None:
    write_files(tmp_path)
    path = tmp_path / "training.json"
    whole = path.read_bytes()
    name = whole.index(b'"checksum"')
    for place, byte in enumerate(whole):
        if chr(byte).isalnum() and not name < place < name + len(b"checksum") + 1:
            path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
            with pytest.raises(Damaged, match=f"^{tmp_path}: damaged"):
                read_state(tmp_path)


@pytest.mark.parametrize("files", [3, ["weights.safetensors"], {"../../other.safetensors": None}, {"/etc/passwd": "0"}])
def test_a_state_does_not_name_files_elsewhere(files: object, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_bytes(orjson.dumps({"files": files}))  # without a checksum, as early versions wrote it
    with pytest.raises(Damaged, match="does not name the files of a checkpoint"):
        read_state(tmp_path)


def test_a_replaced_file_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    write_files(tmp_path)
    write_tensors(tmp_path / "carry-0.safetensors", {"a": torch.full((2,), 5)})
    with pytest.raises(Damaged, match=f"^{tmp_path}/carry-0.safetensors: damaged, it is not the file that was written"):
        read_state(tmp_path)


def test_a_checkpoint_that_is_set_aside_is_none_any_more(tmp_path: Path) -> None:
    for _ in range(2):  # the second time, one of this name is there already
        folder = make_checkpoint(tmp_path, 4)
        assert set_aside(folder, "damaged-step-00000004") == tmp_path / "damaged-step-00000004"
        assert checkpoints(tmp_path) == []
        assert names(tmp_path) == ["damaged-step-00000004"]


def test_a_checkpoint_whose_removal_was_cut_short_is_none_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path, 1)
    with monkeypatch.context() as killed:
        killed.setattr(checkpoint_folder.shutil, "rmtree", lambda path, ignore_errors: None)
        make_checkpoint(tmp_path, 2, kept=1)
    assert checkpoints(tmp_path) == [tmp_path / "step-00000002"]
    make_checkpoint(tmp_path, 3, kept=2)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]  # and what was left of it is gone


@pytest.mark.parametrize("settings", [(), ("memory.kind=table", "optimizer.kind=muon")])
def test_a_checkpoint_is_as_large_as_was_estimated(tmp_path: Path, settings: tuple[str, ...]) -> None:
    config = tiny_config("model.hidden_size=64", "train.steps=2", *settings)
    trainer = make_trainer(config, tmp_path, tiny_dataset(tasks=6, augmentations=1000))
    trainer.fit(NO_LIMIT)
    written = sum(file.stat().st_size for file in last_checkpoint(tmp_path).iterdir())
    assert written == pytest.approx(checkpoint_bytes(trainer.state.network), rel=0.15)
