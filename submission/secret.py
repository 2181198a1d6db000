"""Kaggle tokens: finds those of this machine and keeps them out of notebooks, datasets, logs and messages."""

import base64
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from augment.errors import InputError
from eval.files import expand

HIDDEN = "[token]"
_SECRET_NAMES = ("key", "token", "access_token", "refresh_token")
"""Names of secrets in the JSON files of the client; other values there, such as a user name, are none."""
_CHUNK_BYTES = 1 << 24
_LONGEST_TOKEN = 1 << 12
_TOKEN_LIKE = re.compile(r"KGAT_[A-Za-z0-9]{16,}")
_HEADER = re.compile(r"\b(Authorization: *(?:Basic|Bearer)) [A-Za-z0-9+/=._-]+")


def known_tokens() -> frozenset[str]:
    """Return the tokens of the environment and of the files in which the kaggle client looks for them."""
    found = {os.environ.get("KAGGLE_KEY", "").strip()}
    api_token = os.environ.get("KAGGLE_API_TOKEN", "").strip()  # a token, or the path of a file with one
    found.add(api_token)
    if api_token and len(api_token) < 1000:
        found.add(_read(Path(api_token)).strip())
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    for folder in (os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle", "~/.kaggle", "~/.config/kaggle", f"{config}/kaggle"):
        place = expand(folder)
        for name in ("access_token", "access_token.txt"):
            found.add(_read(place / name).strip())
        for name in ("kaggle.json", "credentials.json"):
            found |= set(_secrets(_read(place / name)))
    user = os.environ.get("KAGGLE_USERNAME", "")
    tokens = {token for token in found if len(token) >= 8}  # masking shorter values would make messages unreadable
    return frozenset(tokens | {base64.b64encode(f"{user}:{token}".encode()).decode() for token in tokens if user})


def mask(text: str) -> str:
    """Return `text` with every token, and what looks like one, replaced."""
    for token in sorted(known_tokens(), key=len, reverse=True):
        text = text.replace(token, HIDDEN)
    return _HEADER.sub(rf"\1 {HIDDEN}", _TOKEN_LIKE.sub(HIDDEN, text))


def refuse_tokens(path: Path, name: str) -> None:
    """Raise InputError, naming `name` and no token, where a file of any size holds a Kaggle token or what looks like one."""
    tokens = [token.encode() for token in known_tokens()]
    with path.open("rb") as file:
        before = b""
        while chunk := file.read(_CHUNK_BYTES):
            content = before + chunk
            if any(token in content for token in tokens) or _TOKEN_LIKE.search(content.decode("latin-1")):
                raise InputError(f"{name} holds a Kaggle token; take it out, nothing is written or sent with it")
            before = chunk[-_LONGEST_TOKEN:]


def _read(path: Path) -> str:
    with suppress(OSError, ValueError):  # what cannot be read here cannot get into anything either
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return ""


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
