"""Imported checkpoints give what the published network gives, each row is found by task and view, and misfits are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from augment.transform import Transform, transform_to_int
from pipeline.data.puzzles.kinds import PUZZLE_TASK
from pipeline.models.batch import Batch, Views
from pipeline.models.layout import make_layout
from pipeline.models.network import make_network
from pipeline.published.checkpoint import import_checkpoint
from pipeline.published.identifiers import UNKNOWN_TASK
from pipeline.tensor_files import read_tensors
from pipeline.weights.files import Weights, load_weights, save_weights, transplant
from tests.pipeline.published.examples import ATTENTION, HRM, MIXER, PREFIX, URM, VIEWS, Published, read_golden
from tests.pipeline.tiny import tiny_dataset

ROWS = "inner.puzzle_emb.weights"
EMBEDDING = "inner.embed_tokens.embedding_weight"
HEAD = "inner.lm_head.weight"
LAYER = "inner.L_level.layers.1.mlp.down_proj.weight"
State = dict[Any, Any]


def first_segment(weights: Weights, name: str) -> Tensor:
    """The logits of the reference batch, from a network with the imported weights."""
    tensors, _ = read_golden(name)
    model = weights.config.model
    network = make_network(model, weights.config.memory, len(weights.task_ids), len(weights.transforms), 0)
    network.load_state_dict(weights.tensors)
    ours = {published: row for row, (_, _, published) in enumerate(VIEWS)}
    row = torch.tensor([ours[number] for number in tensors["batch.puzzle_identifiers"].tolist()])
    shapes = torch.full((len(row), 2), model.canvas_side)
    layout = make_layout(shapes, torch.zeros_like(shapes), weights.config.memory.tokens, torch.device("cpu"))
    views = Views(torch.zeros_like(row), row, torch.zeros_like(row), torch.arange(10).expand(len(row), 10))
    batch = Batch(tensors["batch.inputs"].long().flatten(), None, layout, views)
    with torch.no_grad():
        return network(network.reasoner.initial_state(layout.tokens), batch).logits


@pytest.mark.parametrize(
    ("name", "kind", "tokens"), [(ATTENTION, "trm", 16), (MIXER, "trm", 16), (HRM, "hrm", 1), (URM, "urm", 1)]
)
def test_an_imported_network_gives_what_the_published_one_gives(tmp_path: Path, name: str, kind: str, tokens: int) -> None:
    published = Published(tmp_path, name)
    weights = published.imported()
    assert published.run() == f"{weights.path}: {kind}, 2 tasks, 6 views, {tokens} memory tokens"
    assert weights.path == tmp_path / "out/deep/weights.safetensors"
    expected = read_golden(name)[0]["eval.step1.logits"]
    logits = first_segment(weights, name).reshape(expected.shape)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (weights.task_ids, weights.transform_start.tolist()) == (("a", "b"), [0, 3, 6])
    assert weights.transforms.tolist() == [transform_to_int(Transform.parse(code)) for _, code, _ in VIEWS]
    assert torch.equal(weights.tensors["memory.rows"], published.state[PREFIX + ROWS][[row for _, _, row in VIEWS]])


def test_what_is_written_looks_like_any_weights_file(tmp_path: Path) -> None:
    weights = Published(tmp_path).imported()
    tensors, metadata = read_tensors(weights.path)
    dataset, ours = tiny_dataset(), tmp_path / "ours.safetensors"
    network = make_network(weights.config.model, weights.config.memory, len(dataset.task_ids), len(dataset.transforms), 0)
    save_weights(ours, network.state_dict(), weights.config, dataset, 0)
    own_tensors, own_metadata = read_tensors(ours)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: each.dtype for name, each in own_tensors.items()}
    assert metadata.keys() == own_metadata.keys()
    assert (metadata["format"], metadata["config"]) == (own_metadata["format"], own_metadata["config"])
    assert (weights.step, weights.data_hash) == (0, "imported")
    happened = transplant(weights, network, dataset)
    assert happened.startswith("task memory: 0 tasks by id") and happened.endswith("2 not needed")


def test_numbers_without_a_decimal_point_and_a_dataset_beside_the_architecture_are_read(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.config |= {"seq_len": published.config["arch"].pop("seq_len"), "vocab_size": 12, "num_puzzle_identifiers": 7}
    published.config["arch"] |= {"rms_norm_eps": "1e-5", "rope_theta": 10_000}
    published.config["lr"] = "3e-4"
    config = published.imported().config
    assert (config.model.canvas_side, config.optimizer.rate) == (6, 3e-4)


def test_the_tensors_determine_the_canvas_when_the_config_does_not(tmp_path: Path) -> None:
    published = Published(tmp_path)
    del published.config["arch"]["seq_len"]
    for name in (EMBEDDING, HEAD):
        published.state[PREFIX + name] = published.state[PREFIX + name][:11].clone()
    model = published.imported().config.model
    assert (model.canvas_side, model.vocabulary) == (9, 11)


def test_a_mixer_determines_the_canvas_by_its_length(tmp_path: Path) -> None:
    published = Published(tmp_path, MIXER)
    del published.config["arch"]["puzzle_emb_len"]
    config = published.imported().config
    assert (config.model.canvas_side, config.memory.tokens) == (4, 16)
    for change, path, reason in (
        ({"puzzle_emb_len": 15}, published.yaml, "seq_len = 17, expected the cells of a square canvas"),
        ({"puzzle_emb_len": 16, "seq_len": 9}, published.checkpoint, "gate_up_proj.weight is (512, 32), expected (512, 25)"),
    ):
        published.config["arch"] |= change
        published.out /= "again"
        published.write()
        assert reason in published.refused(path)


@pytest.mark.parametrize(
    ("prefix", "dtype"), [("", torch.float32), ("model.", torch.bfloat16), ("module._orig_mod.model.", torch.float16)]
)
def test_prefixes_do_not_matter_and_short_floats_become_float32(tmp_path: Path, prefix: str, dtype: torch.dtype) -> None:
    published = Published(tmp_path, prefix=prefix)
    published.state = {key: tensor.to(dtype) for key, tensor in published.state.items()}
    tensors = published.imported().tensors
    assert {tensors[name].dtype for name in tensors} == {torch.float32}
    assert torch.equal(tensors["reasoner.initial_answer"], published.state[prefix + "inner.H_init"].float())
    assert torch.equal(tensors["memory.rows"][3], published.state[prefix + ROWS][1].float())


def test_one_parameter_under_two_names_is_read(tmp_path: Path) -> None:
    published = Published(tmp_path)
    both = torch.nn.Parameter(torch.randn(12, 32, generator=torch.Generator().manual_seed(0)))
    published.state[PREFIX + EMBEDDING] = published.state[PREFIX + HEAD] = both
    tensors = published.imported().tensors
    assert torch.equal(tensors["reasoner.embedding"], both.detach())
    assert torch.equal(tensors["reasoner.head.weight"], both.detach())


def test_rows_shorter_than_the_features_are_filled_up_with_zeros(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.config["arch"]["puzzle_emb_ndim"] = 20
    published.state[PREFIX + ROWS] = published.state[PREFIX + ROWS][:, :20].clone()
    rows = published.imported().tensors["memory.rows"]
    assert torch.equal(rows[0], torch.cat((published.state[PREFIX + ROWS][4], torch.zeros(12))))


@pytest.mark.parametrize("nested", ["model", "state_dict", "model_state_dict", "ema_state_dict"])
def test_a_training_keeps_its_network_beside_other_things(tmp_path: Path, nested: str) -> None:
    published = Published(tmp_path)
    expected = published.imported().tensors
    other = {name: tensor + 1 for name, tensor in published.state.items()}
    step = {"state": {0: {"step": torch.tensor(3), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    published.state = {"epoch": 3, "optimizer": step, "model": other, nested: published.state}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in published.imported().tensors.items())


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    published = Published(tmp_path)
    expected = published.imported().tensors
    published.checkpoint = tmp_path / "model.safetensors"
    save_file(published.state, published.checkpoint)
    published.run()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_weights(published.out).tensors.items())


def test_without_identifiers_every_task_starts_from_the_mean_row(tmp_path: Path) -> None:
    published = Published(tmp_path)
    named = published.imported()
    said = import_checkpoint(published.checkpoint, published.yaml, None, tmp_path / "mean")
    assert said.endswith("trm, 16 memory tokens; new tasks start from the mean of 6 rows")
    weights, dataset = load_weights(tmp_path / "mean"), tiny_dataset()
    assert weights.task_ids == (UNKNOWN_TASK,)
    torch.testing.assert_close(weights.tensors["memory.rows"][0], named.tensors["memory.rows"].mean(0))
    network = make_network(weights.config.model, weights.config.memory, len(dataset.task_ids), len(dataset.transforms), 0)
    assert transplant(weights, network, dataset).startswith("task memory: 0 tasks by id")
    torch.testing.assert_close(
        network.state_dict()["memory.rows"], weights.tensors["memory.rows"].expand(len(dataset.transforms), -1)
    )


def test_a_single_row_is_that_of_the_puzzles(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.state[PREFIX + ROWS] = published.state[PREFIX + ROWS][:1].clone()
    published.write()
    assert "1 tasks, 1 views" in import_checkpoint(published.checkpoint, published.yaml, None, published.out)
    assert load_weights(published.out).task_ids == (PUZZLE_TASK,)


def drop(*names: str) -> Callable[[State], object]:
    return lambda state: [state.pop(PREFIX + name) for name in names]


def put(name: object, value: object) -> Callable[[State], object]:
    return lambda state: state.update({name: value})


def change(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[State], object]:
    return lambda state: state.update({PREFIX + name: function(state[PREFIX + name])})


def poison(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_fill(0, torch.tensor([1]), value)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (drop(LAYER), f"lacks {LAYER}"),
        (drop(EMBEDDING), f"{EMBEDDING} is missing, expected a matrix"),
        (drop("inner.H_init", "inner.L_init", "inner.q_head.bias", LAYER), "(and 1 more)"),
        (put("_orig_mod.model.inner.z_init", torch.ones(2)), "has inner.z_init, which the architecture of the config does not"),
        (put("inner.H_init", torch.ones(32)), "_orig_mod.model.inner.H_init and inner.H_init are both inner.H_init"),
        (lambda s: s.update(dict.fromkeys(("inner.a\nb", "model.inner.a\nb"), torch.ones(2))), r"are both 'inner.a\nb'"),
        (change(LAYER, lambda t: t.T), f"{LAYER} is (256, 32), expected (32, 256)"),
        (change(ROWS, lambda t: t[0]), f"{ROWS} is of shape (32,), expected a matrix"),
        (change(HEAD, lambda t: t[:11]), "inner.lm_head.weight is (11, 32), expected (12, 32)"),
        (change(LAYER, poison(float("nan"))), f"values that are not finite in {LAYER}"),
        (change("inner.H_init", lambda t: poison(float("-inf"))(t.bfloat16())), "not finite in inner.H_init"),
        (lambda state: state.update(Published(Path(), HRM).state), "has inner.H_level.layers.0.mlp.down_proj.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path: Path, fault: Callable[[State], object], reason: str) -> None:
    published = Published(tmp_path)
    fault(published.state)
    published.write()
    assert reason in published.refused(published.checkpoint)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("hidden_size", 64, ""),
        ("L_layers", 10**12, "L_layers = 1000000000000, but the checkpoint has 15 tensors"),
        ("expansion", 1e30, "no network can be made of this architecture: "),
        ("num_puzzle_identifiers", 8, "num_puzzle_identifiers = 8, expected 7"),
        ("vocab_size", "12", "vocab_size = '12', expected 12"),
    ],
)
def test_a_config_of_another_checkpoint_is_refused(tmp_path: Path, key: str, value: object, reason: str) -> None:
    published = Published(tmp_path)
    published.config["arch"][key] = value
    published.write()
    assert reason in published.refused(published.yaml if reason else published.checkpoint)


@pytest.mark.parametrize("missing", ["checkpoint", "yaml", "identifiers"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    published = Published(tmp_path)
    published.write()
    path: Path = getattr(published, missing)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{path}: no such file$"):
        published.run()
