"""Published names and settings: what is translated and what is refused."""

import re
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.published.names import translate_config
from tests.pipeline.published.examples import TRAINING

LEAST = {"hidden_size": 16, "num_heads": 2, "expansion": 4, "L_layers": 2, "H_cycles": 3, "L_cycles": 6, "vocab_size": 11}
TRM = LEAST | {
    "H_layers": 0, "seq_len": 16, "mlp_t": False, "pos_encodings": "rope", "puzzle_emb_ndim": 16, "puzzle_emb_len": 4,
    "no_ACT_continue": True, "halt_max_steps": 8, "halt_exploration_prob": 0.2,
}  # fmt: skip
MIXER = TRM | {"mlp_t": True, "pos_encodings": "none"}
HRM = {**LEAST, "H_layers": 2, "seq_len": 16, "pos_encodings": "rope", "halt_max_steps": 8, "halt_exploration_prob": 0.2}
URM = {"name": "urm.urm@URM", "hidden_size": 16, "num_heads": 2, "expansion": 4, "num_layers": 2, "H_cycles": 3, "L_cycles": 6}
URM |= {"vocab_size": 11, "seq_len": 16, "pos_encodings": "rope", "puzzle_emb_ndim": "${.hidden_size}", "loops": 8}
SHAPE = {"hidden_size": 16, "heads": 2, "expansion": 4.0, "layers": 2, "H_cycles": 3, "L_cycles": 6, "vocabulary": 11}


@pytest.mark.parametrize(
    ("published", "model", "tokens", "halting"),
    [
        (TRM, {}, 4, "learned"),
        (MIXER, {"mixing": "mixer", "positions": "none"}, 4, "learned"),
        (HRM, {"kind": "hrm", "gradient": "last-step"}, 1, "q-learning"),
        (URM | {"halt_exploration_prob": 0.2}, {"kind": "urm", "convolution": 2, "convolution_axes": "1d"}, 1, "learned"),
    ],
    ids=["trm", "mixer", "hrm", "urm"],
)
def test_an_architecture_becomes_a_config(
    published: dict[str, object], model: dict[str, object], tokens: int, halting: str
) -> None:
    expected: dict[str, Any] = {
        "model": SHAPE | {"canvas_side": 4} | model,
        "memory": {"kind": "table", "tokens": tokens},
        "train": {"segments": 8, "exploration": 0.2, "halting": halting, "canvas": "full"},
        "predict": {"segments": 8},
    }
    assert translate_config(published) == Config.from_json(expected)


def test_a_field_may_refer_to_another() -> None:
    assert translate_config(TRM | {"puzzle_emb_ndim": "${.hidden_size}"}) == translate_config(TRM)
    assert translate_config({"arch": TRM | {"puzzle_emb_ndim": "${arch.hidden_size}"}}).model == translate_config(TRM).model


def test_a_training_has_an_optimizer_too() -> None:
    optimizer = translate_config({"arch": TRM, **TRAINING}).optimizer
    assert (optimizer.rate, optimizer.memory_rate, optimizer.weight_decay, optimizer.memory_decay) == (2e-4, 0.03, 0.2, 0.4)
    assert (optimizer.beta1, optimizer.beta2, optimizer.warmup_steps, optimizer.ema) == (0.8, 0.96, 700, 0.99)
    assert translate_config(TRM).optimizer == Config().optimizer
    assert translate_config({"arch": TRM}).optimizer.ema == 0.0
    assert translate_config({"arch": URM | {"ema": True}}).optimizer.ema == Config().optimizer.ema


@pytest.mark.parametrize(
    ("published", "change", "setting", "expected"),
    [
        (LEAST, {}, "model.mixing", "attention"),
        (LEAST, {}, "model.positions", "1d"),
        (LEAST, {}, "memory.tokens", 16),
        (LEAST, {}, "train.segments", 16),
        (LEAST, {}, "train.exploration", 0.1),
        (LEAST, {}, "train.halting", "learned"),
        (LEAST, {"vocab_size": 12}, "model.canvas_side", 30),
        (LEAST, {"vocab_size": 6}, "model.canvas_side", 30),
        (LEAST, {"vocab_size": 99, "seq_len": 25}, "model.canvas_side", 5),
        (TRM, {"no_ACT_continue": False}, "train.halting", "q-learning"),
        (TRM, {"puzzle_emb_len": 0}, "memory.tokens", 1),
        (TRM, {"pos_encodings": "none"}, "model.positions", "none"),
        (MIXER, {"pos_encodings": "rope"}, "model.positions", "none"),
        (TRM, {"loss": {"loss_type": "softmax_cross_entropy"}}, "train.loss", "softmax"),
    ],
)
def test_one_setting_becomes_one_of_ours(
    published: dict[str, object], change: dict[str, object], setting: str, expected: object
) -> None:
    section, field = setting.split(".")
    assert getattr(getattr(translate_config(published | change), section), field) == expected


@pytest.mark.parametrize(
    ("published", "change", "message"),
    [
        *((TRM, {key: None}, f"published config lacks {key}") for key in LEAST if key != "vocab_size"),
        (LEAST, {"vocab_size": 99}, "seq_len = 0, expected the cells of a square canvas"),
        (TRM, {"hidden_size": True}, "hidden_size = True, expected a whole number"),
        (TRM, {"L_cycles": 2.5}, "model.L_cycles must be of type int, got 2.5"),
        (TRM, {"pos_encodings": "learned"}, "pos_encodings = 'learned', expected 'rope' or 'none'"),
        (TRM, {"mlp_t": "yes"}, "mlp_t = 'yes', expected False or True"),
        (HRM, {"mlp_t": True}, "mlp_t = True, expected False"),
        (HRM, {"H_layers": 3}, "H_layers = 3 and L_layers = 2, expected as many"),
        (TRM, {"puzzle_emb_ndim": 0}, "puzzle_emb_ndim = 0, expected 1..hidden_size = 16"),
        (TRM, {"halt_max_steps": 0}, "segments must be at least 1"),
        (TRM, {"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-06, expected 1e-05"),
        (TRM, {"rope_theta": "many"}, "rope_theta = 'many', expected 10000.0"),
        (
            TRM,
            {"loss": {"loss_type": "mse\nloss"}},
            r"loss_type = 'mse\nloss', expected 'stablemax_cross_entropy' or 'softmax_cross_entropy'",
        ),
        (TRM, {"arch": 3}, "arch = 3, expected a mapping"),
        (TRM, {"name": "recursive_reasoning.trm_singlez@Z"}, "is of 'trm_singlez'; TRM, HRM and URM can be imported"),
        (TRM, {"puzzle_emb_ndim": "${.width}"}, "puzzle_emb_ndim = None, expected a whole number"),
        ({"arch": TRM}, {"lr": "fast"}, "optimizer.rate must be of type float, got 'fast'"),
    ],
)
def test_what_is_missing_or_not_supported_is_named(
    published: dict[str, object], change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        translate_config(published | change)
