"""Imported checkpoints: they give what the published network gives, rows lie at task and view, and the rest is refused."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from augment.transform import Transform, transform_to_int
from pipeline.config import Config
from pipeline.models.layout import make_layout
from pipeline.models.network import Batch, make_network
from pipeline.models.task_memory import Views
from pipeline.published.checkpoint import Imported, import_checkpoint
from pipeline.tensor_files import read_tensors
from pipeline.weights import Weights, load_weights, save_weights, transplant
from tests.pipeline.tiny import tiny_store

FOLDER = Path(__file__).parents[2] / "golden"
ATTENTION, MIXER, HRM = "trm_attention", "trm_mixer", "hrm"
PREFIX = "_orig_mod.model."
ROWS = "inner.puzzle_emb.weights"
EMBEDDING = "inner.embed_tokens.embedding_weight"
NAMES = ["<blank>", "b", "b|||t3|||0463582197", "a|||t1|||0123456798", "a", "b|||t0|||0213456789", "a|||t6|||0689137425"]
VIEWS = [("a", "0.123456789", 4), ("a", "1.123456798", 3), ("a", "6.689137425", 6)]
VIEWS += [("b", "0.123456789", 1), ("b", "3.463582197", 2), ("b", "0.213456789", 5)]
"""Tasks and transforms of NAMES in our order, with their published rows."""
TRAINING = {
    "lr": 2e-4, "weight_decay": 0.2, "puzzle_emb_lr": 0.03, "puzzle_emb_weight_decay": 0.4, "beta1": 0.8, "beta2": 0.96,
    "lr_warmup_steps": 700, "ema": True, "ema_rate": 0.99, "global_batch_size": 768, "epochs": 10, "data_paths": ["data/arc"],
}  # fmt: skip

State = dict[str, Any]


def read_golden(name: str) -> tuple[dict[str, Tensor], State]:
    with safe_open(str(FOLDER / f"{name}.safetensors"), "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


def state_of(name: str, prefix: str = PREFIX) -> State:
    """The published state dict of a reference file."""
    tensors, _ = read_golden(name)
    return {prefix + key.removeprefix("param."): tensor for key, tensor in tensors.items() if key.startswith("param.")}


def arch_of(name: str) -> State:
    """The `arch` that training would have written, with the length where neither vocabulary nor mixer says it."""
    _, config = read_golden(name)
    for key in ("vocab_size", "num_puzzle_identifiers", *(["seq_len"] if name == MIXER else [])):
        del config[key]
    loss = {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}
    return {"name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1", "loss": loss, **config}


class Published:
    """The three files of a published training, to be changed before they are written."""

    def __init__(self, folder: Path, name: str = ATTENTION) -> None:
        self.folder = folder
        self.state = state_of(name)
        self.config: Any = {"arch": arch_of(name), **TRAINING}
        self.names: Any = [each.replace("|||", "_") for each in NAMES] if name == HRM else list(NAMES)
        self.checkpoint, self.yaml, self.identifiers = folder / "step_1", folder / "all_config.yaml", folder / "ids.json"

    def write(self) -> None:
        torch.save(self.state, self.checkpoint)
        self.yaml.write_text(yaml.dump(self.config))
        self.identifiers.write_text(json.dumps(self.names))

    def run(self) -> Imported:
        """Import the files as they lie there."""
        return import_checkpoint(self.checkpoint, self.yaml, self.identifiers, self.folder / "out" / "deep")

    def imported(self) -> Weights:
        self.write()
        return load_weights(self.run().path)

    def refused(self, path: Path) -> str:
        """The one line that refuses these files, which names `path`; nothing is left behind."""
        with pytest.raises(ValueError, match=r"\S") as caught:
            self.run()
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 700
        assert not (self.folder / "out").exists()
        return message


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


@pytest.mark.parametrize(("name", "kind", "tokens"), [(ATTENTION, "trm", 16), (MIXER, "trm", 16), (HRM, "hrm", 1)])
def test_an_imported_network_gives_what_the_published_one_gives(tmp_path: Path, name: str, kind: str, tokens: int) -> None:
    published = Published(tmp_path, name)
    published.write()
    result = published.run()
    assert result == Imported(kind, tasks=2, views=6, memory_tokens=tokens, path=tmp_path / "out/deep/weights.safetensors")
    expected = read_golden(name)[0]["eval.step1.logits"]
    logits = first_segment(load_weights(result.path), name).reshape(expected.shape)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", [ATTENTION, HRM])
def test_rows_land_at_their_task_and_transform(tmp_path: Path, name: str) -> None:
    weights = Published(tmp_path, name).imported()
    assert (weights.task_ids, weights.transform_start.tolist()) == (("a", "b"), [0, 3, 6])
    assert weights.transforms.tolist() == [transform_to_int(Transform.parse(code)) for _, code, _ in VIEWS]
    rows = state_of(name)[PREFIX + ROWS]
    assert torch.equal(weights.tensors["memory.rows"], rows[[row for _, _, row in VIEWS]])


def test_what_is_written_looks_like_any_weights_file(tmp_path: Path) -> None:
    weights = Published(tmp_path).imported()
    tensors, metadata = read_tensors(weights.path)
    store, ours = tiny_store(), tmp_path / "ours.safetensors"
    network = make_network(weights.config.model, weights.config.memory, len(store.task_ids), len(store.transforms), 0)
    save_weights(ours, network.state_dict(), weights.config, store, 0)
    own_tensors, own_metadata = read_tensors(ours)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: each.dtype for name, each in own_tensors.items()}
    assert metadata.keys() == own_metadata.keys()
    assert (metadata["format"], metadata["config"]) == (own_metadata["format"], own_metadata["config"])
    assert (weights.step, weights.data_hash) == (0, "imported")
    happened = transplant(weights, network, store)
    assert (happened.known, happened.unused) == (0, 2)


def test_settings_of_the_training_are_kept(tmp_path: Path) -> None:
    config = Published(tmp_path).imported().config
    model, memory, train, optimizer = config.model, config.memory, config.train, config.optimizer
    assert (model.hidden_size, model.heads, model.layers, model.H_cycles, model.L_cycles) == (32, 2, 2, 3, 4)
    assert (model.canvas_side, model.vocabulary, model.positions) == (6, 12, "1d")
    assert (memory.kind, memory.tokens, train.canvas, train.halting, train.loss) == (
        "table",
        16,
        "full",
        "learned",
        "stablemax",
    )
    assert (train.segments, config.predict.segments, train.exploration) == (4, 4, 0.0)
    assert (optimizer.rate, optimizer.memory_rate, optimizer.weight_decay, optimizer.memory_decay) == (2e-4, 0.03, 0.2, 0.4)
    assert (optimizer.beta1, optimizer.beta2, optimizer.warmup_steps, optimizer.ema) == (0.8, 0.96, 700, 0.99)


def test_hrm_halts_by_q_learning_and_has_no_average_unless_it_says_so(tmp_path: Path) -> None:
    published = Published(tmp_path, HRM)
    del published.config["ema"], published.config["lr"]
    published.config["arch"]["loss"]["loss_type"] = "softmax_cross_entropy"
    config = published.imported().config
    assert (config.train.halting, config.train.loss, config.model.gradient) == ("q-learning", "softmax", "last-step")
    assert (config.optimizer.ema, config.optimizer.rate) == (0.0, Config().optimizer.rate)


def test_a_config_of_the_architecture_alone_leaves_the_optimizer_as_it_is(tmp_path: Path) -> None:
    published = Published(tmp_path)
    whole = published.imported()
    published.config = published.config["arch"]
    alone = published.imported()
    assert alone.config.optimizer == Config().optimizer != whole.config.optimizer
    assert (alone.config.model, alone.config.train) == (whole.config.model, whole.config.train)


def test_a_dataset_beside_the_architecture_is_read(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.config |= {"seq_len": published.config["arch"].pop("seq_len"), "vocab_size": 12, "num_puzzle_identifiers": 7}
    assert published.imported().config.model.canvas_side == 6


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.config["arch"] |= {"rms_norm_eps": "1e-5", "rope_theta": 10_000}
    published.config["lr"] = "3e-4"
    assert published.imported().config.optimizer.rate == 3e-4


@pytest.mark.parametrize(("vocabulary", "side"), [(12, 30), (11, 9), (6, 30)])
def test_the_canvas_follows_from_the_vocabulary_where_nothing_else_says_it(tmp_path: Path, vocabulary: int, side: int) -> None:
    published = Published(tmp_path)
    del published.config["arch"]["seq_len"]
    for name in (EMBEDDING, "inner.lm_head.weight"):
        published.state[PREFIX + name] = published.state[PREFIX + name][:vocabulary].clone()
    model = published.imported().config.model
    assert (model.canvas_side, model.vocabulary) == (side, vocabulary)


def test_a_trm_that_does_not_say_its_memory_tokens_has_sixteen(tmp_path: Path) -> None:
    for name in (ATTENTION, MIXER):
        published = Published(tmp_path, name)
        del published.config["arch"]["puzzle_emb_len"]
        assert published.imported().config.memory.tokens == 16
    published = Published(tmp_path)
    published.config["arch"]["puzzle_emb_len"] = 0
    assert published.imported().config.memory.tokens == 1


def test_the_blank_row_alone_belongs_to_the_puzzles(tmp_path: Path) -> None:
    published = Published(tmp_path, MIXER)
    published.names, published.state[PREFIX + ROWS] = ["<blank>"], published.state[PREFIX + ROWS][2:3]
    weights = published.imported()
    assert (weights.task_ids, weights.transforms.tolist(), weights.transform_start.tolist()) == (("puzzle",), [0], [0, 1])
    assert torch.equal(weights.tensors["memory.rows"], published.state[PREFIX + ROWS])


@pytest.mark.parametrize(
    "prefix", ["", "model.", "module.", "_orig_mod.", "module._orig_mod.model.", "_orig_mod.module.model."]
)
def test_prefixes_do_not_matter(tmp_path: Path, prefix: str) -> None:
    expected = Published(tmp_path).imported().tensors
    published = Published(tmp_path)
    published.state = state_of(ATTENTION, prefix)
    tensors = published.imported().tensors
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    published = Published(tmp_path)
    published.state = {key: tensor.to(dtype) for key, tensor in published.state.items()}
    weights = published.imported()
    assert {tensor.dtype for name, tensor in weights.tensors.items()} == {torch.float32}
    assert torch.equal(weights.tensors["reasoner.initial_answer"], published.state[PREFIX + "inner.H_init"].float())
    assert torch.equal(weights.tensors["memory.rows"][3], published.state[PREFIX + ROWS][1].float())


def test_parameters_of_one_storage_and_files_of_the_older_format_are_read(tmp_path: Path) -> None:
    published = Published(tmp_path)
    both = torch.nn.Parameter(torch.randn(12, 32, generator=torch.Generator().manual_seed(0)))
    published.state[PREFIX + EMBEDDING] = published.state[PREFIX + "inner.lm_head.weight"] = both
    tensors = published.imported().tensors
    torch.save(published.state, published.checkpoint, _use_new_zipfile_serialization=False)
    older = load_weights(published.run().path).tensors
    assert all(torch.equal(tensors[name], older[name]) for name in tensors)
    assert torch.equal(tensors["reasoner.embedding"], both.detach())


def test_rows_shorter_than_the_features_are_filled_up_with_zeros(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.config["arch"]["puzzle_emb_ndim"] = 20
    published.state[PREFIX + ROWS] = published.state[PREFIX + ROWS][:, :20].clone()
    rows = published.imported().tensors["memory.rows"]
    assert torch.equal(rows[0], torch.cat((published.state[PREFIX + ROWS][4], torch.zeros(12))))


def test_tables_of_many_rows_are_taken_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Published(tmp_path).imported().tensors["memory.rows"]
    monkeypatch.setattr("pipeline.published.checkpoint._ROWS_AT_ONCE", 4)
    assert torch.equal(Published(tmp_path).imported().tensors["memory.rows"], expected)


def drop(*names: str) -> Callable[[State], object]:
    return lambda state: [state.pop(PREFIX + name) for name in names]


def put(name: str, value: object) -> Callable[[State], object]:
    return lambda state: state.update({name: value})


def change(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[State], object]:
    return lambda state: state.update({PREFIX + name: function(state[PREFIX + name])})


def poison(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_fill(0, torch.tensor([1]), value)


LAYER = "inner.L_level.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (drop(LAYER), f"lacks {LAYER}"),
        (drop(EMBEDDING), f"{EMBEDDING} is missing, expected a matrix"),
        (drop(ROWS), f"{ROWS} is missing, expected a matrix"),
        (drop("inner.H_init", "inner.L_init", "inner.q_head.bias", LAYER), "(and 1 more)"),
        (put("_orig_mod.model.inner.z_init", torch.ones(2)), "has inner.z_init, which the architecture of the config does not"),
        (put("optimizer.inner.H_init", torch.ones(2)), "has optimizer.inner.H_init, which"),
        (put("inner.H_init", torch.ones(32)), "_orig_mod.model.inner.H_init and inner.H_init are both inner.H_init"),
        (lambda s: s.update(dict.fromkeys(("inner.a\nb", "model.inner.a\nb"), torch.ones(2))), r"are both 'inner.a\nb'"),
        (change(LAYER, lambda t: t.T), f"{LAYER} is (256, 32), expected (32, 256)"),
        (change(LAYER, lambda t: t[:, :255]), f"{LAYER} is (32, 255), expected (32, 256)"),
        (change(ROWS, lambda t: t[:, :31]), f"{ROWS} is (7, 31), expected (7, 32)"),
        (change(ROWS, lambda t: t[0]), f"{ROWS} is of shape (32,), expected a matrix"),
        (change("inner.q_head.bias", lambda t: t[0]), "inner.q_head.bias is (), expected (2,)"),
        (change("inner.lm_head.weight", lambda t: t[:11]), "inner.lm_head.weight is (11, 32), expected (12, 32)"),
        (change(LAYER, poison(float("nan"))), f"values that are not finite in {LAYER}"),
        (change(ROWS, poison(float("inf"))), f"values that are not finite in {ROWS}"),
        (change("inner.H_init", lambda t: poison(float("-inf"))(t.bfloat16())), "not finite in inner.H_init"),
        (change(LAYER, lambda t: t.long()), f"{PREFIX}{LAYER} is torch.int64"),
        (change(LAYER, lambda t: t.to_sparse()), f"{PREFIX}{LAYER} is torch.float32 (torch.sparse_coo, cpu)"),
        (change(LAYER, lambda t: t.to("meta")), f"{PREFIX}{LAYER} is torch.float32 (torch.strided, meta)"),
        (put("step", 3), "expected a flat dict of tensors, but step has int"),
        (put("model", {}), "expected a flat dict of tensors, but model has dict"),
        (lambda state: state.update({3: torch.ones(2)}), "expected tensors by name, but a key is of type int"),
        (lambda state: state.clear(), f"{EMBEDDING} is missing"),
    ],
)
def test_other_tensors_are_refused_by_name(tmp_path: Path, fault: Callable[[State], object], reason: str) -> None:
    published = Published(tmp_path)
    fault(published.state)
    published.write()
    assert reason in published.refused(published.checkpoint)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.state = state_of(HRM)
    published.write()
    assert "has inner.H_level.layers.0.mlp.down_proj.weight" in published.refused(published.checkpoint)
    published.state = state_of(MIXER)
    published.write()
    assert "lacks inner.L_level.layers.0.self_attn.qkv_proj.weight" in published.refused(published.checkpoint)


class Evil:
    """Pickled as a call."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return print, ("called",)


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), None, {"a": Evil()}, np.ones(2)])
def test_what_is_no_state_dict_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object
) -> None:
    published = Published(tmp_path)
    published.write()
    torch.save(content, published.checkpoint)
    message = published.refused(published.checkpoint)
    assert "state dict" in message and "weights_only" not in message
    assert "called" not in capsys.readouterr().out


LARGE = "tuple of more than 1000 values"


@pytest.mark.parametrize(
    ("around", "reason"),
    [
        (b"q\x01h\x01\x86" * 60, LARGE),
        (b"q\x01h\x01h\x01\x87" * 40, LARGE),
        (b"\x85" * 2_000_000, LARGE),
        (b"(" + b"N" * 1001 + b"t", LARGE),
        (b"(" + b"N" * 20_000 + b"l", "more than 20,000 operations"),
        (b"t", "takes what is not there"),
    ],
    ids=["pairs", "triples", "deep", "long", "endless", "short"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_keep_us_busy_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, around: bytes, reason: str, zipped: bool
) -> None:
    monkeypatch.setattr("pipeline.published.pickle_check.MOST_OPERATIONS", 20_000)
    published = Published(tmp_path)
    published.write()
    state = b"\x80\x02}X\x01\x00\x00\x00x" + around + b"Ns."
    torch.save(published.state, published.checkpoint, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(published.checkpoint) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(published.checkpoint, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, state if name.endswith("data.pkl") else content)
    else:  # magic number, protocol, system, state
        with published.checkpoint.open("rb") as file:
            before = [pickle.dumps(pickle.load(file), protocol=2) for _ in range(3)]
        published.checkpoint.write_bytes(b"".join(before) + state)
    assert reason in published.refused(published.checkpoint)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    published = Published(tmp_path)
    published.write()
    torch.save(published.state, published.checkpoint, _use_new_zipfile_serialization=zipped)
    content = published.checkpoint.read_bytes()
    published.checkpoint.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in published.refused(published.checkpoint)


@pytest.mark.filterwarnings("error")
@given(content=st.binary(max_size=200) | st.binary(max_size=200).map(lambda end: b"PK\x03\x04" + end))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    published = Published(tmp_path_factory.mktemp("noise"))
    published.write()
    published.checkpoint.write_bytes(content)
    published.refused(published.checkpoint)


def test_a_checkpoint_with_broken_bytes_is_imported_or_refused_in_one_line(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.write()
    content = published.checkpoint.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(40):
        broken = bytearray(content)
        for place in rng.integers(len(content), size=2000):
            broken[place] = rng.integers(256)
        published.checkpoint.write_bytes(broken)
        try:
            published.run()
        except ValueError as error:
            assert str(error).startswith(f"{published.checkpoint}: ") and "\n" not in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("arch.hidden_size", None, "hidden_size = None"),
        ("arch.hidden_size", 64, ""),
        ("arch.L_layers", 10**12, "L_layers = 1000000000000, but the checkpoint has 15 tensors"),
        ("arch.num_heads", 0, "heads must be at least 1"),
        ("arch.expansion", float("nan"), "expansion must be finite"),
        ("arch.expansion", 1e30, "no network can be made of this architecture: "),
        ("arch.pos_encodings", "learned", "pos_encodings = 'learned'"),
        ("arch.rms_norm_eps", 1e-6, "rms_norm_eps = 1e-06; only 1e-05 is supported"),
        ("arch.rope_theta", "many", "rope_theta = many; only 10000.0 is supported"),
        ("arch.seq_len", 35, "seq_len = 35"),
        ("arch.puzzle_emb_ndim", 64, "puzzle_emb_ndim = 64"),
        ("arch.num_puzzle_identifiers", 8, "num_puzzle_identifiers = 8, but the memory has 7 rows"),
        ("arch.halt_max_steps", 0, "segments must be at least 1"),
        ("arch.loss", {"name": "x"}, "loss_type = None, expected one of stablemax_cross_entropy, softmax_cross_entropy"),
        ("arch.loss", {"loss_type": "mse\nloss"}, r"loss_type = 'mse\nloss', expected one of"),
        ("arch", 3, "arch is 3, expected a mapping"),
        ("lr", "fast", "optimizer.rate must be of type float, got 'fast'"),
        ("lr", -1.0, "optimizer rate must not be negative"),
        ("ema", "yes", "ema = yes, expected true or false"),
        ("ema_rate", 1.0, "optimizer ema must be in [0, 1)"),
        ("vocab_size", "12", "vocab_size = '12'"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, place: str, value: object, reason: str) -> None:
    published = Published(tmp_path)
    section, _, key = place.rpartition(".")
    (published.config[section] if section else published.config)[key] = value
    published.write()
    assert reason in published.refused(published.yaml if reason else published.checkpoint)


def test_a_mixer_of_no_square_canvas_is_refused(tmp_path: Path) -> None:
    published = Published(tmp_path, MIXER)
    published.config["arch"]["puzzle_emb_len"] = 15
    published.write()
    assert "seq_len = 17, expected the cells of a square canvas" in published.refused(published.yaml)
    published.config["arch"] |= {"puzzle_emb_len": 16, "seq_len": 9}
    published.write()
    assert "mlp_t.gate_up_proj.weight is (512, 32), expected (512, 25)" in published.refused(published.checkpoint)


@pytest.mark.parametrize(
    "content",
    [b"", b"3", b"[1, 2]", b"arch: [", b"a: b: c", b"\xff\xff", b"\x00", b"x: !!python/name:os.system", b"? [a]\n: 1",
     b"a: 2001-99-99", b"[" * 1000, b"a: &a [*b]"],
)  # fmt: skip
def test_a_config_that_is_no_yaml_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    published = Published(tmp_path)
    published.write()
    published.yaml.write_bytes(content)
    published.refused(published.yaml)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (NAMES[:-1], "6 identifiers, expected 7, one for each row of the task memory"),
        ([*NAMES, "c"], "8 identifiers, expected 7"),
        (NAMES[1:] + NAMES[:1], "identifier 0 is b, expected <blank>"),
        ([*NAMES[:-1], "a|||t6|||0689137424"], "'a|||t6|||0689137424' is no view"),
        ([*NAMES[:-1], "b|||t3|||0463582197"], "identifiers 2 and 6, .* are the same view"),
        ("<blank>", "expected a list of names or an object of names and numbers, got a string"),
    ],
)
def test_other_identifiers_are_refused(tmp_path: Path, names: object, reason: str) -> None:
    published = Published(tmp_path)
    published.names = names
    published.write()
    message = published.refused(published.identifiers)
    assert all(part in message for part in reason.split(".*"))


@pytest.mark.parametrize("missing", ["checkpoint", "yaml", "identifiers"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    published = Published(tmp_path)
    published.write()
    path: Path = getattr(published, missing)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{path}: no such file$"):
        published.run()
