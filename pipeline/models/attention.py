"""Self-attention within every sequence of a pack, in the fastest way that the device offers.

Three ways give the same up to rounding: PyTorch's fused attention for each canvas shape (anywhere), classes of similar length
together, by products where a gradient is needed (a CPU in bfloat16, or with compiled code), and one of two kernels for a whole
pack (CUDA).
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pipeline.device_limits import kernel_works
from pipeline.models.layout import PACKED, Layout, Way, make_layout
from pipeline.models.length_classes import attend_by_classes

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


def attend(query_key: Tensor, value: Tensor, layout: Layout, way: Way) -> Tensor:
    """Return (N, heads * S): softmax(query key^T / sqrt(S)) value within each sequence, head by head.

    `query_key` (N, 2 heads, S) holds the queries of all heads and then the keys, `value` (N, heads, S).
    """
    if way in PACKED:
        query, key = query_key.chunk(2, dim=1)
        return _attend_packed(query, key, value, layout, way).flatten(1)
    if way == "products":
        return attend_by_classes(torch.cat((query_key, value), dim=1), layout)
    mixed = []
    for (_, qk), (_, v) in zip(layout.split(query_key), layout.split(value), strict=True):
        query, key = qk.transpose(1, 2).chunk(2, dim=1)  # (count, heads, length, S)
        attended = F.scaled_dot_product_attention(query, key, v.transpose(1, 2))
        mixed.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(mixed) if len(mixed) > 1 else mixed[0]


def choose_way(device: torch.device, dtype: torch.dtype, head_size: int) -> Way:
    """Return the fastest way for tensors of `dtype` on `device`.

    On CPUs the gradient of the fused attention is slow in bfloat16; products are not, and they are what is compiled. On GPUs
    the first kernel for packs is taken that a trial shows to work; "packed" does not exist on GPUs before Ampere (T4), nor in
    float32, and none exists in float64.
    """
    if device.type == "cpu":
        return "products" if dtype == torch.bfloat16 or torch.compiler.is_compiling() else "fused"
    if device.type == "cuda" and dtype != torch.float64:
        recent = dtype != torch.float32 and torch.cuda.get_device_capability(device) >= (8, 0)
        for way in PACKED if recent else PACKED[1:]:
            if kernel_works(f"{way} attention", packed_error, way, str(device), dtype, head_size):
                return way
    return "fused"


def _attend_packed(query: Tensor, key: Tensor, value: Tensor, layout: Layout, way: Way) -> Tensor:
    """Return the attention of query, key and value (N, heads, S) within each sequence, by one of the kernels PACKED.

    Only arguments that PyTorch 2.10 and later versions share are used.
    """
    bounds, longest = layout.bounds, layout.longest
    if way == "packed":
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 (imports CUDA code)

        return cast(Tensor, varlen_attn(query, key, value, bounds, bounds, longest, longest))
    parts = (part[None] for part in (query, key, value))
    bias, dropout, mask, with_gradient = None, 0.0, 0, True
    kernel = torch.ops.aten._efficient_attention_forward
    return cast(Tensor, kernel(*parts, bias, bounds, bounds, longest, longest, dropout, mask, with_gradient)[0][0])


def packed_error(way: Way, device: str, dtype: torch.dtype, head_size: int) -> float:
    """Return how far a kernel for packs is off fused attention on a small trial, gradient included, relative to the largest.

    Its longest sequence is longer than two blocks of keys of any kernel.
    """
    shapes = torch.tensor([[1, 2], [3, 3], [3, 3], [9, 8], [17, 19]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 1, torch.device(device))
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(layout.tokens, 6, head_size, generator=generator).to(device, dtype)
    wanted = torch.randn(layout.tokens, 2 * head_size, generator=generator).to(device, dtype)
    found = []
    for each in ("fused", way):
        leaf = qkv.clone().requires_grad_()
        mixed = attend(leaf[:, :4], leaf[:, 4:], layout, each)
        (gradient,) = torch.autograd.grad(mixed, leaf, wanted)
        found.append(torch.cat((mixed.detach().flatten(), gradient.flatten())).float())
    fused, packed = found
    return float((packed - fused).abs().max() / fused.abs().max())
