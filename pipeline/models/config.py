"""The kind and shape of a network, as settings. No torch."""

from dataclasses import dataclass
from typing import Literal

from augment.errors import InputError


@dataclass(frozen=True)
class ReasonerConfig:
    """The kind and shape of a reasoner; the defaults are TRM's on ARC (section 4 of the paper)."""

    kind: Literal["trm", "hrm", "urm"] = "trm"
    """trm: two states, one network. hrm: two states with a network each. urm: one state. In `models.network.REASONERS`."""
    hidden_size: int = 512
    heads: int = 8
    expansion: float = 4.0
    """Inner width of the feed-forward layer is 2/3 of this times `hidden_size`, rounded up to `inner_multiple`."""
    inner_multiple: int = 256
    layers: int = 2
    """Blocks of a network; each of HRM's two has so many."""
    H_cycles: int = 3
    L_cycles: int = 4
    """Updates of the latent in a cycle; the answer, where there is one, is updated once after them."""
    gradient: Literal["last-cycle", "last-step", "all"] = "last-cycle"
    """Which updates are backpropagated: the whole last cycle (TRM, URM), the last of each state (HRM), or all."""
    mixing: Literal["attention", "mixer"] = "attention"
    """mixer: a gated feed-forward layer over the tokens, only for canvases of `canvas_side` x `canvas_side`."""
    positions: Literal["1d", "2d", "none"] = "1d"
    gate: Literal["silu", "normed-sigmoid"] = "silu"
    """Of the feed-forward layer, of its halves g and v: silu(g) v, or sigmoid(g) rms_norm(g v), which is bounded."""
    attention_norm: Literal["none", "rms"] = "none"
    """Of what the heads of attention gather, all together, before the linear map that joins them."""
    convolution: int = 0
    """Width of a depthwise convolution within the feed-forward layer (ConvSwiGLU); 0 for none."""
    convolution_axes: Literal["2d", "1d"] = "2d"
    """2d: over the grid, an odd width. 1d: over the sequence, each token and those before it, with a bias, as URM has it."""
    canvas_side: int = 30
    """Width of the full canvas, by which 1D positions count and for which a mixer is made."""
    vocabulary: int = 12

    def __post_init__(self) -> None:
        for name in ("hidden_size", "heads", "layers", "H_cycles", "L_cycles", "canvas_side", "vocabulary", "inner_multiple"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.expansion <= 0:
            raise InputError(f"expansion must be positive, got {self.expansion}")
        if self.mixing == "attention" and (self.hidden_size % self.heads or (self.hidden_size // self.heads) % 4):
            raise InputError(f"hidden_size {self.hidden_size} must give each of {self.heads} heads a multiple of 4")
        if self.mixing == "mixer" and self.positions != "none":
            raise InputError(f"a mixer has no positions: positions must be none, got {self.positions!r}")
        if self.mixing == "mixer" and self.attention_norm != "none":
            raise InputError(f"a mixer has no attention: attention_norm must be none, got {self.attention_norm!r}")
        if self.convolution < 0 or (self.convolution and self.convolution_axes == "2d" and self.convolution % 2 == 0):
            raise InputError(f"convolution must be 0 or, on the grid, odd, got {self.convolution}")


@dataclass(frozen=True)
class MemoryConfig:
    """The kind and size of the task memory."""

    kind: Literal["table", "compositional"] = "table"
    tokens: int = 16
    """Memory tokens before each canvas. The table fills the first and leaves the others zero, as published."""
    used: int = 0
    """Tokens that compositional memory fills, the others stay zero; 0: all. CHARM: 1 of 16."""
    start: Literal["random", "zero"] = "random"
    """Of task rows and codes of compositional memory; zero: the first steps are equal for all tasks and views, as in CHARM."""
    residual: int = 0
    """Rank of the residual that compositional memory has for each view; 0: none. CHARM: 32."""
    residual_gate: Literal["features", "memory", "none"] = "features"
    """Of the residual. features: one value each, nearly closed at first. memory: a linear map of the memory without it, nearly
    open at first (CHARM on ARC-1). none: always open (CHARM on ARC-2)."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"memory tokens must be at least 1, got {self.tokens}")
        if self.residual < 0:
            raise InputError(f"memory residual must not be negative, got {self.residual}")
        if not 0 <= self.used <= self.tokens:
            raise InputError(f"memory used must be 0..{self.tokens} tokens, got {self.used}")
        if self.kind == "table" and (self.residual or self.used or self.start != "random"):
            name = "residual" if self.residual else "used" if self.used else "start"
            raise InputError(f"memory {name} is for compositional memory, not for a table, got {getattr(self, name)}")
