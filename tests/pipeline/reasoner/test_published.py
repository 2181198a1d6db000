"""Published names and settings: what is translated and what is refused."""

import pytest
import torch

from pipeline.reasoner.published import MEMORY_ROWS, translate_config, translate_name, translate_weights
from pipeline.reasoner.trm import TRM

PUBLISHED = {
    "hidden_size": 16, "num_heads": 2, "expansion": 4, "L_layers": 2, "H_cycles": 3, "L_cycles": 6, "seq_len": 81,
    "vocab_size": 11, "mlp_t": False, "pos_encodings": "rope",
}  # fmt: skip


def test_every_parameter_of_ours_has_a_published_name() -> None:
    published = ["inner.embed_tokens.embedding_weight", "inner.lm_head.weight", "inner.q_head.weight", "inner.q_head.bias"]
    published += ["inner.H_init", "inner.L_init"]
    for layer in range(2):
        names = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
        published += [f"inner.L_level.layers.{layer}.{name}.weight" for name in names]
    ours = TRM(translate_config(PUBLISHED), torch.Generator().manual_seed(0)).state_dict()
    assert sorted(map(translate_name, published)) == sorted(ours)


def test_task_memory_is_no_part_of_the_translated_weights() -> None:
    tensor = torch.ones(2)
    assert list(translate_weights({MEMORY_ROWS: tensor, "inner.H_init": tensor})) == ["initial_answer"]


def test_a_foreign_parameter_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"published as 'inner\.H_level\.layers\.0\.mlp\.down_proj\.weight'"):
        translate_name("inner.H_level.layers.0.mlp.down_proj.weight")


def test_published_settings_become_ours() -> None:
    config = translate_config(PUBLISHED)
    assert (config.hidden_size, config.heads, config.expansion, config.layers) == (16, 2, 4.0, 2)
    assert (config.H_cycles, config.L_cycles, config.canvas_side, config.vocabulary) == (3, 6, 9, 11)
    assert (config.states, config.positions, config.convolution) == (2, "1d", 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("mlp_t", True), ("pos_encodings", "learned"), ("H_layers", 4), ("hidden_size", None), ("L_cycles", 2.5)],
)
def test_other_architectures_are_refused_by_the_setting_that_differs(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{key} = {value!r}"):
        translate_config({**PUBLISHED, key: value})


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ValueError, match="num_heads = None"):
        translate_config({key: value for key, value in PUBLISHED.items() if key != "num_heads"})
