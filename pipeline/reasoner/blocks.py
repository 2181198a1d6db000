"""The layers that all reasoners share: norm, token mixer, gated feed-forward layer, and blocks of them with attention."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pipeline.reasoner.attention import Attention
from pipeline.reasoner.convolution import GridConvolution, SequenceConvolution
from pipeline.reasoner.layout import Layout
from pipeline.reasoner.linear import CastLinear
from pipeline.reasoner.rotary import Angles

NORM_EPSILON = 1e-5


class _Norm(torch.autograd.Function):
    """x (..., D) over its root mean square, in float32 at least; keeps the result for the gradient, not a wide copy."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add_(NORM_EPSILON).rsqrt_()
        normed = (wide * scale).to(x.dtype)
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        normed, scale = ctx.saved_tensors
        wide, given = normed.to(scale.dtype), gradient.to(scale.dtype)
        along = torch.linalg.vecdot(given, wide)[..., None] / wide.shape[-1]
        return torch.addcmul(given, wide, along, value=-1).mul_(scale).to(gradient.dtype)


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to unit root mean square, computed in float32 at least, without weights."""
    if torch.compiler.is_compiling():  # a compiler fuses the plain formula, and chooses itself what it keeps
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * (wide.square().mean(-1, keepdim=True) + NORM_EPSILON).rsqrt()).to(x.dtype)
    return _Norm.apply(x)


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


def _gate(x: Tensor) -> Tensor:
    """Return silu(gate) * up of x (N, 2 inner) = (gate, up)."""
    if torch.compiler.is_compiling():
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _Gate.apply(x)


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
        gated = _gate(self.gate_up(x))
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
