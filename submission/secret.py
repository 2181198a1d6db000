"""Kaggle tokens: which there are here, so that none gets into a notebook, a dataset, a log or a message."""

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HIDDEN = "[token]"

_SECRET_NAMES = ("key", "token", "access_token", "refresh_token")
"""In the JSON files of the client; other values there, such as a user name, are no secrets."""

_LEAST_LETTERS = 8
"""A shorter value is no token, and masking it would make messages unreadable."""

_CHUNK_BYTES = 1 << 24

_LONGEST_TOKEN = 1 << 12

_TOKEN_LIKE = re.compile(r"KGAT_[A-Za-z0-9]{16,}")

_HEADER = re.compile(r"\b(Authorization: *(?:Basic|Bearer)) [A-Za-z0-9+/=._-]+")


def known_tokens() -> frozenset[str]:
    """Return the tokens of the environment and of the files in which the kaggle client looks for them."""
    found = {os.environ.get("KAGGLE_KEY", "").strip(), *_api_token(os.environ.get("KAGGLE_API_TOKEN", ""))}
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "kaggle"
    for folder in {
        Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle"),
        Path("~/.kaggle"),
        Path("~/.config/kaggle"),
        settings,
    }:
        place = folder.expanduser()
        for name in ("access_token", "access_token.txt"):
            found.add(_read(place / name).strip())
        for name in ("kaggle.json", "credentials.json"):
            found |= set(_secrets(_read(place / name)))
    user = os.environ.get("KAGGLE_USERNAME", "")
    tokens = {token for token in found if len(token) >= _LEAST_LETTERS}
    return frozenset(tokens | {base64.b64encode(f"{user}:{token}".encode()).decode() for token in tokens if user})


def mask(text: str) -> str:
    """Return `text` with everything that is a token, or looks like one, replaced."""
    for token in sorted(known_tokens(), key=len, reverse=True):
        text = text.replace(token, HIDDEN)
    return _HEADER.sub(rf"\1 {HIDDEN}", _TOKEN_LIKE.sub(HIDDEN, text))


def refuse_tokens(content: bytes, name: str) -> None:
    """Raise ValueError, which names the file and not the token, when `content` holds a token or what looks like one."""
    if any(token.encode() in content for token in known_tokens()) or _TOKEN_LIKE.search(content.decode("latin-1")):
        raise ValueError(f"{name} holds a Kaggle token; take it out, nothing is written or sent with it")


def refuse_tokens_in(path: Path, name: str) -> None:
    """Do the same for the content of a file of any size, `name` in messages. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK_BYTES):
            refuse_tokens(before + chunk, name)
            before = chunk[-_LONGEST_TOKEN:]


def _api_token(value: str) -> Iterator[str]:
    """Yield what the variable of the client holds: a token, or the path of a file with one."""
    yield value.strip()
    if value and len(value) < 1000 and "\n" not in value:
        yield _read(Path(value)).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except (OSError, ValueError):
        return ""  # what cannot be read here cannot get into anything either


def _secrets(text: str) -> Iterator[str]:
    """Yield the secret values of a JSON text, at any depth."""
    try:
        waiting: list[Any] = [json.loads(text)] if text else []
    except ValueError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield from (item for name, item in value.items() if name in _SECRET_NAMES and isinstance(item, str))
