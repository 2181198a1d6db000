"""The layers that all reasoners share: attention, rotary positions, the token mixer, the gated feed-forward layer, blocks."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pipeline.reasoner.convolution import GridConvolution, SequenceConvolution
from pipeline.reasoner.layout import Layout
from pipeline.reasoner.linear import CastLinear

NORM_EPSILON = 1e-5
ROPE_THETA = 10_000.0

Angles = tuple[Tensor, Tensor]
"""cos and sin, each (N, head_size / 2) float32, of every token's rotary angles."""


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to unit root mean square, computed in float32 at least, without weights."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(wide, (x.shape[-1],), eps=NORM_EPSILON).to(x.dtype)


def rotary_angles(layout: Layout, head_size: int, positions: str, canvas_side: int) -> Angles | None:
    """Return the rotary angles of every token; None for positions "none".

    "1d" numbers the memory tokens and then the cells of a `canvas_side` wide canvas, as published, so that a fitted canvas
    sees the positions of the full one. "2d" gives half of the frequencies to the row and half to the column, counted from 1;
    memory tokens stay at 0.
    """
    if positions == "none":
        return None
    if positions == "1d":
        start = layout.first[layout.sequence]
        index = torch.arange(layout.tokens, device=start.device) - start
        cell = layout.memory_tokens + layout.row * canvas_side + layout.column
        position = torch.where(layout.row < 0, index, cell)
        return _angles(position, head_size // 2)
    quarter = head_size // 4
    rows, columns = _angles(layout.row + 1, quarter), _angles(layout.column + 1, quarter)
    return torch.cat((rows[0], columns[0]), -1), torch.cat((rows[1], columns[1]), -1)


def _angles(position: Tensor, frequencies: int) -> Angles:
    exponent = torch.arange(frequencies, dtype=torch.float32, device=position.device) / frequencies
    angle = position.float()[:, None] * ROPE_THETA**-exponent
    return angle.cos(), angle.sin()


class _Rotate(torch.autograd.Function):
    """x (N, heads, head_size) with the first half of each head turned against the second; the gradient turns back."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    turned = torch.empty_like(x)
    (a, b), (turned_a, turned_b) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=turned_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=turned_b).addcmul_(a, sin, value=sign)
    return turned


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (N, heads, head_size), the first half of each head against the second, by the angles (N, head_size / 2)."""
    return _Rotate.apply(x, cos[:, None].to(x.dtype), sin[:, None].to(x.dtype))


class _Gate(torch.autograd.Function):
    """silu(gate) * up of x (N, 2 inner) = (gate, up), keeping x alone for the gradient, which is written in one piece."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        given = torch.empty_like(x)
        gate_gradient, up_gradient = given.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=up_gradient)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=gate_gradient)
        return given


class Attention(nn.Module):
    """Multi-head attention of every sequence of a pack to itself, without a mask because there is no padding."""

    def __init__(self, hidden_size: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = CastLinear(hidden_size, 3 * hidden_size, generator)
        self.out = CastLinear(hidden_size, hidden_size, generator)

    def forward(self, x: Tensor, layout: Layout, angles: Angles | None) -> Tensor:  # (N, D) -> (N, D)
        """Return what each token of x gathers from its own sequence; `angles` turn queries and keys, None leaves them."""
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, -1))  # (N, 3 heads, D / heads)
        query_key, value = qkv.split((2 * self.heads, self.heads), dim=1)
        if angles is not None:
            query_key = rotate(query_key, *angles)
        mixed = []
        for (_, qk), (_, v) in zip(layout.split(query_key), layout.split(value), strict=True):
            query, key = qk.transpose(1, 2).chunk(2, dim=1)  # (count, heads, length, D / heads)
            attended = F.scaled_dot_product_attention(query, key, v.transpose(1, 2))
            mixed.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
        return self.out(torch.cat(mixed) if len(mixed) > 1 else mixed[0])


class SwiGLU(nn.Module):
    """The gated feed-forward layer; with `convolution` k, a depthwise convolution of the gated features (ConvSwiGLU).

    `axes` "2d" makes it k x k on the grid, "1d" runs it along the sequence.
    """

    def __init__(
        self,
        hidden_size: int,
        expansion: float,
        generator: torch.Generator,
        *,
        convolution: int = 0,
        axes: str = "2d",
        multiple: int = 256,
    ) -> None:
        super().__init__()
        inner = multiple * math.ceil(round(expansion * hidden_size * 2 / 3) / multiple)
        self.gate_up = CastLinear(hidden_size, 2 * inner, generator)
        self.down = CastLinear(inner, hidden_size, generator)
        kind = GridConvolution if axes == "2d" else SequenceConvolution
        self.convolution = kind(inner, convolution, generator) if convolution else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, D) -> (N, D)
        gated = _Gate.apply(self.gate_up(x))
        if self.convolution is not None:
            gated = F.silu(self.convolution(gated, layout))
        return self.down(gated)


class TokenMixer(nn.Module):
    """A gated feed-forward layer over the tokens of a sequence, feature by feature, in place of attention (MLP-Mixer).

    Followed, as published, by its residual sum and a norm over the tokens. Made for sequences of `length` tokens.
    """

    def __init__(self, length: int, expansion: float, generator: torch.Generator, multiple: int = 256) -> None:
        super().__init__()
        self.length = length
        self.feed_forward = SwiGLU(length, expansion, generator, multiple=multiple)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, D) -> (N, D)
        """Return x mixed, summed and normed. Raises ValueError for sequences of another length."""
        for group in layout.groups:
            if group.length != self.length:
                raise ValueError(f"the token mixer is made for sequences of {self.length} tokens, got one of {group.length}")
        features = x.unflatten(0, (-1, self.length)).mT.flatten(0, 1)  # (B D, length)
        mixed = rms_norm(features + self.feed_forward(features, layout))
        return mixed.unflatten(0, (-1, x.shape[1])).mT.flatten(0, 1)


class Block(nn.Module):
    """Attention, or a token mixer, and feed-forward, each followed by its residual sum and a norm (post-norm)."""

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        expansion: float,
        generator: torch.Generator,
        *,
        convolution: int,
        axes: str,
        multiple: int,
        mixer_length: int | None,
    ) -> None:
        """Make a block; with `mixer_length` tokens a mixer takes the place of attention."""
        super().__init__()
        if mixer_length is None:
            self.attention = Attention(hidden_size, heads, generator)
        else:
            self.mixer = TokenMixer(mixer_length, expansion, generator, multiple)
        self.mixes = mixer_length is not None
        self.feed_forward = SwiGLU(hidden_size, expansion, generator, convolution=convolution, axes=axes, multiple=multiple)

    def forward(self, x: Tensor, layout: Layout, angles: Angles | None) -> Tensor:  # (N, D) -> (N, D)
        x = self.mixer(x, layout) if self.mixes else rms_norm(x + self.attention(x, layout, angles))
        return rms_norm(x + self.feed_forward(x, layout))
