"""Weights: everything by name, undamaged or skipped, and an error that names the file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from augment.errors import InputError
from pipeline.config import BuildConfig, Config, override
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.models.network import Network, make_network
from pipeline.tensor_files import Damaged, read_tensors, write_tensors
from pipeline.training.checkpoint import begin_checkpoint, finish_checkpoint
from pipeline.weights import files as checkpoint
from pipeline.weights.files import Weights, export_weights, load_weights, network_from, newest_weights, save_weights, transplant
from tests.pipeline.tiny import tiny_config, tiny_dataset, tiny_source
from tests.pipeline.trainers import flip

KINDS = pytest.mark.parametrize("kind", ["table", "compositional", "residual"])
MOVED = ROWS, RESIDUAL = "memory.rows", "memory.residual.rows"


def config_of(kind: str, *settings: str) -> Config:
    """A tiny config of a kind of memory; residual: compositional memory that has one."""
    memory = ("memory.kind=compositional", "memory.residual=3") if kind == "residual" else (f"memory.kind={kind}",)
    return tiny_config(*memory, "memory.tokens=2", *settings)


def network_of(config: Config, dataset: TaskDataset, seed: int = 1) -> Network:
    """A network whose memory rows are all different."""
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), seed)
    with torch.no_grad():
        for name in {*MOVED} & network.state_dict().keys():
            network.state_dict()[name].normal_(generator=torch.Generator().manual_seed(seed))
    return network


def write_weights(path: Path, kind: str = "compositional", dataset: TaskDataset | None = None) -> dict[str, Tensor]:
    dataset = dataset or tiny_dataset()
    config = config_of(kind)
    tensors = {name: tensor.clone() for name, tensor in network_of(config, dataset).state_dict().items()}
    save_weights(path, tensors, config, dataset, 12)
    return tensors


def assert_equal(ours: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert ours.keys() == others.keys()
    assert not [name for name in ours if not torch.equal(ours[name], others[name])]


@KINDS
def test_weights_are_read_as_they_were_written_and_fit_their_own_tasks(tmp_path: Path, kind: str) -> None:
    dataset, path = tiny_dataset(), tmp_path / "weights.safetensors"
    tensors = write_weights(path, kind, dataset)
    weights = load_weights(path)
    assert_equal(weights.tensors, tensors)
    assert (weights.path, weights.config, weights.step) == (path, config_of(kind), 12)
    assert (weights.data_hash, weights.task_ids) == (dataset.data_hash, dataset.task_ids)
    assert weights.transforms.tolist() == dataset.transforms.tolist()
    assert weights.transform_start.tolist() == dataset.transform_start.tolist()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    network, happened = network_from(weights, dataset)
    assert_equal(network.state_dict(), tensors)
    assert happened == "task memory: 4 tasks by id, 0 new from the mean, 0 not needed"


@KINDS
def test_exported_weights_are_of_int8_near_the_given_and_the_same_when_exported_again(tmp_path: Path, kind: str) -> None:
    write_weights(tmp_path / "weights.safetensors", kind)
    given = load_weights(tmp_path)
    given.tensors["reasoner.head.weight"][1] = 0.0  # a row without any value
    small, again = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    export_weights(given, small)
    found = load_weights(small)
    export_weights(found, again)

    stored, _ = read_tensors(small)
    matrices = {name for name, tensor in given.tensors.items() if tensor.ndim > 1}
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.int8} == matrices
    for name, exact in given.tensors.items():
        rows, close = (tensor.flatten(1) if name in matrices else tensor[None] for tensor in (exact, found.tensors[name]))
        step = rows.abs().amax(1, keepdim=True) / 127 if name in matrices else 0.0
        assert ((close - rows).abs() <= 0.501 * step).all(), name
    assert_equal(load_weights(again).tensors, found.tensors)
    others = [replace(weights, path=small, tensors={}, transforms=None, transform_start=None) for weights in (given, found)]
    assert others[0] == others[1]
    if kind == "compositional":  # whose views have no rows
        assert (found.transforms.tolist(), found.transform_start.tolist()) == ([0] * 4, [0, 1, 2, 3, 4])
    else:
        assert torch.equal(given.transforms, found.transforms) and torch.equal(given.transform_start, found.transform_start)
    assert network_from(found, tiny_dataset())[1] == "task memory: 4 tasks by id, 0 new from the mean, 0 not needed"


SCALES = "reasoner.head.weight.int8_scales"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("compositional", lambda tensors: tensors.pop(SCALES)),
        ("compositional", lambda tensors: tensors.update({SCALES: tensors[SCALES][1:].clone()})),
        ("compositional", lambda tensors: tensors.update({SCALES: tensors[SCALES].double()})),
        ("compositional", lambda tensors: tensors.update({SCALES: tensors[SCALES] * float("nan")})),
        ("compositional", lambda tensors: tensors.update({"reasoner.head.weight": torch.zeros(12, 16)})),
        ("compositional", lambda tensors: tensors.update({"more.int8_scales": torch.zeros(12)})),
        ("table", lambda tensors: tensors.pop("views.transforms")),
        ("residual", lambda tensors: [tensors.pop("views.transforms"), tensors.pop("views.transform_start")]),
    ],
)
def test_an_exported_file_that_contradicts_itself_is_damaged(tmp_path: Path, kind: str, change: Callable[..., object]) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path, kind)
    export_weights(load_weights(path), path)
    tensors, metadata = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors, metadata)
    with pytest.raises(Damaged, match=f"^{path}: damaged weights file: ") as caught:
        load_weights(path)
    assert str(caught.value).isprintable()


def dataset_of(names: dict[str, int], augmentations: int, seed: int = 0) -> TaskDataset:
    """A dataset of tasks by name; equal numbers are equal tasks."""
    tasks = tiny_source(tasks=max(names.values()) + 1).tasks
    renamed = tuple(replace(tasks[number], id=name) for name, number in names.items())
    source = replace(tiny_source(), tasks=renamed, solutions={})
    return build([source], [], BuildConfig(augmentations, "all", seed, 1), leakage="allow")


def places_of(weights: Weights) -> dict[str, dict[int, int]]:
    """The row of each transform of each task."""
    starts = weights.transform_start.tolist()
    ranges = zip(weights.task_ids, starts[:-1], starts[1:], strict=True)
    return {task: dict(zip(weights.transforms[a:b].tolist(), range(a, b), strict=True)) for task, a, b in ranges}


@KINDS
def test_rows_move_by_task_id_and_transform_and_new_ones_are_the_mean_or_zero(tmp_path: Path, kind: str) -> None:
    write_weights(tmp_path / "weights.safetensors", kind, dataset_of({"b": 0, "c": 1, "d": 2}, 5))
    weights, dataset = load_weights(tmp_path), dataset_of({"a": 3, "aa": 4, "c": 1, "d": 2}, 8, seed=1)
    network, happened = network_from(weights, dataset)
    assert happened == "task memory: 2 tasks by id, 2 new from the mean, 1 not needed"
    moved, mean = network.state_dict(), weights.tensors[ROWS].mean(0)
    assert_equal(*({name: each for name, each in part.items() if name not in MOVED} for part in (moved, weights.tensors)))
    if kind != "table":
        torch.testing.assert_close(moved[ROWS], torch.stack([mean, mean, *weights.tensors[ROWS][1:3]]))
    if kind == "compositional":
        return
    name = ROWS if kind == "table" else RESIDUAL
    old, rows = weights.tensors[name], moved[name]
    assert rows.shape == (len(dataset.transforms), old.shape[1])
    places, kinds = places_of(weights), []
    for task, task_id in enumerate(dataset.task_ids):
        for position in range(*dataset.transform_start[task : task + 2]):
            code = int(dataset.transforms[position])
            known = places.get(task_id, {})
            expected = torch.zeros(3) if kind == "residual" else old[list(known.values()) or slice(None)].mean(0)
            torch.testing.assert_close(rows[position], old[known[code]] if code in known else expected)
            kinds.append("same view" if code in known else "other view" if known else "other task")
    assert {kind: kinds.count(kind) > 1 for kind in kinds} == dict.fromkeys(("same view", "other view", "other task"), True)


@pytest.mark.parametrize(
    ("kind", "setting", "named"),
    [
        ("compositional", "memory.kind=table", "memory.color_base"),
        ("compositional", "memory.residual=3", "memory.residual.gate, memory.residual.matrix, memory.residual.rows"),
        ("compositional", "model.convolution=3", r"reasoner\.blocks\.0\.feed_forward\.convolution\.weight"),
        ("compositional", "model.hidden_size=32", "memory.dihedral"),
        ("compositional", "model.kind=urm", r"reasoner\.initial_answer"),
        ("compositional", "model.heads=4", r"model\.heads"),
        ("compositional", "model.positions=1d", r"model\.positions"),
        ("compositional", "model.gate=normed-sigmoid", r"model\.gate"),
        ("compositional", "model.attention_norm=rms", r"model\.attention_norm"),
        ("compositional", "memory.start=zero", "memory.scale_bias, memory.shift_bias"),
        ("table", "memory.tokens=3", r"memory\.tokens"),
        ("residual", "memory.residual=0", "memory.residual.gate, memory.residual.matrix, memory.residual.rows"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_what_differs(
    tmp_path: Path, kind: str, setting: str, named: str
) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path, kind)
    dataset = tiny_dataset()
    other = network_of(override(config_of(kind), [setting]), dataset)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=f"{path}: weights of another network, .*{named}.* differ"):
        transplant(load_weights(path), other, dataset)
    assert_equal(other.state_dict(), before)


def test_more_cycles_are_no_other_architecture(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.safetensors")
    dataset = tiny_dataset()
    deeper = network_of(config_of("compositional", "model.H_cycles=5", "model.L_cycles=6"), dataset)
    assert transplant(load_weights(tmp_path), deeper, dataset).startswith("task memory: 4 tasks by id")


def set_config(metadata: dict[str, str], section: str, name: str, value: object) -> None:
    config = orjson.loads(metadata["config"])
    config[section][name] = value
    metadata["config"] = json.dumps(config)


@pytest.mark.parametrize(
    "change",
    [
        lambda _, metadata: metadata.update(config="{"),
        lambda _, metadata: set_config(metadata, "model", "hidden_size", 1 << 40),
        lambda _, metadata: set_config(metadata, "model", "layers", 1 << 40),
        lambda _, metadata: set_config(metadata, "memory", "tokens", 1 << 62),
        lambda _, metadata: metadata.update(step="soon"),
        lambda _, metadata: metadata.update(task_ids='"abc"'),
        lambda _, metadata: metadata.update(task_ids='["tiny000"]'),
        lambda _, metadata: metadata.update(task_ids="[[1], [2], [3], [4]]"),
        lambda _, metadata: metadata.update(task_ids=json.dumps(["a"] * 4)),
        lambda tensors, _: tensors.pop("views.transforms"),
        lambda tensors, _: tensors["views.transforms"].fill_(1 << 40),
        lambda tensors, _: tensors.update({"views.transform_start": torch.zeros(0, dtype=torch.int64)}),
        lambda tensors, _: tensors.update({"views.transform_start": torch.tensor(4)}),
        lambda tensors, _: tensors["views.transform_start"].copy_(tensors["views.transform_start"].flip(0)),
        lambda tensors, _: tensors.update({"reasoner.embedding": tensors["reasoner.embedding"].to(torch.int64)}),
        lambda tensors, _: tensors["reasoner.embedding"][0].fill_(float("nan")),
        lambda tensors, _: tensors.pop("reasoner.head.weight"),
        lambda tensors, _: tensors.update(more=torch.zeros(1)),
    ],
)
def test_a_file_that_contradicts_itself_is_damaged(tmp_path: Path, change: Callable[..., None]) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path)
    tensors, metadata = read_tensors(path)
    change(tensors, metadata)
    write_tensors(path, tensors, metadata)
    with pytest.raises(ValueError, match=f"^{path}: damaged weights file: ") as caught:
        load_weights(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(path)) + 600


@pytest.mark.parametrize(
    ("kind", "name"), [("table", ROWS), ("compositional", ROWS), ("residual", ROWS), ("residual", RESIDUAL)]
)
def test_a_memory_of_the_wrong_length_is_damage(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path, kind)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors | {name: tensors[name][1:].clone()}, metadata)
    with pytest.raises(ValueError, match=rf"^{path}: damaged weights file: \d+ rows of task memory, expected \d+ \({name}\)"):
        load_weights(path)


def test_settings_of_another_version_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step-00000001" / "weights.safetensors"
    path.parent.mkdir(parents=True)
    write_weights(path)
    tensors, metadata = read_tensors(path)
    config = json.loads(metadata["config"])
    config["train"]["speed"] = 9
    write_tensors(path, tensors, metadata | {"config": json.dumps(config)})
    with pytest.raises(InputError, match=f"^{path}: its settings are not those of this version: train has no") as found:
        load_weights(tmp_path)
    assert not isinstance(found.value, Damaged)


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    for place, message in ((tmp_path / "nowhere", "no such weights file or folder"), (tmp_path, "no weights.safetensors")):
        assert newest_weights(place) is None
        with pytest.raises(FileNotFoundError, match=message):
            load_weights(place)
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=f"^{path}: not a weights file of this program"):
        load_weights(path)


def three_checkpoints(run: Path) -> list[Path]:
    """The weights files of three checkpoints of a run, oldest first."""
    paths = []
    for step in (1, 2, 3):
        write_weights(begin_checkpoint(run / "checkpoints", step) / "weights.safetensors")
        paths.append(finish_checkpoint(run / "checkpoints" / f".step-{step:08d}", 9) / "weights.safetensors")
    return paths


def test_weights_of_an_older_version_without_checksum_and_pieces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path)
    tensors, metadata = read_tensors(path)
    config = orjson.loads(metadata["config"])
    del config["train"]["pieces"]
    save_file(tensors, path, metadata=metadata | {"config": orjson.dumps(config).decode()})
    assert load_weights(path).config == config_of("compositional")


@pytest.mark.parametrize("given", [".", "checkpoints"])
def test_damaged_checkpoints_are_passed_over_and_stay_and_where_all_are_the_error_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    oldest, middle, newest = three_checkpoints(tmp_path)
    for path in (tmp_path / given, newest.parent, newest):
        assert load_weights(path).path == newest
    assert load_weights(oldest.parent).path == oldest
    assert not caplog.records
    flip(newest)
    middle.unlink()
    assert load_weights(tmp_path / given).path == oldest
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(f"{newest}: damaged, ")
    assert str(middle) in said[1]
    assert all(message.endswith("; this checkpoint is skipped") for message in said)
    assert newest.is_file()
    flip(oldest)
    assert newest_weights(tmp_path / "checkpoints") is None
    for path, message in ((tmp_path, "/checkpoints: every checkpoint in it is damaged$"), (newest, ": damaged, ")):
        with pytest.raises(Damaged, match=f"^{path}{message}"):
            load_weights(path)


def test_a_checkpoint_that_training_removes_meanwhile_is_passed_over_for_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_checkpoints(tmp_path)
    read = checkpoint.read_weights

    def removed(path: Path) -> Weights:
        if path.parent.name == "step-00000003":
            path.parent.rename(path.parent.with_name("step-00000004"))
        return read(path)

    monkeypatch.setattr(checkpoint, "read_weights", removed)
    assert load_weights(tmp_path).path == tmp_path / "checkpoints" / "step-00000004" / "weights.safetensors"
