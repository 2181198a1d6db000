"""Kaggle tokens: which there are here, so that none gets into a notebook, a dataset, a log or a message."""

import json
import os
import re
from pathlib import Path

_VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_KEY")
_LEAST_LETTERS = 8
"""A shorter value is no token, and masking it would make messages unreadable."""
_TOKEN_LIKE = re.compile(r"KGAT_[A-Za-z0-9]{8,}")
HIDDEN = "[token]"


def known_tokens() -> frozenset[str]:
    """Return the tokens of the environment and of the files in which the kaggle client looks for them."""
    found = {os.environ.get(name, "") for name in _VARIABLES}
    folders = {Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle"), Path("~/.kaggle"), Path("~/.config/kaggle")}
    for folder in {folder.expanduser() for folder in folders}:
        for name in ("access_token", "access_token.txt", "kaggle.json"):
            text = _read(folder / name)
            found.add(text.strip())
            found |= set(_values(text))
    return frozenset(token for token in found if len(token) >= _LEAST_LETTERS)


def mask(text: str) -> str:
    """Return `text` with everything that is a token, or looks like one, replaced."""
    for token in sorted(known_tokens(), key=len, reverse=True):
        text = text.replace(token, HIDDEN)
    return _TOKEN_LIKE.sub(HIDDEN, text)


def refuse_tokens(content: bytes, name: str) -> None:
    """Raise ValueError, which names the file and not the token, when `content` holds a token."""
    if any(token.encode() in content for token in known_tokens()):
        raise ValueError(f"{name} holds your Kaggle token; take it out, nothing is written or sent with it")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""  # what cannot be read here cannot get into anything either


def _values(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except ValueError:
        return []
    return (
        [value for name, value in content.items() if isinstance(value, str) and name != "username"]
        if isinstance(content, dict)
        else []
    )
