"""Files are replaced in one step: the old one or the whole new one, and nothing beside it."""

import errno
import os
from pathlib import Path

import pytest

from eval import files as replace
from eval.files import remove_unfinished, replace_file, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"old", b"new"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["a.json"]


def test_an_error_of_the_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write does, without a name

    monkeypatch.setattr(replace.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'") as caught:
        replace_file(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["a.json"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError("in words alone")])
def test_every_other_error_stays_what_it_is(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_missing_folder_is_told_by_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none/a\.json'$"):
        replace_file(tmp_path / "none" / "a.json", b"")


@pytest.mark.parametrize("name", ["file/result.json", "x" * 300])
def test_a_place_where_nothing_can_be_is_told_by_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("a file is no folder")
    with pytest.raises(OSError, match=r"Not a directory|File name too long") as caught:
        replace_file(tmp_path / name, b"")
    assert caught.value.filename == str(tmp_path / name)


def test_what_killed_programs_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        unfinished = temporary.name
        Path(f"{temporary}x").touch()
        (tmp_path / f"{unfinished}-copy").write_text("half")
    (tmp_path / unfinished).write_text("half")  # as if it had been killed
    for name in (".lock", "b.tmp", ".c.tmp"):
        (tmp_path / name).touch()
    kept = [name for name in names(tmp_path) if name != unfinished]
    remove_unfinished(tmp_path)
    assert names(tmp_path) == kept
    remove_unfinished(tmp_path / "none")
