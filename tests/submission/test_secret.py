"""Every token that the kaggle client would use is found, and nothing else is masked."""

import json
import pwd
from pathlib import Path

import pytest

from submission.secret import _CHUNK_BYTES, known_tokens, mask, refuse_tokens

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_without_a_home_folder_no_token_is_known(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid")))
    assert known_tokens() == frozenset()


def test_without_variables_and_files_no_token_is_known():
    assert known_tokens() == frozenset()
    assert mask("push arc-trm") == "push arc-trm"


@pytest.mark.parametrize("name", ["KAGGLE_API_TOKEN", "KAGGLE_KEY"])
@pytest.mark.parametrize("value", [TOKEN, f"{TOKEN}\n"])
def test_a_token_of_the_environment_is_known_without_the_line_end(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert mask(f"key={TOKEN}") == "key=[token]"


def test_a_token_in_a_file_that_the_environment_names_is_known(home, monkeypatch):
    put(home / "secret", TOKEN)
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(home / "secret"))
    assert TOKEN in known_tokens()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".kaggle/access_token", f"{TOKEN}\n"),
        (".kaggle/access_token.txt", TOKEN),
        (".kaggle/kaggle.json", {"username": "alice", "key": TOKEN}),
        (".kaggle/credentials.json", {"username": "alice", "refresh_token": TOKEN, "access_token": OTHER, "scopes": []}),
        (".config/kaggle/kaggle.json", {"username": "alice", "key": TOKEN}),
        ("set/kaggle.json", {"username": "alice", "key": TOKEN}),
        ("xdg/kaggle/kaggle.json", {"username": "alice", "key": TOKEN}),
    ],
)
def test_the_tokens_of_all_files_of_the_client_are_known(home, monkeypatch, file, content):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "set"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    put(home / file, content)
    assert TOKEN in known_tokens()
    assert TOKEN not in mask(f"before {TOKEN} after")


def test_what_else_the_client_keeps_beside_the_key_is_no_token(home):
    settings = {"username": "alice-the-second", "key": TOKEN, "competition": "arc-prize-2026-arc-agi-2", "path": "/data/kaggle"}
    put(home / ".kaggle/kaggle.json", settings)
    text = "alice-the-second, arc-prize-2026-arc-agi-2, /data/kaggle"
    assert mask(text) == text
    put(home / "kernel-metadata.json", text)
    refuse_tokens(home / "kernel-metadata.json", "kernel-metadata.json")


@pytest.mark.parametrize("token", [TOKEN, "KGAT_0123456789abcdef"])  # one that is known, and one that looks like a token
@pytest.mark.parametrize("start", [5, _CHUNK_BYTES - 12])
def test_a_file_of_any_size_with_a_token_is_refused_by_name(
    start: int, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", TOKEN)
    path = tmp_path / "weights"
    path.write_bytes(bytes(_CHUNK_BYTES + 1000))
    refuse_tokens(path, "code/weights")
    with path.open("r+b") as file:
        file.seek(start)
        file.write(token.encode())
    with pytest.raises(ValueError, match=r"^code/weights holds a Kaggle token") as caught:
        refuse_tokens(path, "code/weights")
    assert token not in str(caught.value)
    assert "\n" not in str(caught.value)
