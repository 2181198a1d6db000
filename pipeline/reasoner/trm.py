"""The Tiny Recursive Model (arXiv 2510.04871): a small network that alternates "think" and "act" on a carried state.

One segment runs `H_cycles` cycles, each of `L_cycles` steps z <- f(x, y, z) and then y <- f(y, z). All cycles but the last run
without gradient; the last is backpropagated in full. With one state there is no y: a cycle is `L_cycles` steps z <- f(x, z).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.reasoner.blocks import Block, CastLinear, rotary_angles, truncated_normal
from pipeline.reasoner.layout import Layout

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class ReasonerConfig:
    """The shape of a reasoner; the defaults are TRM's on ARC (section 4 of the paper)."""

    hidden_size: int = 512
    heads: int = 8
    expansion: float = 4.0
    """Inner width of the feed-forward layer is 2/3 of this times `hidden_size`, rounded up to `inner_multiple`."""
    inner_multiple: int = 256
    layers: int = 2
    H_cycles: int = 3
    L_cycles: int = 4
    states: int = 2
    """2: answer y and latent z, as published. 1: the paper's single-state ablation."""
    positions: Literal["1d", "2d"] = "1d"
    convolution: int = 0
    """0, or the odd side of a depthwise convolution on the grid within the feed-forward layer."""
    canvas_side: int = 30
    """Width of the full canvas, by which 1D positions count."""
    vocabulary: int = 12

    def __post_init__(self) -> None:
        for name in ("hidden_size", "heads", "layers", "H_cycles", "L_cycles", "canvas_side", "vocabulary", "inner_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.expansion <= 0:
            raise ValueError(f"expansion must be positive, got {self.expansion}")
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must give each of {self.heads} heads a multiple of 4")
        if self.states not in (1, 2):
            raise ValueError(f"states must be 1 or 2, got {self.states}")
        if self.positions not in ("1d", "2d"):
            raise ValueError(f"positions must be 1d or 2d, got {self.positions!r}")
        if self.convolution < 0 or (self.convolution and self.convolution % 2 == 0):
            raise ValueError(f"convolution must be 0 or odd, got {self.convolution}")


@dataclass(frozen=True)
class Segment:
    """What one supervision segment gives."""

    state: State
    """Detached; the start of the next segment. Each tensor (N, D)."""
    logits: Tensor
    """(C, V): scores of each cell's output token."""
    halting: Tensor
    """(B, 2) float32: logits of halting and of going on."""


class TRM(nn.Module):
    """Token embedding, the recursion over `layers` shared blocks, and the two heads."""

    def __init__(self, config: ReasonerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embedding = nn.Parameter(truncated_normal((config.vocabulary, size), 1 / math.sqrt(size), generator))
        self.blocks = nn.ModuleList(
            Block(size, config.heads, config.expansion, generator, config.convolution, config.inner_multiple)
            for _ in range(config.layers)
        )
        self.head = CastLinear(size, config.vocabulary, generator)
        self.halting_head = CastLinear(size, 2, generator, bias=True)
        with torch.no_grad():
            self.halting_head.weight.zero_()
            assert self.halting_head.bias is not None
            self.halting_head.bias.fill_(-5.0)
        for name in ("answer", "latent")[2 - config.states :]:
            self.register_buffer(f"initial_{name}", truncated_normal((size,), 1.0, generator))

    def initial_state(self, tokens: int, dtype: torch.dtype = torch.float32) -> State:
        """Return the state (answer, latent), or (latent,), of `tokens` tokens, each (N, D), before the first segment."""
        buffers = [buffer for name, buffer in self.named_buffers() if name.startswith("initial_")]
        return tuple(buffer.to(dtype).expand(tokens, -1) for buffer in buffers)

    def forward(self, state: State, inputs: Tensor, memory: Tensor, layout: Layout) -> Segment:
        """Run one segment.

        `inputs` (C,) int64 tokens of all cells, `memory` (B, M, D) task memory tokens, `state` from `initial_state` or the
        segment before. The dtype of the state is the dtype that everything but norms, positions and losses is computed in.
        """
        dtype = state[0].dtype
        angles = rotary_angles(
            layout, self.config.hidden_size // self.config.heads, self.config.positions, self.config.canvas_side
        )
        given = self._embed(inputs, memory, layout).to(dtype)
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                state = self._cycle(state, given, layout, angles)
        state = self._cycle(state, given, layout, angles)
        answer = state[0]
        return Segment(
            state=tuple(part.detach() for part in state),
            logits=self.head(answer[layout.cells]),
            halting=self.halting_head(answer[layout.first]).float(),
        )

    def _embed(self, inputs: Tensor, memory: Tensor, layout: Layout) -> Tensor:
        """Return (N, D): memory tokens and embedded cells in the order of the layout, at unit scale."""
        embedded = torch.index_select(self.embedding, 0, inputs)  # (C, D)
        areas = [group.height * group.width for group in layout.groups]
        counts = [group.count for group in layout.groups]
        cells = embedded.split([count * area for count, area in zip(counts, areas, strict=True)])
        parts = [
            torch.cat((before, group_cells.unflatten(0, (-1, area))), dim=1).flatten(0, 1)
            for before, group_cells, area in zip(memory.split(counts), cells, areas, strict=True)
        ]
        return math.sqrt(self.config.hidden_size) * torch.cat(parts)

    def _cycle(self, state: State, given: Tensor, layout: Layout, angles: tuple[Tensor, Tensor]) -> State:
        if len(state) == 1:
            (latent,) = state
            for _ in range(self.config.L_cycles):
                latent = self._network(latent + given, layout, angles)
            return (latent,)
        answer, latent = state
        context = answer + given
        for _ in range(self.config.L_cycles):
            latent = self._network(latent + context, layout, angles)
        return self._network(answer + latent, layout, angles), latent

    def _network(self, x: Tensor, layout: Layout, angles: tuple[Tensor, Tensor]) -> Tensor:
        for block in self.blocks:
            x = block(x, layout, angles)
        return x
