"""Published names and settings: what is translated and what is refused."""

import re
from collections.abc import Mapping

import pytest
import torch

from pipeline.models.config import ReasonerConfig
from pipeline.models.network import REASONERS
from pipeline.published.names import MEMORY_ROWS, PublishedConfig, translate_config, translate_name, translate_weights

LEAST = {"hidden_size": 16, "num_heads": 2, "expansion": 4, "L_layers": 2, "H_cycles": 3, "L_cycles": 6, "vocab_size": 11}
TRM = LEAST | {
    "H_layers": 0, "seq_len": 16, "mlp_t": False, "pos_encodings": "rope", "puzzle_emb_ndim": 16, "puzzle_emb_len": 4,
    "no_ACT_continue": True, "halt_max_steps": 8, "halt_exploration_prob": 0.2,
}  # fmt: skip
MIXER = TRM | {"mlp_t": True, "pos_encodings": "none"}
HRM = {**LEAST, "H_layers": 2, "seq_len": 16, "pos_encodings": "rope", "halt_max_steps": 8, "halt_exploration_prob": 0.2}
ATTENTION = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
MIXING = ("mlp_t.gate_up_proj", "mlp_t.down_proj", "mlp.gate_up_proj", "mlp.down_proj")


def without(published: Mapping[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in published.items() if key not in keys}


@pytest.mark.parametrize(
    ("published", "stacks", "parts"),
    [(TRM, ("L",), ATTENTION), (MIXER, ("L",), MIXING), (HRM, ("L", "H"), ATTENTION)],
    ids=["trm", "mixer", "hrm"],
)
def test_every_parameter_of_ours_has_a_published_name(
    published: dict[str, object], stacks: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    names = ["inner.embed_tokens.embedding_weight", "inner.lm_head.weight", "inner.q_head.weight", "inner.q_head.bias"]
    names += ["inner.H_init", "inner.L_init"]
    names += [f"inner.{stack}_level.layers.{i}.{part}.weight" for stack in stacks for i in range(2) for part in parts]
    config = translate_config(published)
    reasoner = REASONERS[config.model.kind](config.model, config.memory_tokens, torch.Generator().manual_seed(0))
    assert sorted(map(translate_name, names)) == sorted(reasoner.state_dict())


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("inner.H_init", "initial_answer"),
        ("inner.L_init", "initial_latent"),
        ("inner.q_head.bias", "halting_head.bias"),
        ("inner.H_level.layers.3.self_attn.o_proj.weight", "answer_blocks.3.attention.out.weight"),
        ("inner.L_level.layers.12.self_attn.qkv_proj.weight", "blocks.12.attention.qkv.weight"),
        ("inner.L_level.layers.0.mlp_t.down_proj.weight", "blocks.0.mixer.feed_forward.down.weight"),
        ("inner.L_level.layers.0.mlp.gate_up_proj.weight", "blocks.0.feed_forward.gate_up.weight"),
    ],
)
def test_names_of_both_levels_are_translated(published: str, ours: str) -> None:
    assert translate_name(published) == ours


def test_task_memory_is_no_part_of_the_translated_weights() -> None:
    tensor = torch.ones(2)
    assert list(translate_weights({MEMORY_ROWS: tensor, "inner.H_init": tensor})) == ["initial_answer"]


@pytest.mark.parametrize(
    "name",
    [
        "inner.M_level.layers.0.mlp.down_proj.weight",
        "inner.L_level.layers.0.mlp.down_proj.bias",
        "inner.L_level.layers.0.mlp.o_proj.weight",
        "inner.embed_pos.embedding_weight",
        "module.inner.H_init",
    ],
)
def test_a_foreign_parameter_is_named_in_the_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"published as {re.escape(repr(name))}"):
        translate_name(name)


SHARED = {
    "hidden_size": 16, "heads": 2, "expansion": 4.0, "layers": 2, "H_cycles": 3, "L_cycles": 6, "canvas_side": 4,
    "vocabulary": 11,
}  # fmt: skip


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        (TRM, PublishedConfig(ReasonerConfig(**SHARED), 4, 8, 0.2, "learned")),
        (MIXER, PublishedConfig(ReasonerConfig(mixing="mixer", positions="none", **SHARED), 4, 8, 0.2, "learned")),
        (HRM, PublishedConfig(ReasonerConfig(kind="hrm", gradient="last-step", **SHARED), 1, 8, 0.2, "q-learning")),
    ],
    ids=["trm", "mixer", "hrm"],
)
def test_published_settings_become_ours(published: dict[str, object], ours: PublishedConfig) -> None:
    config = translate_config(published)
    assert config == ours
    assert type(config.model.expansion) is float


def test_what_is_not_given_is_as_the_published_code_has_it() -> None:
    least = translate_config(LEAST)
    assert (least.model.kind, least.model.mixing, least.model.positions) == ("trm", "attention", "1d")
    assert (least.memory_tokens, least.segments, least.exploration, least.halting) == (16, 16, 0.1, "learned")
    high = translate_config({**LEAST, "H_layers": 2})
    assert (high.model.kind, high.model.positions) == ("hrm", "1d")
    assert (high.memory_tokens, high.segments, high.exploration, high.halting) == (1, 16, 0.1, "q-learning")


@pytest.mark.parametrize(("vocabulary", "side"), [(12, 30), (11, 9), (6, 30)])
def test_the_vocabulary_tells_the_canvas(vocabulary: int, side: int) -> None:
    assert translate_config({**LEAST, "vocab_size": vocabulary}).model.canvas_side == side
    assert translate_config({**LEAST, "vocab_size": vocabulary, "seq_len": 4}).model.canvas_side == 2


@pytest.mark.parametrize(
    ("published", "change", "field", "expected"),
    [
        (TRM, {"no_ACT_continue": False}, "halting", "q-learning"),
        (HRM, {"no_ACT_continue": True}, "halting", "learned"),
        (TRM, {"puzzle_emb_len": 0}, "memory_tokens", 1),
        (TRM, {"halt_exploration_prob": 0}, "exploration", 0.0),
    ],
)
def test_one_setting_becomes_one_of_ours(
    published: dict[str, object], change: dict[str, object], field: str, expected: object
) -> None:
    assert getattr(translate_config(published), field) != expected
    assert getattr(translate_config(published | change), field) == expected


def test_a_mixer_has_no_positions_whatever_is_published() -> None:
    assert translate_config({**MIXER, "pos_encodings": "rope"}) == translate_config(MIXER)
    assert translate_config({**TRM, "pos_encodings": "none"}).model.positions == "none"


@pytest.mark.parametrize(
    ("published", "key", "value", "message"),
    [
        (TRM, "hidden_size", None, "hidden_size = None, expected an int"),
        (TRM, "hidden_size", True, "hidden_size = True, expected an int"),
        (TRM, "L_cycles", 2.5, "L_cycles = 2.5, expected an int"),
        (TRM, "num_heads", -2, "num_heads = -2, expected an int"),
        (TRM, "expansion", "4", "expansion = '4', expected a number"),
        (TRM, "H_layers", "4", "H_layers = '4', expected an int"),
        (TRM, "pos_encodings", "learned", "pos_encodings = 'learned'; expected 'rope' or 'none'"),
        (MIXER, "pos_encodings", "learned", "pos_encodings = 'learned'; expected 'rope' or 'none'"),
        (TRM, "mlp_t", "yes", "mlp_t = 'yes'; only TRM has it, as true or false"),
        (HRM, "mlp_t", True, "mlp_t = True; only TRM has it"),
        (HRM, "H_layers", 3, "H_layers = 3 and L_layers = 2, expected as many"),
        (TRM, "puzzle_emb_ndim", 17, "puzzle_emb_ndim = 17, expected 1..hidden_size = 16"),
        (TRM, "puzzle_emb_ndim", 0, "puzzle_emb_ndim = 0, expected 1..hidden_size = 16"),
        (TRM, "seq_len", 15, "seq_len = 15, expected the cells of a square canvas"),
        (TRM, "seq_len", 0, "seq_len = 0, expected the cells of a square canvas"),
        (TRM, "halt_max_steps", 1.5, "halt_max_steps = 1.5, expected an int"),
        (TRM, "halt_exploration_prob", None, "halt_exploration_prob = None, expected a number"),
        (TRM, "no_ACT_continue", "false", "no_ACT_continue = 'false', expected true or false"),
    ],
)
def test_other_architectures_are_refused_by_the_setting_that_differs(
    published: dict[str, object], key: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"published config has {message}")):
        translate_config({**published, key: value})


def test_a_network_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size"):
        translate_config({**LEAST, "hidden_size": 0})


@pytest.mark.parametrize("key", LEAST)
def test_a_missing_setting_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} = None"):
        translate_config(without(TRM, key))


def test_an_unknown_vocabulary_needs_the_length_of_sequences() -> None:
    with pytest.raises(ValueError, match="seq_len = 0"):
        translate_config({**LEAST, "vocab_size": 99})
    assert translate_config({**LEAST, "vocab_size": 99, "seq_len": 25}).model.canvas_side == 5
