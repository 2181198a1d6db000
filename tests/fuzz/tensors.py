"""Damage to tensor files and archives: safetensors with false headers, PyTorch files with malicious pickles, zips."""

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

WIDTHS = {"U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "U16": 2, "U32": 4, "U64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
          "BOOL": 1, "F8_E4M3": 1, "C64": 8}  # fmt: skip
DTYPES = (*WIDTHS, "X9", "F4")
SHAPES = ([], [0], [1], [2, 2], [0, 1 << 62], [1 << 33], [1 << 62, 1 << 62], [-1], [1.5], ["1"], None, [1] * 40)
Header = dict[str, Any]


def mutate_tensors(rng: Rng, data: bytes) -> bytes:
    """Return a safetensors file with damaged header, values, metadata or bytes; its checksum stays or goes."""
    chance = rng.random()
    if chance < 0.15:
        return mutate_bytes(rng, data)
    if chance < 0.2:
        return pick(rng, (b"", data[:7], (10 << 30).to_bytes(8, "little") + data[8:], b"\xff" * 8 + data[8:], data + b"\x00"))
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    if chance < 0.35:
        return _join(_damage_header(rng, header), body)
    if rng.random() < 0.8:  # files of other programs have no checksum and are read unchecked
        header.get("__metadata__", {}).pop("checksum", None)
    for _ in range(int(rng.integers(1, 3))):
        names = [name for name in header if name != "__metadata__"]
        changes = (_change_values, _change_values, _change_dtype, _change_shape, _resize, _rename) if names else ()
        pick(rng, (*changes, _change_metadata))(rng, header, body, names)
    return _join(json.dumps(header).encode(), body)


def _join(header: bytes, body: bytes | bytearray) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def _damage_header(rng: Rng, header: Header) -> bytes:
    root = [to_members(header)]
    for _ in range(int(rng.integers(1, 3))):
        mutate_once(rng, root, FURTHER_VALUES if rng.random() < 0.5 else ODD_VALUES)
    return dump(root[0]).encode() if root else b""


def _is_plain(shape: object) -> bool:
    """Return whether a shape, which an earlier change may have damaged, is valid."""
    return isinstance(shape, list) and all(type(side) is int and 0 <= side < 1 << 20 for side in shape)


def _change_values(rng: Rng, header: Header, body: bytearray, names: list[str]) -> None:
    """Overwrite some values of one tensor with zeros, ones (NaN as float) or random bytes."""
    start, stop = header[pick(rng, names)]["data_offsets"]
    for _ in range(int(rng.integers(1, 4))):
        if stop > start:
            at = int(rng.integers(start, stop))
            count = min(int(pick(rng, (1, 2, 4, 8, 1 << 20))), stop - at)
            body[at : at + count] = pick(rng, (bytes(count), b"\xff" * count, rng.bytes(count), b"\x7f" * count))


def _change_dtype(rng: Rng, header: Header, _: bytearray, names: list[str]) -> None:
    """Declare another dtype, with a shape that fits the bytes where there is one."""
    entry = header[pick(rng, names)]
    dtype = pick(rng, DTYPES)
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    width = WIDTHS.get(dtype)
    if width and width != WIDTHS.get(entry["dtype"], width) and not size % width:
        entry["shape"] = [size // width]
    entry["dtype"] = dtype


def _change_shape(rng: Rng, header: Header, _: bytearray, names: list[str]) -> None:
    """Declare another shape, with the same number of values or not."""
    entry = header[pick(rng, names)]
    if _is_plain(entry["shape"]):
        count = int(np.prod(entry["shape"])) if entry["shape"] else 1
        entry["shape"] = pick(rng, (*SHAPES, [count], [count, 1], [1, count], entry["shape"][::-1], [0, *entry["shape"]]))


def _resize(rng: Rng, header: Header, body: bytearray, names: list[str]) -> None:
    """Give the last tensor one row more or less, or none at all."""
    entry = header[max(names, key=lambda each: header[each]["data_offsets"][1])]
    if not _is_plain(entry["shape"]) or not entry["shape"] or not entry["shape"][0]:
        return
    start, stop = entry["data_offsets"]
    rows = entry["shape"][0]
    row_bytes = (stop - start) // rows
    rows = int(pick(rng, (0, rows - 1, rows + 1)))
    entry["shape"][0], entry["data_offsets"] = rows, [start, start + rows * row_bytes]
    body.extend(bytes(row_bytes))
    del body[start + rows * row_bytes :]


def _rename(rng: Rng, header: Header, _: bytearray, names: list[str]) -> None:
    """Rename a tensor, or swap two."""
    name, other = pick(rng, names), pick(rng, names)
    if rng.random() < 0.5:
        header[name], header[other] = header[other], header[name]
    else:
        header[pick(rng, ("", "x", f"{name}s", "memory.rows", "a\nb", "é" * 500))] = header.pop(name)


def _change_metadata(rng: Rng, header: Header, _: bytearray, __: list[str]) -> None:
    """Change, add or remove a value of the metadata; JSON in it is damaged as JSON."""
    metadata = header.setdefault("__metadata__", {})
    name = str(pick(rng, [*metadata, "more"]))
    text = metadata.get(name, "")
    if rng.random() < 0.2:
        metadata.pop(name, None)
    elif text[:1] in ("[", "{"):
        metadata[name] = mutate_structure(rng, json.loads(text), FURTHER_VALUES).decode(errors="replace")
    else:
        metadata[name] = pick(rng, ("", "0", "-1", "9" * 5000, "1e3", "true", "\n", "x" * 5000, f"{text}0", "None", "nan"))


class Harm:
    """Its pickle makes a folder when it is loaded without protection."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.path,)


def mutate_archive(rng: Rng, data: bytes, harm: str) -> bytes:
    """Return a PyTorch file with damaged pickle, entries or bytes; a malicious pickle makes the folder `harm`."""
    chance = rng.random()
    if chance < 0.3:
        return mutate_bytes(rng, data)
    if chance < 0.4:
        bad: object = {"a": Harm(harm), "inner.H_init": None}
        return pickle.dumps(bad, protocol=int(rng.integers(0, 5)))
    entries = dict(_unpack(data))
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
    return _pack(list(entries.items()), kind)


def _nested_key(depth: int, doubled: bool) -> bytes:
    """Return a pickled dict whose key is a deeply nested tuple; with `doubled`, each holds the inner one twice."""
    return b"\x80\x02}X\x01\x00\x00\x00x" + (b"q\x01h\x01\x86" if doubled else b"\x85") * depth + b"Ns."


def _unpack(data: bytes) -> list[tuple[str, bytes]]:
    source = zipfile.ZipFile(io.BytesIO(data))
    return [(entry.filename, source.read(entry)) for entry in source.infolist()]


def _pack(entries: list[tuple[str, bytes]], kind: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name or "x"), content, kind)
    return made.getvalue()


def mutate_zip(rng: Rng, data: bytes) -> bytes:
    """Return a zip of task files whose entries are damaged, doubled, named outside the folder, or unpack to far too much."""
    chance = rng.random()
    if chance < 0.4:
        return mutate_bytes(rng, data)
    entries = _unpack(data)
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
    changed = _pack(entries, int(pick(rng, (0, 8, 8, 12))))
    return changed if rng.random() < 0.9 else mutate_bytes(rng, changed)
