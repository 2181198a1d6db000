"""Damage to files of tensors: safetensors with headers that lie, PyTorch files with pickles that would do harm."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fuzz.mutate import (
    FURTHER_VALUES,
    ODD_VALUES,
    Rng,
    dump,
    mutate_bytes,
    mutate_once,
    mutate_structure,
    pick,
    to_members,
)

DTYPES = (
    "U8",
    "I8",
    "I16",
    "I32",
    "I64",
    "U16",
    "U32",
    "U64",
    "F16",
    "BF16",
    "F32",
    "F64",
    "BOOL",
    "F8_E4M3",
    "C64",
    "X9",
    "F4",
)
WIDTHS = {"U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "U16": 2, "U32": 4, "U64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
          "BOOL": 1, "F8_E4M3": 1, "C64": 8}  # fmt: skip
SHAPES = ([], [0], [1], [2, 2], [0, 1 << 62], [1 << 33], [1 << 62, 1 << 62], [-1], [1.5], ["1"], None, [1] * 40)

Header = dict[str, Any]


def mutate_tensors(rng: Rng, data: bytes) -> bytes:
    """Return a safetensors file with its header, its values, its metadata or its bytes damaged; the checksum stays or goes."""
    chance = rng.random()
    if chance < 0.15:
        return mutate_bytes(rng, data)
    if chance < 0.2:
        return pick(rng, (b"", data[:7], (10 << 30).to_bytes(8, "little") + data[8:], b"\xff" * 8 + data[8:], data + b"\x00"))
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    if chance < 0.35:
        return _join(_damage_header(rng, header), bytes(body))
    if rng.random() < 0.8:  # as a file of another program has none, which is read unchecked
        header.get("__metadata__", {}).pop("checksum", None)
    for _ in range(int(rng.integers(1, 3))):
        change = pick(rng, (_change_values, _change_values, _change_kind, _change_shape, _resize, _lose, _change_metadata))
        header, body = change(rng, header, body)
    return _join(json.dumps(header).encode(), bytes(body))


def _join(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def _damage_header(rng: Rng, header: Header) -> bytes:
    root = [to_members(header)]
    for _ in range(int(rng.integers(1, 3))):
        mutate_once(rng, root, FURTHER_VALUES if rng.random() < 0.5 else ODD_VALUES)
    return dump(root[0]).encode() if root else b""


def _names(header: Header) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def _is_plain(shape: object) -> bool:
    """Return whether a shape, which may have been changed already, is still one."""
    return isinstance(shape, list) and all(type(side) is int and 0 <= side < 1 << 20 for side in shape)


def _change_values(rng: Rng, header: Header, body: bytearray) -> tuple[Header, bytearray]:
    """Overwrite some of the values of one tensor, where there is one: with zeros, ones (NaN to floats) or anything."""
    if not _names(header):
        return header, body
    start, stop = header[pick(rng, _names(header))]["data_offsets"]
    for _ in range(int(rng.integers(1, 4))):
        if stop > start:
            at = int(rng.integers(start, stop))
            count = min(int(pick(rng, (1, 2, 4, 8, 1 << 20))), stop - at)
            body[at : at + count] = pick(rng, (bytes(count), b"\xff" * count, rng.bytes(count), b"\x7f" * count))
    return header, body


def _change_kind(rng: Rng, header: Header, body: bytearray) -> tuple[Header, bytearray]:
    """Say that a tensor is of another dtype, with a shape that fits its bytes where there is one."""
    if not _names(header):
        return header, body
    entry = header[pick(rng, _names(header))]
    dtype = pick(rng, DTYPES)
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    if dtype in WIDTHS and entry["dtype"] in WIDTHS and WIDTHS[dtype] != WIDTHS[entry["dtype"]] and not size % WIDTHS[dtype]:
        entry["shape"] = [size // WIDTHS[dtype]]
    entry["dtype"] = dtype
    return header, body


def _change_shape(rng: Rng, header: Header, body: bytearray) -> tuple[Header, bytearray]:
    """Give a tensor another shape, of as many values or not."""
    if not _names(header):
        return header, body
    entry = header[pick(rng, _names(header))]
    if not _is_plain(entry["shape"]):
        return header, body
    count = int(np.prod(entry["shape"])) if entry["shape"] else 1
    entry["shape"] = pick(rng, (*SHAPES, [count], [count, 1], [1, count], entry["shape"][::-1], [0, *entry["shape"]]))
    return header, body


def _resize(rng: Rng, header: Header, body: bytearray) -> tuple[Header, bytearray]:
    """Give the last tensor one row more or less, or none at all."""
    if not _names(header):
        return header, body
    name = max(_names(header), key=lambda each: header[each]["data_offsets"][1])
    entry = header[name]
    start, stop = entry["data_offsets"]
    if not _is_plain(entry["shape"]) or not entry["shape"] or not entry["shape"][0]:
        return header, body
    rows = entry["shape"][0]
    row = (stop - start) // rows
    rows = int(pick(rng, (0, rows - 1, rows + 1)))
    entry["shape"][0], entry["data_offsets"] = rows, [start, start + rows * row]
    return header, (body + bytes(row))[: start + rows * row]


def _lose(rng: Rng, header: Header, body: bytearray) -> tuple[Header, bytearray]:
    """Rename a tensor, or exchange the places of two."""
    names = _names(header)
    if not names:
        return header, body
    name, other = pick(rng, names), pick(rng, names)
    if rng.random() < 0.5:
        header[name], header[other] = header[other], header[name]
    else:
        header[pick(rng, ("", "x", f"{name}s", "memory.rows", "a\nb", "é" * 500))] = header.pop(name)
    return header, body


def _change_metadata(rng: Rng, header: Header, body: bytearray) -> tuple[Header, bytearray]:
    """Change, add or take away a value of the metadata; JSON in it is damaged as JSON."""
    metadata = header.setdefault("__metadata__", {})
    name = str(pick(rng, [*metadata, "more"]))
    text = metadata.get(name, "")
    if rng.random() < 0.2:
        metadata.pop(name, None)
    elif text[:1] in ("[", "{"):
        metadata[name] = mutate_structure(rng, json.loads(text), FURTHER_VALUES).decode(errors="replace")
    else:
        metadata[name] = pick(rng, ("", "0", "-1", "9" * 5000, "1e3", "true", "\n", "x" * 5000, f"{text}0", "None", "nan"))
    return header, body


class Harm:
    """What a pickle would make when it is read without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.path,)


def mutate_archive(rng: Rng, data: bytes, harm: str) -> bytes:
    """Return a PyTorch file with its pickle, its entries or its bytes damaged; `harm` is the folder that a bad pickle makes."""
    chance = rng.random()
    if chance < 0.3:
        return mutate_bytes(rng, data)
    if chance < 0.4:
        bad: object = {"a": Harm(harm), "inner.H_init": None}
        return pickle.dumps(bad, protocol=int(rng.integers(0, 5)))
    source = zipfile.ZipFile(io.BytesIO(data))
    entries = {entry.filename: source.read(entry) for entry in source.infolist()}
    kind = zipfile.ZIP_STORED if rng.random() < 0.8 else zipfile.ZIP_DEFLATED
    name = str(pick(rng, list(entries)))
    inner = next(each for each in entries if each.endswith("data.pkl"))
    if chance < 0.6:
        entries[inner] = mutate_bytes(rng, entries[inner])
    elif chance < 0.65:
        entries[inner] = pickle.dumps(Harm(harm), protocol=int(rng.integers(0, 5)))
    elif chance < 0.7:
        entries[inner] = _nested_key(int(pick(rng, (1, 8, 60, 200_000))), doubled=rng.random() < 0.5)
    elif chance < 0.8:
        entries[name] = bytes(16 << 20)
        kind = zipfile.ZIP_DEFLATED
    elif chance < 0.9:
        del entries[name]
    else:
        entries[name] = entries[name][: int(rng.integers(len(entries[name]) + 1))]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", kind) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return made.getvalue()


def _nested_key(depth: int, doubled: bool) -> bytes:
    """Return a pickled dict whose key is a tuple in a tuple and so on; each may hold the one within twice."""
    return b"\x80\x02}X\x01\x00\x00\x00x" + (b"q\x01h\x01\x86" if doubled else b"\x85") * depth + b"Ns."


def mutate_zip(rng: Rng, data: bytes) -> bytes:
    """Return a zip of task files with entries damaged, doubled, renamed to leave the folder, or unpacking to far too much."""
    chance = rng.random()
    if chance < 0.4:
        return mutate_bytes(rng, data)
    source = zipfile.ZipFile(io.BytesIO(data))
    entries = [(entry.filename, source.read(entry)) for entry in source.infolist()]
    place = int(rng.integers(len(entries)))
    name, content = entries[place]
    if chance < 0.6:
        entries[place] = (name, mutate_structure(rng, json.loads(content)))
    elif chance < 0.75:
        odd = ("../x.json", "/etc/x.json", "", "x", "a/../../x.json", "\udcff.json", "x.json/", "é\n.json", "C:\\x.json", name)
        entries.append((str(pick(rng, odd)).encode("utf-8", "replace").decode(), content))
    elif chance < 0.8:
        entries[place] = (name, pick(rng, (b"[" + b"[]," * (1 << 20), b" " * (16 << 20), b"[" * (16 << 20))))
    else:
        entries = [entries[place]] * int(rng.integers(0, 3))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", int(pick(rng, (0, 8, 8, 12)))) as archive:
        for entry, content in entries:
            archive.writestr(zipfile.ZipInfo(entry or "x"), content, int(pick(rng, (0, 8))))
    changed = made.getvalue()
    return changed if rng.random() < 0.9 else mutate_bytes(rng, changed)
