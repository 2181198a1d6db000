"""The weights that come with the program: found by name, whole, small, and as their card says."""

import re
from pathlib import Path

import pytest

from pipeline.tensor_files import read_checksum
from pipeline.weights import shipped
from pipeline.weights.files import load_weights
from pipeline.weights.shipped import SHIPPED, find_weights

NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/README.md"))


def test_a_path_comes_before_a_name_and_what_is_neither_is_refused_with_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "shipped"
    for name in ("one", "two"):
        (ours / name).mkdir(parents=True)
        (ours / name / "weights.safetensors").touch()
    monkeypatch.setattr(shipped, "SHIPPED", ours)
    monkeypatch.chdir(tmp_path)
    assert find_weights(Path("one")) == ours / "one" / "weights.safetensors"
    (tmp_path / "one").mkdir()
    assert find_weights(Path("one")) == Path("one")
    assert find_weights(ours / "one") == ours / "one" / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match=r"^three: no such weights .*\(one, two\)$"):
        find_weights(Path("three"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_small_and_have_a_card_with_their_checksum(name: str) -> None:
    path = find_weights(Path(name))
    assert path.stat().st_size < 16e6
    weights = load_weights(Path(name))
    card = (path.parent / "README.md").read_text()
    assert f"checksum {read_checksum(path)}" in card
    assert f"{weights.step:,} steps" in card
    assert re.search(r"`make \w+`", card)
