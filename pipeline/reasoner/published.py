"""Names and settings of the authors' published TRM code, translated to ours, so that their weights load."""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from pipeline.reasoner.trm import ReasonerConfig

MEMORY_ROWS = "inner.puzzle_emb.weights"

_NAMES = (
    (r"inner\.embed_tokens\.embedding_weight", "embedding"),
    (r"inner\.lm_head\.weight", "head.weight"),
    (r"inner\.q_head\.(weight|bias)", r"halting_head.\1"),
    (r"inner\.H_init", "initial_answer"),
    (r"inner\.L_init", "initial_latent"),
    (r"inner\.L_level\.layers\.(\d+)\.self_attn\.qkv_proj\.weight", r"blocks.\1.attention.qkv.weight"),
    (r"inner\.L_level\.layers\.(\d+)\.self_attn\.o_proj\.weight", r"blocks.\1.attention.out.weight"),
    (r"inner\.L_level\.layers\.(\d+)\.mlp\.gate_up_proj\.weight", r"blocks.\1.feed_forward.gate_up.weight"),
    (r"inner\.L_level\.layers\.(\d+)\.mlp\.down_proj\.weight", r"blocks.\1.feed_forward.down.weight"),
)


def translate_name(published: str) -> str:
    """Return our name of a published TRM parameter. Raises ValueError for a name that TRM with attention does not have."""
    for pattern, ours in _NAMES:
        match = re.fullmatch(pattern, published)
        if match:
            return match.expand(ours)
    raise ValueError(f"no parameter of TRM with attention is published as {published!r}")


def translate_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict (without the task memory rows) under our names."""
    return {translate_name(name): tensor for name, tensor in published.items() if name != MEMORY_ROWS}


def translate_config(published: Mapping[str, object]) -> ReasonerConfig:
    """Return our config of a published architecture. Raises ValueError where it is not TRM with attention and 1D positions."""
    expected = {"mlp_t": False, "pos_encodings": "rope", "H_layers": 0}
    for key, value in expected.items():
        if published.get(key, value) != value:
            raise ValueError(f"published config has {key} = {published[key]!r}; only {value!r} is supported")

    def whole(key: str) -> int:
        value = published.get(key)
        if type(value) is not int:
            raise ValueError(f"published config has {key} = {value!r}, expected an int")
        return value

    return ReasonerConfig(
        hidden_size=whole("hidden_size"),
        heads=whole("num_heads"),
        expansion=float(whole("expansion")),
        layers=whole("L_layers"),
        H_cycles=whole("H_cycles"),
        L_cycles=whole("L_cycles"),
        canvas_side=math.isqrt(whole("seq_len")),
        vocabulary=whole("vocab_size"),
    )
