"""Names and settings of the authors' published TRM, HRM and URM code, translated to ours, so that their weights load."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from augment.errors import InputError
from eval.formatting import show_value
from pipeline.config import Config, OptimizerConfig
from pipeline.models.attention import ROPE_THETA
from pipeline.models.config import ReasonerConfig
from pipeline.models.layers import NORM_EPSILON

EMBEDDING = "inner.embed_tokens.embedding_weight"
MEMORY_ROWS = "inner.puzzle_emb.weights"
MIXER = "inner.L_level.layers.0.mlp_t.down_proj.weight"
TRM_MEMORY_TOKENS = 16
"""`puzzle_emb_len` of a TRM that does not set it."""
_NAMES = {
    EMBEDDING: "embedding",
    "inner.lm_head.weight": "head.weight",
    "inner.q_head.weight": "halting_head.weight",
    "inner.q_head.bias": "halting_head.bias",
}
_STATES = {"inner.H_init": "initial_answer", "inner.L_init": "initial_latent"}
_URM_STATES = {"inner.init_hidden": "initial_latent"}
_BLOCKS = {"L": "blocks", "H": "answer_blocks"}
_PARTS = {
    "self_attn.qkv_proj": "attention.qkv",
    "self_attn.o_proj": "attention.out",
    "mlp_t.gate_up_proj": "mixer.feed_forward.gate_up",
    "mlp_t.down_proj": "mixer.feed_forward.down",
    "mlp.gate_up_proj": "feed_forward.gate_up",
    "mlp.down_proj": "feed_forward.down",
}
_CONVOLUTION = {f"mlp.dwconv.{name}": f"feed_forward.convolution.{name}" for name in ("weight", "bias")}
CONVOLUTION = "inner.layers.0.mlp.dwconv.weight"
_CANVAS_SIDES = {12: 30, 11: 9, 6: 30}
"""Side of the published canvases by vocabulary: ARC, Sudoku, mazes."""
_LOSSES = {"stablemax_cross_entropy": "stablemax", "softmax_cross_entropy": "softmax"}
_OPTIMIZER = {
    "lr": "rate",
    "weight_decay": "weight_decay",
    "puzzle_emb_lr": "memory_rate",
    "puzzle_emb_weight_decay": "memory_decay",
    "beta1": "beta1",
    "beta2": "beta2",
    "lr_warmup_steps": "warmup_steps",
}
_DATASET = ("seq_len", "vocab_size", "num_puzzle_identifiers")
"""Fields of an architecture that the authors' training takes from its dataset; a file may have them at either level."""
_FIXED = {"rms_norm_eps": NORM_EPSILON, "rope_theta": ROPE_THETA}
_KINDS = ("trm", "hrm_act_v1", "hrm", "urm")
"""The modules of the authors' architectures that can be imported, as `arch.name` has them before the @."""
_REQUIRED = ("hidden_size", "num_heads", "expansion", "L_layers", "H_cycles", "L_cycles")
_URM_FIELDS = {"num_layers": "L_layers", "loops": "halt_max_steps"}
"""What a URM calls otherwise."""


def parameter_names(model: ReasonerConfig) -> dict[str, str]:
    """Return our name of each parameter of a TRM, HRM or URM by its published name; the task memory is left out."""
    unused = "self_attn" if model.mixing == "mixer" else "mlp_t"
    if model.kind == "urm":
        parts = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _PARTS.items() if not theirs.startswith("mlp_t.")}
        return (
            _NAMES
            | _URM_STATES
            | {
                f"inner.layers.{layer}.{published}": f"blocks.{layer}.{ours}"
                for layer in range(model.layers)
                for published, ours in (parts | _CONVOLUTION).items()
            }
        )
    return (
        _NAMES
        | _STATES
        | {
            f"inner.{level}_level.layers.{layer}.{published}.weight": f"{_BLOCKS[level]}.{layer}.{ours}.weight"
            for level in ("LH" if model.kind == "hrm" else "L")
            for layer in range(model.layers)
            for published, ours in _PARTS.items()
            if not published.startswith(f"{unused}.")
        }
    )


def translate_config(document: Mapping[str, Any], found: Mapping[str, int] | None = None) -> Config:
    """Return our config of a published one: of a training, with optimizer and dataset settings, or of its `arch` only.

    `found` holds the fields of `arch` that the tensors determine, which the document may leave out but not contradict, and
    `mixer_length`, the number of cells and memory tokens that a mixer mixes. Other fields default to those of the published
    code. An architecture with layers of the high level is HRM. Raises InputError, naming the field, if one is missing or has
    a value that is not supported.
    """
    arch = document.get("arch", document)
    if not isinstance(arch, Mapping):
        raise InputError(f"published config has arch = {show_value(arch)}, expected a mapping")
    arch = {name: document[name] for name in _DATASET if name in document} | dict(arch)
    arch = {name: _resolve(value, arch) for name, value in arch.items()}
    kind = str(arch.get("name", "trm")).partition("@")[0].rpartition(".")[2]
    if kind not in _KINDS:
        raise InputError(f"published config is of {show_value(kind)}; TRM, HRM and URM can be imported ({', '.join(_KINDS)})")
    if kind == "urm":
        arch = {ours: arch[theirs] for theirs, ours in _URM_FIELDS.items() if theirs in arch} | arch
    known = _FIXED | dict(found or {})
    for name, value in known.items():
        if arch.get(name, value) != value:
            raise InputError(f"published config has {name} = {show_value(arch[name])}, expected {value}")
    missing = [name for name in _REQUIRED if arch.get(name) is None]
    if missing:
        raise InputError(f"published config lacks {', '.join(missing)}")
    optimizer = {ours: document[theirs] for theirs, ours in _OPTIMIZER.items() if document.get(theirs) is not None}
    if "arch" in document or "ema" in document:
        averaged = _one_of(arch | dict(document), "ema", (False, True))
        optimizer["ema"] = document.get("ema_rate", OptimizerConfig.ema) if averaged else 0.0
    derived = {"mixer_length": known.get("mixer_length", 0), "convolution": known.get("convolution", 2 if kind == "urm" else 0)}
    sections = _translate_architecture(known | arch | derived)
    return Config.from_json(sections | {"optimizer": optimizer})


def _translate_architecture(arch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of our config that a published architecture determines."""

    def count(key: str, default: int | None = None) -> int:
        value = arch.get(key, default)
        if type(value) is not int or value < 0:
            raise InputError(f"published config has {key} = {show_value(value)}, expected a whole number")
        return value

    hidden_size, layers, high_layers = count("hidden_size"), count("L_layers"), count("H_layers", 0)
    hrm, convolution = high_layers > 0, count("convolution")
    if hrm and high_layers != layers:
        raise InputError(f"published config has H_layers = {high_layers} and L_layers = {layers}, expected as many")
    features = count("puzzle_emb_ndim", hidden_size)
    if not 0 < features <= hidden_size:
        raise InputError(f"published config has puzzle_emb_ndim = {features}, expected 1..hidden_size = {hidden_size}")
    mixer = _one_of(arch, "mlp_t", (False,) if hrm else (False, True))
    rope = _one_of(arch, "pos_encodings", ("rope", "none")) == "rope"
    learned = _one_of(arch, "no_ACT_continue", (not hrm, hrm))
    loss = arch.get("loss", "stablemax_cross_entropy")
    loss = _one_of({"loss_type": loss.get("loss_type") if isinstance(loss, Mapping) else loss}, "loss_type", tuple(_LOSSES))
    tokens = count("puzzle_emb_len", 0 if hrm or convolution else TRM_MEMORY_TOKENS) or 1
    vocabulary = count("vocab_size")
    canvas_cells = _CANVAS_SIDES.get(vocabulary, 0) ** 2
    if mixer and arch["mixer_length"]:
        canvas_cells = max(0, arch["mixer_length"] - tokens)
    cells = count("seq_len", canvas_cells)
    side = math.isqrt(cells)
    if not cells or side * side != cells:
        raise InputError(f"published config has seq_len = {cells}, expected the cells of a square canvas")
    segments = arch.get("halt_max_steps", 16)
    return {
        "model": {
            "kind": "hrm" if hrm else "urm" if convolution else "trm",
            "hidden_size": hidden_size,
            "heads": arch["num_heads"],
            "expansion": arch["expansion"],
            "layers": layers,
            "H_cycles": arch["H_cycles"],
            "L_cycles": arch["L_cycles"],
            "gradient": "last-step" if hrm else "last-cycle",
            "mixing": "mixer" if mixer else "attention",
            "positions": "1d" if rope and not mixer else "none",
            "convolution": convolution,
            "convolution_axes": "1d" if convolution else "2d",
            "canvas_side": side,
            "vocabulary": vocabulary,
        },
        "memory": {"kind": "table", "tokens": tokens},
        "train": {
            "segments": segments,
            "exploration": arch.get("halt_exploration_prob", 0.1),
            "halting": "learned" if learned else "q-learning",
            "loss": _LOSSES[loss],
            "canvas": "full",
        },
        "predict": {"segments": segments},
    }


def _resolve(value: Any, arch: Mapping[str, Any]) -> Any:
    """Return `value`, or what the field of `arch` has that it refers to, as in `puzzle_emb_ndim: ${.hidden_size}`."""
    referred = re.fullmatch(r"\$\{(?:\.|arch\.)(\w+)\}", value) if isinstance(value, str) else None
    return arch.get(referred[1]) if referred else value


def _one_of(values: Mapping[str, Any], key: str, allowed: Sequence[Any]) -> Any:
    """Return the value of `key`, by default the first that is allowed. Raises InputError for any that is not."""
    value = values.get(key, allowed[0])
    if value not in allowed:
        raise InputError(f"published config has {key} = {show_value(value)}, expected {' or '.join(map(repr, allowed))}")
    return value
