"""The weights that come with the program: found by name, whole, small, and as their card says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save

from augment.errors import InputError
from pipeline.tensor_files import read_checksum
from pipeline.weights import find
from pipeline.weights.files import EXPORTED, load_weights
from pipeline.weights.find import SHIPPED, find_weights, settings_of
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinyrun import call, write_weights

NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/weights.safetensors"))


def make_weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").touch()
    return folder / "weights.safetensors"


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped weights, with two; the working directory is another one, empty."""
    folder = tmp_path / "shipped"
    for name in ("one", "two"):
        make_weights(folder / name)
    (folder / "one" / "README.md").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(find, "SHIPPED", folder)
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_weights_are_found_by_name_also_where_a_folder_without_weights_has_it(ours: Path) -> None:
    assert find_weights(Path("one")) == ours / "one" / "weights.safetensors"
    Path("one").mkdir()  # that of a run about to begin, say
    assert find_weights(Path("one")) == ours / "one" / "weights.safetensors"


@pytest.mark.parametrize("made", ["weights.safetensors", "checkpoints", "step-00000012"])
def test_a_folder_with_weights_or_checkpoints_comes_before_a_name(ours: Path, made: str) -> None:
    if made == "weights.safetensors":
        assert find_weights(Path("one")) != make_weights(Path("one")) == find_weights(Path("one"))
    else:
        Path("one", made).mkdir(parents=True)
        assert find_weights(Path("one")) == Path("one")


def test_a_path_is_no_name(ours: Path) -> None:
    path = make_weights(Path("a/one"))
    assert find_weights(Path("a/one")) == find_weights(path) == path
    for wrong in ("three", "b/one", "one/README.md", "../one"):
        with pytest.raises(FileNotFoundError, match=rf"^{wrong}: no such weights .*\(one, two\)$"):
            find_weights(Path(wrong))


def test_shipped_weights_are_there() -> None:
    assert {"arc1", "start"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_small_and_have_a_card_with_their_checksum_and_a_command(name: str) -> None:
    path = find_weights(Path(name))
    assert path.stat().st_size < 16e6
    card = (path.parent / "README.md").read_text()
    assert f"checksum {read_checksum(path)}" in card
    assert f"{load_weights(Path(name)).step:,} steps" in card
    assert f"`make {name}`" in card or f"--weights {name} " in card
    assert EXPORTED.encode() in path.read_bytes()[:20_000]


def test_weights_are_exported_into_a_new_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("export", "arc1", "--out", "arc1") == 0
    assert load_weights(Path("arc1")).path == Path("arc1/weights.safetensors")
    assert call("export", "arc1/weights.safetensors", "--out", "arc1") == 2
    Path("file").touch()
    assert call("export", "arc1", "--out", "file") == 2
    assert capsys.readouterr().err.count("is there already; export writes into a new or an empty folder") == 2
    published = ("import-checkpoint", "arc1/README.md", "--config", "arc1/README.md")
    assert call(*published, "--out", "arc1") == 2
    assert "import-checkpoint writes into a new or an empty folder" in capsys.readouterr().err
    assert call("export", "nothing", "--out", "new") == 2
    assert not Path("new").exists()


def test_settings_are_read_without_tensors_and_without_torch(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from pipeline.weights.find import settings_of as read; "
    program += "print(read(Path('start')).optimizer.memory_first, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "0.25 False\n"
    assert settings_of(Path("start")) == load_weights(Path("start")).config
    for step in (9, 10):
        write_weights(tmp_path / "checkpoints" / f"step-{step:08d}", tiny_dataset(), tiny_config(f"train.steps={step}"))
    assert settings_of(tmp_path).train.steps == settings_of(tmp_path / "checkpoints").train.steps == 10
    (tmp_path / "checkpoints/step-00000010/weights.safetensors").write_bytes(b"cut short")
    (tmp_path / "checkpoints/step-00000011").mkdir()
    assert settings_of(tmp_path).train.steps == 9, "as load_weights takes it"


def test_settings_of_what_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights\.safetensors and no checkpoint in this folder"):
        settings_of(tmp_path)
    for content in (b"short", find_weights(Path("start")).read_bytes()[:-1], save({}), save({}, {"config": "{}"})):
        (tmp_path / "weights.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.safetensors: ") as refused:
            settings_of(tmp_path)
        with pytest.raises(type(refused.value), match=f"^{re.escape(str(refused.value))}$"):
            load_weights(tmp_path)
