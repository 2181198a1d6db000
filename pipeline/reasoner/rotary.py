"""Rotary positions: the angles of every token of a pack, and the rotation of queries and keys by them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pipeline.reasoner.layout import Layout

ROPE_THETA = 10_000.0

Angles = tuple[Tensor, Tensor]
"""cos and sin, each (N, head_size / 2) float32, of every token's rotary angles."""


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
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    if torch.compiler.is_compiling():  # a compiler fuses the plain formula
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return _Rotate.apply(x, cos, sin)
