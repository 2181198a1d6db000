"""Published files from strangers: nothing in them is executed, and none takes more time or memory than it should."""

import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.pipeline.published.examples import PREFIX, Published

LAYER = f"{PREFIX}inner.L_level.layers.1.mlp.down_proj.weight"
MOST_SECONDS = 10.0
"""For one file, on a busy machine. Without bounds, some of the files below take hours."""


@pytest.fixture
def published(tmp_path: Path) -> Published:
    made = Published(tmp_path)
    made.write()
    return made


def rewrite(path: Path, pickle: bytes | None = None, values: bytes | None = None, kind: int = zipfile.ZIP_STORED) -> None:
    """Replace the pickle or the first tensor of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for end, content in (("data.pkl", pickle), ("/data/0", values)):
        members |= {name: content for name in members if name.endswith(end) and content is not None}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


class Evil:
    """Pickled as a call."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("called",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": Evil()}, "print' is no part of a state dict"),
        (np.ones(2), "is no part of a state dict"),
        ({LAYER: torch.ones(2).long()}, "holds int64, which no parameter of these networks does"),
        ({LAYER: torch.ones(2).double()}, "'torch DoubleStorage' is no part of a state dict"),
        ({LAYER: torch.ones(2).to_sparse()}, "_rebuild_sparse_tensor' is no part of a state dict"),
        ({LAYER: torch.ones(2, device="meta")}, "is no part of a state dict"),
        ({LAYER: torch.zeros(1).expand(1 << 20, 1 << 20)}, "repeats its values, (1048576, 1048576) from 4 bytes"),
        ([torch.ones(2)], "expected a state dict, got list"),
        (None, "expected a state dict, got NoneType"),
        ({"step": 3}, "expected a flat dict of tensors, but step has int"),
        ({"model": {"layers": {}}}, "expected a flat dict of tensors, but layers has dict"),
        ({3: torch.ones(2)}, "expected tensors by name, but a key is of type int"),
        ({((((1,),),),): torch.ones(2)}, "expected tensors by name, but a key is of type tuple"),
    ],
)
def test_what_is_no_state_dict_is_refused_and_not_run(
    published: Published, capsys: pytest.CaptureFixture[str], content: object, reason: str
) -> None:
    torch.save(content, published.checkpoint)
    assert reason in published.refused(published.checkpoint)
    assert "called" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("around", "reason"),
    [
        (b"q\x01h\x01\x86" * 60, "refers to a tuple twice"),
        (b"q\x01h\x01h\x01\x87" * 40, "refers to a tuple twice"),
        (b"\x85q\x01q\x02" + b"h\x02h\x02\x86q\x02" * 60, "refers to a tuple twice"),
        (b"\x85" * 200_000, "more than 20,000 operations"),
        (b"(" + b"N" * 20_000 + b"l", "more than 20,000 operations"),
        (b"X" + struct.pack("<I", 2 << 20) + b"x" * (2 << 20), "more than 1,048,576 bytes"),
        (b"cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R", "'builtins bytearray' is no part of"),
        (b"ctorch\nSize\n", "'torch Size' is no part of"),
        (b"t", "damaged"),
        (b"h\x07", "damaged"),
    ],
    ids=["pairs", "triples", "renamed", "deep", "endless", "long", "large", "size", "short", "unknown"],
)
def test_a_pickle_without_bounds_is_refused_at_once(published: Published, around: bytes, reason: str) -> None:
    rewrite(published.checkpoint, pickle=b"\x80\x02}(X\x01\x00\x00\x00x" + around + b"Nu.")
    started = time.monotonic()
    assert reason in published.refused(published.checkpoint)
    assert time.monotonic() - started < MOST_SECONDS


def test_a_checkpoint_that_is_compressed_is_not_unpacked(published: Published) -> None:
    rewrite(published.checkpoint, values=bytes(1 << 24), kind=zipfile.ZIP_DEFLATED)
    assert published.checkpoint.stat().st_size < 1 << 20
    assert "compressed" in published.refused(published.checkpoint)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.999])
def test_a_truncated_checkpoint_is_refused(published: Published, share: float) -> None:
    content = published.checkpoint.read_bytes()
    published.checkpoint.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in published.refused(published.checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"3", b"[1, 2]", b"arch: [", b"a: b: c", b"\xff\xff", b"\x00", b"x: !!python/name:os.system", b"? [a]\n: 1",
        b"a: 2001-99-99", b"lr: 1" + b"0" * 4999, b"k: " + b"[" * 600, b"k: 1" + b":1" * 30_000 + b".5", b"#" * 70_000,
    ],
    ids=range(14),
)  # fmt: skip
def test_a_config_that_is_no_yaml_mapping_is_refused(published: Published, content: bytes) -> None:
    published.yaml.write_bytes(content)
    published.refused(published.yaml)


@pytest.mark.parametrize(
    "lines",
    [
        ["a: &a [x, x]", "b: *a"],
        ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)), "arch: *a29"],
        ["a0: &a0 {b: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 30))],
    ],
    ids=["alias", "nested", "merged"],
)
def test_yaml_with_aliases_is_refused(published: Published, lines: list[str]) -> None:
    published.yaml.write_text("\n".join([published.yaml.read_text(), *lines]))
    assert "aliases are not supported" in published.refused(published.yaml)


@pytest.mark.parametrize(("key", "value"), [("lr", "9" * 400), ("arch", "x" * 40_000)])
def test_huge_values_are_refused_in_one_short_line(published: Published, key: str, value: str) -> None:
    config = {name: each for name, each in published.config.items() if name != key}
    published.yaml.write_text(f"{yaml.dump(config)}{key}: {value}")
    published.refused(published.yaml)
