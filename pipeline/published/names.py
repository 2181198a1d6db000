"""Names and settings of the authors' published TRM and HRM code, translated to ours, so that their weights load."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.models.config import ReasonerConfig

MEMORY_ROWS = "inner.puzzle_emb.weights"

TRM_MEMORY_TOKENS = 16
"""`puzzle_emb_len` where a TRM does not say it."""

_NAMES = {
    "inner.embed_tokens.embedding_weight": "embedding",
    "inner.lm_head.weight": "head.weight",
    "inner.q_head.weight": "halting_head.weight",
    "inner.q_head.bias": "halting_head.bias",
    "inner.H_init": "initial_answer",
    "inner.L_init": "initial_latent",
}

_STACKS = {"L": "blocks", "H": "answer_blocks"}

_LAYER = re.compile(r"inner\.([LH])_level\.layers\.(\d+)\.(self_attn|mlp_t|mlp)\.(\w+)\.weight")

_PARTS = {
    ("self_attn", "qkv_proj"): "attention.qkv",
    ("self_attn", "o_proj"): "attention.out",
    ("mlp_t", "gate_up_proj"): "mixer.feed_forward.gate_up",
    ("mlp_t", "down_proj"): "mixer.feed_forward.down",
    ("mlp", "gate_up_proj"): "feed_forward.gate_up",
    ("mlp", "down_proj"): "feed_forward.down",
}

_CANVAS_SIDES = {12: 30, 11: 9, 6: 30}
"""Side of the published canvases by their vocabulary: ARC, Sudoku, mazes."""


def translate_name(published: str) -> str:
    """Return our name of a published TRM or HRM parameter. Raises ValueError for a name that neither has."""
    if published in _NAMES:
        return _NAMES[published]
    match = _LAYER.fullmatch(published)
    if match and (match[3], match[4]) in _PARTS:
        return f"{_STACKS[match[1]]}.{match[2]}.{_PARTS[match[3], match[4]]}.weight"
    raise ValueError(f"no parameter of TRM or HRM is published as {published!r}")


def translate_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict (without the task memory rows) under our names."""
    return {translate_name(name): tensor for name, tensor in published.items() if name != MEMORY_ROWS}


def published_names(model: ReasonerConfig) -> list[str]:
    """Return the published names of all parameters of `model`, a TRM or HRM, without the task memory rows."""
    mixing = "mlp_t" if model.mixing == "mixer" else "self_attn"
    layers = [
        f"inner.{stack}_level.layers.{layer}.{part}.{name}.weight"
        for stack in ("LH" if model.kind == "hrm" else "L")
        for layer in range(model.layers)
        for part, name in _PARTS
        if part in (mixing, "mlp")
    ]
    return [*_NAMES, *layers]


@dataclass(frozen=True)
class PublishedConfig:
    """What a published architecture says."""

    model: ReasonerConfig
    memory_tokens: int
    segments: int
    """Most supervision segments of a sequence."""
    exploration: float
    halting: str
    """learned or q-learning, as `TrainConfig.halting`."""


def translate_config(published: Mapping[str, Any]) -> PublishedConfig:
    """Return our config of a published architecture, the fields of its `arch` and, where they are given, of its dataset.

    It is HRM where it has layers of the high level. Raises ValueError, naming the field, for what is missing or not supported.
    """

    def number(key: str, kind: type, default: float | None = None) -> Any:
        value = published.get(key, default)
        if type(value) is int and kind is float:
            return float(value)
        fits = type(value) is kind
        if not fits or value < 0:
            raise ValueError(f"published config has {key} = {value!r}, expected {'an int' if kind is int else 'a number'}")
        return value

    mixer = published.get("mlp_t", False)
    high_layers: int = number("H_layers", int, 0)
    hrm = high_layers > 0
    layers, hidden_size, vocabulary = number("L_layers", int), number("hidden_size", int), number("vocab_size", int)
    positions = published.get("pos_encodings", "rope")
    if hrm and high_layers != layers:
        raise ValueError(f"published config has H_layers = {high_layers} and L_layers = {layers}, expected as many")
    if mixer not in (False, True) or (mixer and hrm):
        raise ValueError(f"published config has mlp_t = {mixer!r}; only TRM has it, as true or false")
    if positions not in ("rope", "none"):
        raise ValueError(f"published config has pos_encodings = {positions!r}; expected 'rope' or 'none'")
    features = number("puzzle_emb_ndim", int, hidden_size)
    if not 0 < features <= hidden_size:
        raise ValueError(f"published config has puzzle_emb_ndim = {features}, expected 1..hidden_size = {hidden_size}")
    cells = number("seq_len", int, _CANVAS_SIDES.get(vocabulary, 0) ** 2)
    side = math.isqrt(cells)
    if not cells or side * side != cells:
        raise ValueError(f"published config has seq_len = {cells}, expected the cells of a square canvas")
    model = ReasonerConfig(
        kind="hrm" if hrm else "trm",
        hidden_size=hidden_size,
        heads=number("num_heads", int),
        expansion=number("expansion", float),
        layers=layers,
        H_cycles=number("H_cycles", int),
        L_cycles=number("L_cycles", int),
        gradient="last-step" if hrm else "last-cycle",
        mixing="mixer" if mixer else "attention",
        positions="1d" if positions == "rope" and not mixer else "none",
        canvas_side=side,
        vocabulary=vocabulary,
    )
    learned = published.get("no_ACT_continue", not hrm)
    if learned not in (False, True):
        raise ValueError(f"published config has no_ACT_continue = {learned!r}, expected true or false")
    return PublishedConfig(
        model=model,
        memory_tokens=number("puzzle_emb_len", int, 0 if hrm else TRM_MEMORY_TOKENS) or 1,
        segments=number("halt_max_steps", int, 16),
        exploration=number("halt_exploration_prob", float, 0.1),
        halting="learned" if learned else "q-learning",
    )
