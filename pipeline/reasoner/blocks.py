"""The layers that all reasoners share: linear maps in the compute dtype, attention, rotary positions, gated feed-forward.

Weights are kept in float32 and cast to the dtype of what flows through them. torch.autocast is not used: its cache of cast
weights would hand tensors made under `no_grad` (the first cycles of a segment) to the cycles that need gradients.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pipeline.reasoner.layout import Image, Layout

NORM_EPSILON = 1e-5
ROPE_THETA = 10_000.0


def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Return a float32 tensor of exact standard deviation `std`, drawn from a normal cut at two deviations."""
    std_before_cut = std / 0.87962566103423978  # deviation of a unit normal cut at +-2
    tensor = torch.empty(shape)
    return nn.init.trunc_normal_(tensor, 0.0, std_before_cut, -2 * std_before_cut, 2 * std_before_cut, generator)


class CastLinear(nn.Module):
    """A linear map whose float32 weight (out, in) is cast to the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((outputs, inputs), 1 / math.sqrt(inputs), generator))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to unit root mean square, computed in float32, without weights."""
    return F.rms_norm(x.float(), (x.shape[-1],), eps=NORM_EPSILON).to(x.dtype)


def rotary_angles(layout: Layout, head_size: int, positions: str, canvas_side: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (N, head_size / 2) float32, of every token's rotary angles.

    "1d" numbers the memory tokens and then the cells of a `canvas_side` wide canvas, as published, so that a fitted canvas
    sees the positions of the full one. "2d" gives half of the frequencies to the row and half to the column, counted from 1;
    memory tokens stay at 0.
    """
    if positions == "1d":
        start = layout.first[layout.sequence]
        index = torch.arange(layout.tokens, device=start.device) - start
        cell = layout.memory_tokens + layout.row * canvas_side + layout.column
        position = torch.where(layout.row < 0, index, cell)
        return _angles(position, head_size // 2)
    quarter = head_size // 4
    rows, columns = _angles(layout.row + 1, quarter), _angles(layout.column + 1, quarter)
    return torch.cat((rows[0], columns[0]), -1), torch.cat((rows[1], columns[1]), -1)


def _angles(position: Tensor, frequencies: int) -> tuple[Tensor, Tensor]:
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

    def forward(self, x: Tensor, layout: Layout, angles: tuple[Tensor, Tensor] | None) -> Tensor:  # (N, D) -> (N, D)
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
    """The gated feed-forward layer; with `convolution` k, a depthwise k x k convolution of the gated features on the grid."""

    def __init__(
        self, hidden_size: int, expansion: float, generator: torch.Generator, convolution: int = 0, multiple: int = 256
    ) -> None:
        super().__init__()
        inner = multiple * math.ceil(round(expansion * hidden_size * 2 / 3) / multiple)
        self.gate_up = CastLinear(hidden_size, 2 * inner, generator)
        self.down = CastLinear(inner, hidden_size, generator)
        self.convolution = GridConvolution(inner, convolution, generator) if convolution else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, D) -> (N, D)
        gated = _Gate.apply(self.gate_up(x))
        if self.convolution is not None:
            gated = F.silu(self.convolution(gated, layout))
        return self.down(gated)


class GridConvolution(nn.Module):
    """A depthwise k x k convolution over the cells of each canvas; memory tokens see the center tap alone."""

    def __init__(self, channels: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((channels, 1, kernel, kernel), 1 / kernel, generator))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, C) -> (N, C)
        return _ConvolveGrids.apply(x, self.weight.to(x.dtype), layout)


class _ConvolveGrids(torch.autograd.Function):
    """The convolution on whole images of canvases (`Layout.images`): few calls, and no image is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
        """Return x (N, C) convolved with weight (C, 1, k, k) on the canvases of `layout`."""
        ctx.save_for_backward(x, weight)
        ctx.layout = layout
        mixed = torch.empty_like(x)
        center = _center(weight)
        mixed.index_copy_(0, layout.memory, x.index_select(0, layout.memory) * center)
        for image in layout.images:
            drawn = F.conv2d(_draw(x, image), weight, padding=weight.shape[-1] // 2, groups=len(weight))
            mixed.index_copy_(0, image.cells, _read(drawn, image))
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and weight; the images of x are drawn again."""
        x, weight = ctx.saved_tensors
        layout: Layout = ctx.layout
        x_gradient, weight_gradient = torch.empty_like(x), torch.zeros_like(weight)
        memory_gradient = gradient.index_select(0, layout.memory)
        x_gradient.index_copy_(0, layout.memory, memory_gradient * _center(weight))
        _center(weight_gradient).copy_((memory_gradient * x.index_select(0, layout.memory)).sum(0))
        padding = [weight.shape[-1] // 2] * 2
        for image in layout.images:
            drawn, painted, _ = torch.ops.aten.convolution_backward(
                _draw(gradient, image), _draw(x, image), weight, None,
                [1, 1], padding, [1, 1], False, [0, 0], len(weight), [True, True, False],
            )  # fmt: skip
            x_gradient.index_copy_(0, image.cells, _read(drawn, image))
            weight_gradient += painted
        return x_gradient, weight_gradient, None


def _center(weight: Tensor) -> Tensor:  # (C, 1, k, k) -> (C,), a view
    return weight[:, 0, weight.shape[-2] // 2, weight.shape[-1] // 2]


def _draw(x: Tensor, image: Image) -> Tensor:
    """Return the cells of x (N, C) on the canvases of `image`, (count, C, height, width), zero around them."""
    blank = x.new_zeros(image.count * image.height * image.width, x.shape[1])
    blank.index_copy_(0, image.places, x.index_select(0, image.cells))
    return blank.unflatten(0, (image.count, image.height, image.width)).permute(0, 3, 1, 2)


def _read(drawn: Tensor, image: Image) -> Tensor:
    """Return the cells that `_draw` puts on an image, (cells, C)."""
    return drawn.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, image.places)


class Block(nn.Module):
    """Attention and feed-forward, each followed by its residual sum and a norm (post-norm), as in TRM and HRM."""

    def __init__(
        self, hidden_size: int, heads: int, expansion: float, generator: torch.Generator, convolution: int, multiple: int
    ) -> None:
        super().__init__()
        self.attention = Attention(hidden_size, heads, generator)
        self.feed_forward = SwiGLU(hidden_size, expansion, generator, convolution, multiple)

    def forward(self, x: Tensor, layout: Layout, angles: tuple[Tensor, Tensor] | None) -> Tensor:  # (N, D) -> (N, D)
        x = rms_norm(x + self.attention(x, layout, angles))
        return rms_norm(x + self.feed_forward(x, layout))
