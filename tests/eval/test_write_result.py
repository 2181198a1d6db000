"""What `--json FILE` leaves: a file is replaced whole or not at all, anything else is written to."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eval import files as replace
from eval.files import write_result

ROOT = Path(__file__).parents[2]


def test_a_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_result(path, {"a": 1})

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(replace, "sync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_result(path, {"a": 2})
    assert caught.value.filename == str(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_and_a_link_are_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_result(tmp_path / "pipe", [1])
    reader.join()
    write_result(tmp_path / "link", [2])
    assert json.loads(read[0]) == [1]
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "file").read_text()) == [2]


def test_the_standard_output_takes_a_result(tmp_path: Path) -> None:
    program = "from pathlib import Path; from eval.files import write_result; write_result(Path('/dev/stdout'), [3])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [3]
