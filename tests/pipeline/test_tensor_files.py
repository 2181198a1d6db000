"""Files of tensors: all or nothing, and every damage is detected."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.files import write_json
from pipeline import tensor_files as tensorfiles
from pipeline.tensor_files import Damaged, read_checksum, read_tensors, write_tensors

TENSORS = {
    "numbers": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "one": torch.tensor(7),
    "none": torch.from_numpy(np.zeros((0, 2), np.uint8)),
}


def test_tensors_and_metadata_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    write_tensors(path, TENSORS, {"said": "this"})
    found, metadata = read_tensors(path)
    assert metadata == {"said": "this"}
    for tensors in (found, load_file(path)):  # other programs read them too
        assert tensors.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor)


def test_a_file_that_the_system_does_not_open_is_there_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    write_tensors(path, TENSORS, {})
    limits, lowest = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            read_tensors(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE


def test_no_changed_byte_of_a_file_changes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    write_tensors(path, TENSORS, {"said": "this"})
    whole, unnoticed = path.read_bytes(), []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            found, metadata = read_tensors(path)
        except Damaged as error:
            assert str(error).startswith(f"{path}: damaged")
            assert "\n" not in str(error)
            continue
        unnoticed.append(place)  # the name of the checksum: as if there were none
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
        assert metadata["said"] == "this"
    name = whole.index(b"checksum")
    assert set(unnoticed) <= set(range(name, name + len(b"checksum")))


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 3500])
def test_a_large_tensor_is_checked_to_its_end_and_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(tensorfiles, "_CHUNK_BYTES", 1000)
    path, large = tmp_path / "large.safetensors", (torch.arange(size) // 1000).to(torch.uint8)
    write_tensors(path, {"large": large})
    assert torch.equal(read_tensors(path)[0]["large"], large)
    content = path.read_bytes()
    header, values = content[:-size], content[-size:]
    damaged = [header + values[:-1] + bytes([values[-1] ^ 1])]
    if size > 2000:
        damaged.append(header + values[1000:2000] + values[:1000] + values[2000:])  # parts that change places
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(Damaged, match="checksum"):
            read_tensors(path)


def test_a_file_without_a_checksum_is_read_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"said": "this"})
    assert read_checksum(path) is None
    tensors, metadata = read_tensors(path)
    assert (tensors["a"].tolist(), metadata) == ([1.0, 1.0], {"said": "this"})


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_a_file_of_tensors_is_who_may_read_any_other(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode == 0o100666 & ~mask


def test_the_checksum_depends_on_the_content_only(tmp_path: Path) -> None:
    checksums = []
    for number, tensors in enumerate((TENSORS, dict(reversed(TENSORS.items())), TENSORS | {"one": torch.tensor(8)})):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, tensors)
        checksums.append(read_checksum(path))
    assert checksums[0] == checksums[1] != checksums[2]


def test_a_missing_file_is_missing_not_damaged(tmp_path: Path) -> None:
    for read in (read_tensors, read_checksum):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"\[Errno {errno.EFBIG}\] .+: '{path}'"):
            write_tensors(path, {"a": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_tensors(path)[0]["a"].tolist() == [1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]
