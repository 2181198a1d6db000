"""JSON from outside, read strictly, and names from outside, shown safely.

Stands under `taskfiles` and `sources`, and under all that reads what a run has left: what leaves is UTF-8, finite, free of
repeated keys, and takes a bounded amount of memory; a message stays one line.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import orjson

from augment.outside import read_file, require_modest, show_name, show_path

__all__ = ["parse_json", "read_json", "read_object", "show_kind", "show_name", "show_path"]

_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}


def parse_json(data: bytes, where: str) -> object:
    """Return the JSON document `data`.

    Raises a ValueError of one line that begins with `where` and gives the position, unless `data` is UTF-8, JSON without
    NaN or Infinity, less than about a thousand levels deep and of bounded size, and no object in it has a key twice.
    """
    require_modest(data, where)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{where}: {_describe_fault(data, error)}") from error
    if data.count(b'"') != 2 * _count_strings(document):
        _reject_repeated_keys(data, where)
    return document


def read_json(path: Path) -> object:
    """Return the JSON document in a file. Raises FileNotFoundError, and ValueError of one line that begins with the path."""
    return parse_json(read_file(path), show_path(path))


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises as `read_json` does, and for a document of another kind."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{show_path(path)}: expected an object, got {show_kind(document)}")
    return document


def show_kind(value: object) -> str:
    """Return what a JSON value is, in words: an object, a list, a string, a number, a boolean or null."""
    return "null" if value is None else _KINDS[type(value)]


def _describe_fault(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return f"not UTF-8: {fault.reason} at byte {fault.start}"
    return f"not JSON: {error}"


def _count_strings(document: object) -> int:
    """Return how many strings `document` holds, of which it may miss some inside lists that begin with something else.

    Every one of them had two quotes in the text. If that makes all the quotes there are, the text had no other string, so
    none that was lost because its key came again. (Quotes inside strings and strings in lists make more quotes, never fewer.)
    """
    count = 0
    pending = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            count += len(node) + sum(isinstance(value, str) for value in node.values())
            pending.extend(node.values())
        elif isinstance(node, list) and node and isinstance(node[0], dict):
            pending.extend(node)
        elif isinstance(node, list) and node and isinstance(node[0], str):
            count += sum(isinstance(value, str) for value in node)
    return count


class _JsonObject(dict[str, object]):
    """A JSON object that remembers a key that it held more than once; `repeated` is None if there is none."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated: str | None = None
        if len(self) < len(pairs):
            self.repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def _reject_repeated_keys(data: bytes, where: str) -> None:
    """Raise ValueError if an object in `data`, which is JSON, has a key twice. Three times slower than reading it."""
    try:
        document = json.loads(data.decode(), object_pairs_hook=_JsonObject)
    except RecursionError as error:
        raise ValueError(f"{where}: objects and lists are nested too deeply") from error
    pending: list[tuple[tuple[str, ...], object]] = [((), document)]
    while pending:
        place, node = pending.pop()
        items: list[tuple[str, object]] = []
        if isinstance(node, _JsonObject):
            if node.repeated is not None:
                _raise_repeated(where, place, node.repeated)
            items = list(node.items())
        elif isinstance(node, list):
            items = [(str(i), value) for i, value in enumerate(node)]
        pending.extend(((*place, show_name(key))[:4], value) for key, value in reversed(items))


def _raise_repeated(where: str, place: tuple[str, ...], key: str) -> NoReturn:
    inside = f"in {', '.join(place)}: " if place else ""
    raise ValueError(f"{where}: {inside}{show_name(key)} appears twice")
