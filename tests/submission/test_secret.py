"""Every token that the kaggle client would use is known, and nothing else is taken for one."""

import json
from pathlib import Path

import pytest

from submission.secret import _CHUNK_BYTES, known_tokens, mask, refuse_tokens, refuse_tokens_in

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


def test_without_variables_and_files_no_token_is_known():
    assert known_tokens() == frozenset()
    assert mask("push arc-trm") == "push arc-trm"


@pytest.mark.parametrize("name", ["KAGGLE_API_TOKEN", "KAGGLE_KEY"])
@pytest.mark.parametrize("value", [TOKEN, f"{TOKEN}\n"])
def test_a_token_of_the_environment_is_known_without_the_line_end(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert mask(f"key={TOKEN}") == "key=[token]"


def test_a_variable_that_names_a_file_stands_for_the_token_in_it(home, monkeypatch):
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
    refuse_tokens(text.encode(), "kernel-metadata.json")


def test_what_looks_like_a_token_is_masked_although_it_is_not_known():
    assert mask("Bearer KGAT_0123456789abcdef") == "Bearer [token]"


def test_content_with_a_token_is_refused_by_name_and_the_token_is_not_told(monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", TOKEN)
    refuse_tokens(b"KEY = 'none'", "code/pipeline/run.py")
    with pytest.raises(ValueError, match=r"code/pipeline/run\.py") as caught:
        refuse_tokens(f"KEY = '{TOKEN}'".encode(), "code/pipeline/run.py")
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)


def test_content_with_what_looks_like_a_token_is_refused():
    with pytest.raises(ValueError, match="notebook"):
        refuse_tokens(b'"KGAT_0123456789abcdef"', "notebook")


@pytest.mark.parametrize("start", [0, 5, _CHUNK_BYTES - 12, _CHUNK_BYTES, _CHUNK_BYTES + 100])
def test_a_token_is_found_wherever_it_lies_in_a_large_file(start: int, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(_CHUNK_BYTES + 1000))
    refuse_tokens_in(path, "weights")
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"KGAT_0123456789abcdef")
    with pytest.raises(ValueError, match="weights holds a Kaggle token"):
        refuse_tokens_in(path, "weights")
