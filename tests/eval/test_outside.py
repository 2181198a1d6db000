"""Files from outside are read within bounds, and what is shown of them stays one short line."""

import json
import os
from pathlib import Path

import numpy as np
import orjson
import pytest

import eval.files
from eval.files import MOST_JSON_BYTES, read_file, require_file, require_modest
from eval.formatting import show_name, show_path, show_value


def refusal(path: Path, most: int = 1000) -> str:
    with pytest.raises(ValueError) as caught:
        read_file(path, most)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_a_file_is_read_whole_and_one_byte_more_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    assert read_file(path, 1000) == bytes(1000)
    assert require_file(path) == 1000
    assert "too large: 1,000 bytes" in refusal(path, 999)


def test_a_file_of_ten_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    assert "too large" in refusal(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    assert "no regular file" in refusal(tmp_path / "pipe")
    assert "no regular file" in refusal(tmp_path / "endless")
    assert "cannot be read" in refusal(tmp_path / "loop")
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["none", "none/deeper", "nul\0l"])
def test_a_missing_file_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match="no such file") as caught:
            read_file(folder / name)
        assert str(caught.value).isprintable()


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    assert read_file(tmp_path / "link") == b"content"


def test_json_that_unpacks_to_far_more_is_refused_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval.files, "MOST_JSON_BYTES", MOST_JSON_BYTES >> 6)
    for bomb in (b"[],", b"{},", b'{"a":0},', b'"",', b"0.5,"):
        with pytest.raises(ValueError, match=r"^x: too large: .* GB of memory"):
            require_modest(b"[" + bomb * 700_000 + b"0]", "x")


def test_tasks_of_thirty_megabytes_are_not_too_large() -> None:
    row = json.dumps(np.arange(30).tolist()).encode()
    require_modest(b"[" + b",".join([row] * 300_000) + b"]", "x")


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '["x", "y"]', "0.5", "[[1, 2], [3, 4]]"])
def test_documents_take_no_more_memory_than_is_reckoned(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `require_modest` reckons is not far below what Python takes."""
    import tracemalloc  # noqa: PLC0415

    data = ("[" + ",".join([text] * 50_000) + "]").encode()
    tracemalloc.start()
    document = json.loads(data)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert orjson.loads(data) == document
    monkeypatch.setattr(eval.files, "MOST_JSON_BYTES", taken // 3)
    with pytest.raises(ValueError, match="too large"):
        require_modest(data, "x")
    assert MOST_JSON_BYTES == 1 << 30


def test_shown_values_are_one_short_line_however_large_and_deep() -> None:
    deep: object = []
    for _ in range(5000):
        deep = [deep]
    values = [
        deep,
        {"a" * 1000: deep},
        "x\n" * 1000,
        10**5000,
        list(range(10_000)),
        None,
        1.5,
        b"\n" * 1000,
        ("a", ["b", deep]),
    ]
    for value in values:
        assert len(show_value(value)) < 300
        assert show_value(value).isprintable()
    assert show_value("a b") == "'a b'"
    assert show_value(-3) == "-3"


def test_names_and_paths_are_printable() -> None:
    assert show_name("task_1") == "task_1"
    assert show_name("a\nb") == "'a\\nb'"
    assert len(show_name("é\n" * 1000)) <= 60
    assert show_path("/a b/c") == "/a b/c"
    assert show_path("a\x1b[2J\ud800").isprintable()
