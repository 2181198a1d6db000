"""Files are read within bounds and replaced in one step: a reader finds the old content or the whole of the new."""

import errno
import json
import os
import stat
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eval.files
from eval.files import (
    MOST_JSON_BYTES,
    parse_json,
    read_file,
    remove_unfinished,
    replace_file,
    replacing,
    require_file,
    require_modest,
    sync,
    write_result,
)
from tests.pipeline.tiny import refusal

LEAVES = st.none() | st.booleans() | st.integers(-5, 20) | st.text(max_size=4)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_a_full_disk_names_it_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    for value in (0, 1):
        write_result(path, {"a": value})
        assert (json.loads(path.read_text()), names(tmp_path)) == ({"a": value}, ["a.json"])

    def full(number: int) -> None:
        assert os.fstat(number).st_size > 0  # everything was handed to the disk before
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write does, without a name

    monkeypatch.setattr(eval.files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'") as caught:
        write_result(path, {"a": 2})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert (json.loads(path.read_text()), names(tmp_path)) == ({"a": 1}, ["a.json"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError("without a number")])
def test_other_errors_pass_unchanged(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("none/a.json", "No such file"), ("file/a.json", "Not a directory"), ("x" * 300, "File name too long")],
)
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=message) as caught:
        replace_file(tmp_path / name, b"")
    assert caught.value.filename == str(tmp_path / name)


@pytest.mark.parametrize(("number", "is_failure"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_failure: bool
) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "no such operation")
        real(descriptor)

    monkeypatch.setattr(eval.files.os, "fsync", only_files)
    with pytest.raises(OSError) if is_failure else nullcontext():
        replace_file(tmp_path / "x", b"new")
    with pytest.raises(OSError) if is_failure else nullcontext():  # as after the rename of a checkpoint
        sync(tmp_path)
    assert (tmp_path / "x").read_bytes() == b"new"


def test_temporary_files_of_killed_programs_are_removed_and_nothing_else(tmp_path: Path) -> None:
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


def test_results_are_written_to_pipes_links_and_the_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        write_result(tmp_path / "pipe", [1])
    assert json.loads(read.result()) == [1]
    write_result(tmp_path / "link", [2])
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "file").read_text()) == [2]
    write_result(Path("/dev/stdout"), [3])
    assert json.loads(capfd.readouterr().out) == [3]


def unread(path: Path, most: int = 1000) -> str:
    message = refusal(lambda: read_file(path, most))
    assert message.startswith(str(path))
    return message


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to("x")
    assert read_file(tmp_path / "link", 1000) == bytes(1000)
    assert require_file(path) == 1000
    assert "too large: 1,000 bytes" in unread(path, 999)
    os.truncate(path, 10 << 30)
    assert "too large" in unread(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    assert "no regular file" in unread(tmp_path / "pipe")
    assert "no regular file" in unread(tmp_path / "endless")
    assert "cannot be read" in unread(tmp_path / "loop")
    assert "is a folder" in unread(tmp_path)


@pytest.mark.parametrize("name", ["none", "none/deeper", "nul\0l", "file/none"])
def test_a_missing_file_is_reported(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="no such file") as caught:
        read_file(tmp_path / name)
    assert str(caught.value).isprintable()


def test_json_that_unpacks_to_far_more_is_refused_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    row = json.dumps(np.arange(30).tolist()).encode()
    require_modest(b"[" + b",".join([row] * 300_000) + b"]", "tasks of 30 MB")
    monkeypatch.setattr(eval.files, "MOST_JSON_BYTES", MOST_JSON_BYTES >> 6)
    for bomb in (b"[],", b"{},", b'{"a":0},', b'"",', b"0.5,"):
        with pytest.raises(ValueError, match=r"^x: too large: .* GB of memory"):
            require_modest(b"[" + bomb * 700_000 + b"0]", "x")


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '["x", "y"]', "0.5", "[[1, 2], [3, 4]]"])
def test_the_estimate_of_memory_is_not_far_below_what_python_takes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ("[" + ",".join([text] * 10_000) + "]").encode()
    tracemalloc.start()
    json.loads(data)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    monkeypatch.setattr(eval.files, "MOST_JSON_BYTES", taken // 3)
    with pytest.raises(ValueError, match="too large"):
        require_modest(data, "x")
    assert MOST_JSON_BYTES == 1 << 30


@settings(max_examples=25)
@given(DOCUMENTS, st.text(max_size=3), DOCUMENTS, st.booleans())
def test_json_is_read_as_python_does_except_for_repeated_keys(document: object, key: str, value: object, escape: bool) -> None:
    text = json.dumps(document, ensure_ascii=escape)
    assert parse_json(text.encode(), "here") == json.loads(text)
    twice = f"{{{json.dumps(key)}: {json.dumps(value)}, {json.dumps(key)}: 1}}"
    for repeated in (twice, f"[{text}, {twice}]", f'{{"a": [{twice}], "b": {text}}}'):
        with pytest.raises(ValueError, match=r"^here: .*appears twice$"):
            parse_json(repeated.encode(), "here")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"t": {"train": [1, {"a": 1, "a": 1}]}}', "here: in t, train, 1: a appears twice"),
        (b'{"a": 1, "a": "b"}', "here: a appears twice"),
        (b'{"a": {"b": "\\"", "c": 1}, "a": 2}', "here: a appears twice"),
        (b'{"\\u0061": 1, "a": 2}', "here: a appears twice"),
        (b'{"a": 1, "a": 1, "b": "' + b"\\n" * 50 + b'"}', "here: a appears twice"),
        (b"", "here: not JSON: "),
        (b"{", "line 1 column 2"),
        (b'{"a": 1}\n{', "line 2 column 1"),
        (b'{"a": "\xff"}', "here: not UTF-8: invalid start byte at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "here: not UTF-8"),
        (b'"\\ud800"', "here: not JSON: "),
        (b"[NaN]", "line 1 column 2"),
        (b"[1e999]", "here: not JSON: "),
        (b"1" * 5000, "here: not JSON: "),
        (b"[" * 100_000, "here: not JSON: "),
        (b"[" * 1_000_000 + b"]" * 1_000_000, "here: not JSON: "),
    ],
)
def test_bad_json_is_explained_on_one_line(data: bytes, complaint: str) -> None:
    assert complaint in refusal(lambda: parse_json(data, "here"))


def test_nesting_within_bounds_is_read() -> None:
    assert isinstance(parse_json(b"[" * 1000 + b"]" * 1000, "here"), list)
    data = b"[" * 990 + b'"a"' + b"]" * 990  # a string in a list starts the search, in which Python 3.11 goes less deep
    try:
        assert isinstance(parse_json(data, "here"), list)
    except ValueError as error:
        assert str(error) == "here: objects and lists are nested too deeply"
