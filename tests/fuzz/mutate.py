"""Seeded damage to bytes, JSON documents and lines of text; every damaged file can be made again."""

import copy
import json
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
ODD_VALUES = (
    *("null", "true", "false", "1.0", "-0", "-1", "9", "10", "255", "256", "9" * 30, "9" * 5000, "1e400", "1e2", "NaN"),
    *("Infinity", "-Infinity", '""', '"1"', '"\\n\\u2028"', '"\\ud800"', '"\\u0022"', '"' + "x" * 3000 + '"'),
    *("[]", "{}", "[[]]", "[[0]]", "[[1, 2], [3]]", "[[true]]", "[null]", "[" * 200 + "]" * 200, "[" * 50_000),
    *("[" + "0, " * 29 + "0]", "[" + "0, " * 30 + "0]", "[" + "[0], " * 30 + "[0]]", '{"input": [[1]], "output": [[2]]}'),
    *('{"input": [[1]]}', '{"a": 1, "a": 1}', "", " ", "1 1", "'", "\\"),
)
ODD_KEYS = ("", "a", "b", "train", "test", "input", "output", "Input", "a\nb", '"', "\u2028", "x" * 2000, "é")

FURTHER_VALUES = (
    *("9223372036854775807", "9223372036854775808", "18446744073709551615", "-9223372036854775808", "1e308", "-1e308"),
    *("[" * 1000 + "]" * 1000, "[" * 1020 + "]" * 1020, '{"a":' * 1000 + "1" + "}" * 1000, "[1e308, -1e308]", '"<b>&\\""'),
    *('"' + "\\u0000" * 40 + '"', '"../../../../etc/passwd"', '"/etc/passwd"', '"nan"'),
    *("5e-324", '"1_000"', '"١٢"', '["a", "b"]'),
)
"""For documents that are not made of grids."""


class Members(list[list]):
    """A JSON object as [key, value] lists, so that a key may occur twice."""


class Text(str):
    """Text that goes into the file unchanged."""


def to_members(value: object) -> object:
    """Return a JSON document with its objects as `Members`."""
    if isinstance(value, dict):
        return Members([key, to_members(inner)] for key, inner in value.items())
    return [to_members(inner) for inner in value] if isinstance(value, list) else value


def dump(value: object) -> str:
    """Return the text of what `to_members` gave."""
    if isinstance(value, Text):
        return value
    if isinstance(value, Members):
        return "{" + ", ".join(f"{json.dumps(key)}: {dump(inner)}" for key, inner in value) + "}"
    return "[" + ", ".join(map(dump, value)) + "]" if isinstance(value, list) else json.dumps(value)


def pick(rng: Rng, items: list | tuple | bytes) -> object:
    return items[int(rng.integers(len(items)))]


def descend(rng: Rng, value: object) -> list:
    """Return a random list or object in `value`, every depth about equally likely."""
    while True:
        inner = [item[1] for item in value] if isinstance(value, Members) else value
        deeper = [item for item in inner if isinstance(item, list) and item]
        if not deeper or rng.random() < 0.25:
            return value
        value = pick(rng, deeper)


def mutate_once(rng: Rng, root: list, odd_values: tuple[str, ...] = ODD_VALUES) -> None:
    """Replace, delete, duplicate, move or insert one node below `root`."""
    node = descend(rng, root)
    if not node:
        return
    place = int(rng.integers(len(node)))
    action = int(rng.integers(6))
    odd = Text(pick(rng, odd_values))
    if action == 0:
        del node[place]
    elif action == 1:
        node.insert(int(rng.integers(len(node) + 1)), node[place])
    elif isinstance(node, Members):
        if action == 2:
            node[place] = [pick(rng, ODD_KEYS), node[place][1]]
        elif action == 3:
            node.insert(place, [pick(rng, ODD_KEYS), odd])
        else:
            node[place] = [node[place][0], odd if action == 4 else copy.deepcopy(descend(rng, root))]
    elif action == 2:
        node.insert(place, odd)
    elif action == 3:
        node[place] = int(rng.integers(-1, 12))
    else:
        node[place] = odd if action == 4 else copy.deepcopy(descend(rng, root))


def mutate_structure(rng: Rng, document: object, odd_values: tuple[str, ...] = ODD_VALUES) -> bytes:
    """Return `document` with one to three nodes replaced, deleted, duplicated, moved or inserted."""
    root = [to_members(document)]
    for _ in range(int(rng.integers(1, 4))):
        mutate_once(rng, root, odd_values)
    return (dump(root[0]) if root else "").encode()


def mutate_bytes(rng: Rng, data: bytes) -> bytes:
    """Return `data` with one to three bytes or stretches changed, inserted, deleted or repeated, or its end cut off."""
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return data
        start, action = int(rng.integers(len(data))), int(rng.integers(5))
        stop = start + int(rng.integers(1, 12))
        filler = bytes([int(rng.integers(256))]) if rng.random() < 0.5 else bytes([pick(rng, b'0123456789,[]{}":-.e \n')])
        if action == 0:
            data = data[:start] + filler + data[start + 1 :]
        elif action == 1:
            data = data[:start] + filler + data[start:]
        elif action == 2:
            data = data[:start] + data[stop:]
        elif action == 3:
            data = data[:stop] + data[start:]
        elif rng.random() < 0.2:
            data = data[:start]
    return data


def mutate_whole(rng: Rng, data: bytes) -> bytes:
    """Return something other than `data`: empty, in another encoding, deeply nested, huge."""
    count = int(rng.integers(1, 200_000))
    strange: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data + b"\x00",
        lambda: data.decode("latin-1").encode("utf-16"),
        lambda: rng.integers(0, 256, count % 4000, dtype=np.uint8).tobytes(),
        lambda: b"[" * count,
        lambda: b'{"a":' * count,
        lambda: b"[" + b"[]," * count + b"[]]",
        lambda: b'"' + b"x" * (10 * count) + b'"',
        lambda: str(pick(rng, FURTHER_VALUES)).encode(),
        lambda: data * (2 + count % 3),
        lambda: data[: count % (len(data) + 1)],
    )
    return strange[int(rng.integers(len(strange)))]()


def mutate_json(rng: Rng, data: bytes) -> bytes:
    """Return a JSON file with damaged nodes or bytes, or damaged entirely."""
    chance = rng.random()
    if chance < 0.05:
        return mutate_whole(rng, data)
    if chance < 0.25:
        return mutate_bytes(rng, data)
    return mutate_structure(rng, json.loads(data), FURTHER_VALUES if chance < 0.6 else ODD_VALUES)


def mutate_lines(rng: Rng, data: bytes, odd_lines: tuple[bytes, ...]) -> bytes:
    """Return a text with lines deleted, repeated, moved, replaced by odd ones, or with bytes damaged."""
    chance = rng.random()
    if chance < 0.05:
        return mutate_whole(rng, data)
    if chance < 0.5:
        return mutate_bytes(rng, data)
    lines = data.split(b"\n")
    for _ in range(int(rng.integers(1, 4))):
        place, action = int(rng.integers(len(lines) or 1)), int(rng.integers(4))
        if action == 0 and lines:
            del lines[place]
        elif action == 1 and lines:
            lines.insert(int(rng.integers(len(lines) + 1)), lines[place])
        elif action == 2:
            lines.insert(place, pick(rng, odd_lines))
        elif lines:
            lines[place] = pick(rng, odd_lines)
    return pick(rng, (b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines)


def mutate_json_lines(rng: Rng, data: bytes) -> bytes:
    """Return lines of JSON with one to three of them damaged as JSON, or all as text."""
    if rng.random() < 0.3:
        return mutate_lines(rng, data, (b"{", b"[]", b"null", b'{"step": 1e308}', b"\xff"))
    lines = data.splitlines()
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(lines)))
        lines[place] = mutate_structure(rng, json.loads(data.splitlines()[place]), FURTHER_VALUES)
    return b"\n".join(lines)
