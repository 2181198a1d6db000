"""The base of all reasoners: blocks, the embedding of the inputs, the two heads, and the loop of a segment.

A reasoner is a list of updates of its states that makes up one cycle. A segment runs `H_cycles` cycles, of which `gradient`
says what is backpropagated, and reads the answer from the first state. `pipeline.models.network` lists the reasoners by name.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.models import compiled
from pipeline.models.attention import Angles, attend, choose_way, rotary_angles, rotate
from pipeline.models.compiled import compiled_on_cpu
from pipeline.models.config import ReasonerConfig
from pipeline.models.layers import CastLinear, GridConvolution, SwiGLU, TokenMixer, cast_weights, rms_norm, truncated_normal
from pipeline.models.layout import Layout, to_device
from pipeline.models.length_classes import classes_of


class Attention(nn.Module):
    """Multi-head attention of every sequence of a pack to itself."""

    def __init__(self, hidden_size: int, heads: int, generator: torch.Generator, normed: bool = False) -> None:
        super().__init__()
        self.heads, self.normed = heads, normed
        self.qkv = CastLinear(hidden_size, 3 * hidden_size, generator)
        self.out = CastLinear(hidden_size, hidden_size, generator)

    def forward(self, x: Tensor, layout: Layout, angles: Angles | None) -> Tensor:  # (N, D) -> (N, D)
        """Return what each token of x gathers from its own sequence; `angles` turn queries and keys, None leaves them."""
        way = layout.way or choose_way(x.device, x.dtype, x.shape[-1] // self.heads)
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, -1))
        query_key, value = qkv.split((2 * self.heads, self.heads), dim=1)
        gathered = attend(query_key if angles is None else rotate(query_key, *angles), value, layout, way)
        return self.out(rms_norm(gathered) if self.normed else gathered)


class Block(nn.Module):
    """Attention, or a token mixer, and feed-forward, each followed by its residual sum and a norm (post-norm)."""

    def __init__(self, config: ReasonerConfig, memory_tokens: int, generator: torch.Generator) -> None:
        super().__init__()
        size, expansion, multiple = config.hidden_size, config.expansion, config.inner_multiple
        self.mixes = config.mixing == "mixer"
        if self.mixes:
            self.mixer = TokenMixer(memory_tokens + config.canvas_side**2, expansion, generator, multiple, config.gate)
        else:
            self.attention = Attention(size, config.heads, generator, config.attention_norm == "rms")
        self.feed_forward = SwiGLU(
            size, expansion, generator, convolution=config.convolution, axes=config.convolution_axes, multiple=multiple,
            gate=config.gate,
        )  # fmt: skip

    def forward(self, x: Tensor, layout: Layout, angles: Angles | None) -> Tensor:  # (N, D) -> (N, D)
        if compiled.is_enabled() and x.device.type == "cpu" and layout.way is None:
            self._prepare(layout)
            return self._compiled(x, layout, angles)
        return self._compute(x, layout, angles)

    def _compute(self, x: Tensor, layout: Layout, angles: Angles | None) -> Tensor:
        x = self.mixer(x, layout) if self.mixes else rms_norm(x + self.attention(x, layout, angles))
        return rms_norm(x + self.feed_forward(x, layout))

    _compiled = compiled_on_cpu(_compute)

    def _prepare(self, layout: Layout) -> None:
        """Check and make what the compiled formula needs of a layout and cannot make itself."""
        if self.mixes:
            self.mixer.check(layout)
        else:
            classes_of(layout, self.attention.heads)
        if isinstance(convolution := self.feed_forward.convolution, GridConvolution):
            layout.neighbors(convolution.weight.shape[-1])


State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Segment:
    """The result of one supervision segment."""

    state: State
    """Detached; the start of the next segment. Each tensor (N, D)."""
    logits: Tensor
    """(C, V): scores of each cell's output token."""
    halting: Tensor
    """(B, 2) float32: logits of halting and of going on."""


@dataclass(frozen=True)
class Given:
    """The inputs of every update of a segment, besides the states."""

    tokens: Tensor
    """(N, D) task memory and embedded cells."""
    layout: Layout
    angles: Angles | None
    """Of the rotary positions; None where there are none."""


Update = Callable[[State, Given], State]


class Reasoner(nn.Module, ABC):
    """Token embedding, the recursion that a subclass defines, and the heads of answer and halting."""

    states: ClassVar[tuple[str, ...]]
    """Names of the states; the heads read the first."""

    def __init__(self, config: ReasonerConfig, memory_tokens: int, generator: torch.Generator) -> None:
        """Make the network for sequences with `memory_tokens` tokens of task memory; `generator` draws its weights."""
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embedding = nn.Parameter(truncated_normal((config.vocabulary, size), 1 / math.sqrt(size), generator))
        self.blocks = self.make_blocks(memory_tokens, generator)
        self.head = CastLinear(size, config.vocabulary, generator)
        self.halting_head = CastLinear(size, 2, generator, bias=True)
        with torch.no_grad():
            self.halting_head.weight.zero_()
            assert self.halting_head.bias is not None
            self.halting_head.bias.fill_(-5.0)
        for name in self.states:
            self.register_buffer(f"initial_{name}", truncated_normal((size,), 1.0, generator))

    def make_blocks(self, memory_tokens: int, generator: torch.Generator) -> nn.ModuleList:
        """Return the blocks of one network."""
        return nn.ModuleList(Block(self.config, memory_tokens, generator) for _ in range(self.config.layers))

    @abstractmethod
    def cycle(self) -> list[Update]:
        """Return the updates of one cycle, in order; the last one of each state is among the last `len(states)`.

        The first `L_cycles` of them are alike.
        """

    def updates(self, depth: float = 1.0, cycles: int | None = None) -> tuple[list[Update], int]:
        """Return the updates of a segment, or of so many of its `cycles`, and how many at the end are backpropagated.

        With a `depth` below 1 it has so large a share of its cycles, and of the `L_cycles` of each, rounded up.
        """
        high, low = math.ceil(depth * self.config.H_cycles), math.ceil(depth * self.config.L_cycles)
        of_cycle = self.cycle()[self.config.L_cycles - low :]
        updates = of_cycle * (cycles or high)
        return updates, {"last-cycle": len(of_cycle), "last-step": len(self.states), "all": len(updates)}[self.config.gradient]

    @cached_property
    def linears(self) -> list[CastLinear]:
        """All linear maps."""
        return [part for part in self.modules() if isinstance(part, CastLinear)]

    def learned_share(self) -> float:
        """Return the share of a segment's updates that are backpropagated."""
        updates, learned = self.updates()
        return learned / len(updates)

    def initial_state(self, tokens: int, dtype: torch.dtype = torch.float32) -> State:
        """Return the states of `tokens` tokens, each (N, D), before the first segment."""
        return tuple(self.get_buffer(f"initial_{name}").to(dtype).expand(tokens, -1) for name in self.states)

    def start(self, layout: Layout, dtype: torch.dtype = torch.float32, latents: int = 1) -> State:
        """Return the states of a pack, each (N, D), before the first segment.

        Of every `latents` sequences side by side the first starts like `initial_state`, the others from other values of the
        last state, which depend on their place alone.
        """
        state = self.initial_state(layout.tokens, dtype)
        if latents == 1:
            return state
        own = self.get_buffer(f"initial_{self.states[-1]}")
        others = to_device(_further_latents(latents, len(own)), own.device)
        starts = torch.cat((own[None], others)).to(dtype)
        return (*state[:-1], starts.index_select(0, layout.sequence % latents))

    def forward(
        self, state: State, inputs: Tensor, memory: Tensor, layout: Layout, cycles: int | None = None, depth: float = 1.0
    ) -> Segment:
        """Run one segment, or only its next `cycles` cycles, from the state that the earlier ones left.

        `depth` (0..1) is as in `updates`.
        `inputs` (C,) int64 tokens of all cells, `memory` (B, M, D) task memory tokens, `state` from `initial_state` or the
        segment before. The dtype of the state is the dtype that everything but norms, positions and losses is computed in.
        """
        config = self.config
        angles = rotary_angles(layout, config.hidden_size // config.heads, config.positions, config.canvas_side)
        given = Given(self._embed(inputs, memory, layout).to(state[0].dtype), layout, angles)
        updates, learned = self.updates(depth, cycles)
        with torch.no_grad(), cast_weights(self.linears, state[0].dtype):
            for update in updates[:-learned]:
                state = update(state, given)
        with nullcontext() if torch.is_grad_enabled() else cast_weights(self.linears, state[0].dtype):
            for update in updates[-learned:]:
                state = update(state, given)
            return Segment(
                state=tuple(part.detach() for part in state),
                logits=self.head(state[0][layout.cells]),
                halting=self.halting_head(state[0][layout.first]).float(),
            )

    def _embed(self, inputs: Tensor, memory: Tensor, layout: Layout) -> Tensor:
        """Return (N, D): memory tokens and embedded cells in the order of the layout, at unit scale."""
        scale = math.sqrt(self.config.hidden_size)
        cells = torch.index_select(scale * self.embedding, 0, inputs)  # (C, D)
        embedded = cells.new_empty(layout.tokens, cells.shape[1]).index_copy_(0, layout.cells, cells)
        return embedded.index_copy_(0, layout.memory, scale * memory.flatten(0, 1).to(cells.dtype))


@cache
def _further_latents(latents: int, size: int) -> npt.NDArray[np.float32]:
    """Return the initial latents 1..latents-1, (latents - 1, size), the same for all networks."""
    generators = (torch.Generator().manual_seed(number) for number in range(1, latents))
    return torch.stack([truncated_normal((size,), 1.0, generator) for generator in generators]).numpy()


def apply_blocks(blocks: nn.ModuleList, x: Tensor, given: Given) -> Tensor:
    """Return x (N, D) after all `blocks`."""
    for block in blocks:
        x = block(x, given.layout, given.angles)
    return x
