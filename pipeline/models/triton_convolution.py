"""The gated grid convolution as Triton kernels: one operation, with its gradient, for a whole pack on a GPU.

Gate, depthwise convolution and SiLU are memory-bound. Every kernel writes each cell once and reads its neighbors through the
cache; the one that sums the gradient of the weight adds up many tiles before its threads do. Sums are kept in float32, and no
result depends on the order of threads.

Imported only where Triton is installed and the tensors are on a GPU (pipeline.models.layers chooses).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16, 128, 4
"""Tokens and channels of the tile of one program, and its warps."""
SUMMED_TILE, TILES = (16, 64, 4), 16
"""The same of the kernel that sums the gradient of the weight, and how many tiles one program of it goes through."""


@triton.jit
def _tile(tokens, channels, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return the tokens (int64) and channels of this program, and masks of those that exist."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return token, channel, token < tokens, channel < channels


@triton.jit
def _sum_neighbors(
    values, weight, reach, tokens, channels, token, channel, token_mask, channel_mask, SIDE: tl.constexpr, FLIP: tl.constexpr
):
    """Return the sum over a kernel of SIDE x SIDE of weight (SIDE * SIDE, C) times the `values` (N, C) there, and all of those.

    `reach` (4, N) is how far the canvas of every token reaches up, down, left and right of it; beyond it the values are 0.
    """
    up = tl.load(reach + token, token_mask, 0)
    down = tl.load(reach + tokens + token, token_mask, 0)
    left = tl.load(reach + 2 * tokens + token, token_mask, 0)
    right = tl.load(reach + 3 * tokens + token, token_mask, 0)
    mixed = tl.zeros((token.shape[0], channel.shape[0]), tl.float32)
    neighbors = ()
    for place in tl.static_range(SIDE * SIDE):
        y, x = place // SIDE - SIDE // 2, place % SIDE - SIDE // 2
        has = token_mask & (-y <= up) & (y <= down) & (-x <= left) & (x <= right)
        at = values + (token + y * (left + right + 1) + x)[:, None] * channels + channel[None, :]
        value = tl.load(at, has[:, None] & channel_mask[None, :], 0.0)
        factor = tl.load(weight + (SIDE * SIDE - 1 - place if FLIP else place) * channels + channel, channel_mask, 0.0)
        mixed += value.to(tl.float32) * factor.to(tl.float32)[None, :]
        neighbors += (value,)
    return mixed, neighbors


@triton.jit
def _gate(x, gated, tokens, channels, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write gated (N, C) = silu(gate) * up of x (N, 2 C) = (gate, up)."""
    token, channel, token_mask, channel_mask = _tile(tokens, channels, TOKENS, CHANNELS)
    mask = token_mask[:, None] & channel_mask[None, :]
    at = x + token[:, None] * 2 * channels + channel[None, :]
    gate, up = tl.load(at, mask, 0.0).to(tl.float32), tl.load(at + channels, mask, 0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(gated + token[:, None] * channels + channel[None, :], value.to(gated.dtype.element_ty), mask)


@triton.jit
def _convolve(gated, weight, reach, out, tokens, channels, SIDE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write out (N, C) = silu(convolution(gated))."""
    token, channel, token_mask, channel_mask = _tile(tokens, channels, TOKENS, CHANNELS)
    mixed, _ = _sum_neighbors(gated, weight, reach, tokens, channels, token, channel, token_mask, channel_mask, SIDE, False)
    at = out + token[:, None] * channels + channel[None, :]
    tl.store(at, (mixed * tl.sigmoid(mixed)).to(out.dtype.element_ty), token_mask[:, None] & channel_mask[None, :])


@triton.jit
def _convolve_backward(
    gated,
    weight,
    reach,
    gradient,
    grad_mixed,
    partial_sums,
    tokens,
    channels,
    SIDE: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Recompute the convolution and backpropagate its SiLU: grad_mixed (N, C).

    partial_sums (P, SIDE * SIDE, C) float32 are the gradient of the weight, summed over the TILES tiles of each program.
    """
    _, channel, _, channel_mask = _tile(tokens, channels, TOKENS, CHANNELS)
    sums = ()
    for _ in tl.static_range(SIDE * SIDE):
        sums += (tl.zeros((TOKENS, CHANNELS), tl.float32),)
    for tile in range(TILES):
        token = (tl.program_id(0).to(tl.int64) * TILES + tile) * TOKENS + tl.arange(0, TOKENS)
        token_mask = token < tokens
        at, mask = token[:, None] * channels + channel[None, :], token_mask[:, None] & channel_mask[None, :]
        mixed, values = _sum_neighbors(
            gated, weight, reach, tokens, channels, token, channel, token_mask, channel_mask, SIDE, False
        )
        sigmoid = tl.sigmoid(mixed)
        grad = tl.load(gradient + at, mask, 0.0).to(tl.float32) * sigmoid * (1 + mixed * (1 - sigmoid))
        tl.store(grad_mixed + at, grad.to(grad_mixed.dtype.element_ty), mask)
        new = ()
        for place in tl.static_range(SIDE * SIDE):
            new += (sums[place] + grad * values[place].to(tl.float32),)
        sums = new
    part = partial_sums + tl.program_id(0).to(tl.int64) * SIDE * SIDE * channels + channel
    for place in tl.static_range(SIDE * SIDE):
        tl.store(part + place * channels, tl.sum(sums[place], 0), channel_mask)


@triton.jit
def _gate_backward(
    x, weight, reach, grad_mixed, grad_x, tokens, channels, SIDE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Backpropagate the convolution and the gate: grad_x (N, 2 C). A cell lies at the opposite place seen from its neighbor."""
    token, channel, token_mask, channel_mask = _tile(tokens, channels, TOKENS, CHANNELS)
    grad, _ = _sum_neighbors(grad_mixed, weight, reach, tokens, channels, token, channel, token_mask, channel_mask, SIDE, True)
    at, mask = token[:, None] * 2 * channels + channel[None, :], token_mask[:, None] & channel_mask[None, :]
    gate, up = tl.load(x + at, mask, 0.0).to(tl.float32), tl.load(x + at + channels, mask, 0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(grad_x + at, grad_gate.to(grad_x.dtype.element_ty), mask)
    tl.store(grad_x + at + channels, (grad * gate * sigmoid).to(grad_x.dtype.element_ty), mask)


def _launch(kernel: Any, shape: torch.Size, *arguments: object, tile: tuple[int, int, int] = TILE, **constants: int) -> None:
    grid = (triton.cdiv(shape[0], tile[0] * constants.get("TILES", 1)), triton.cdiv(shape[1], tile[1]))
    kernel[grid](*arguments, *shape, TOKENS=tile[0], CHANNELS=tile[1], num_warps=tile[2], **constants)


def _gated(x: Tensor) -> Tensor:
    gated = x.new_empty(len(x), x.shape[1] // 2)
    _launch(_gate, gated.shape, x, gated)
    return gated


@torch.library.custom_op("arc::gated_convolution", mutates_args=())
def gated_convolution(x: Tensor, weight: Tensor, reach: Tensor) -> Tensor:
    """Return silu(convolution(silu(gate) * up)), (N, C), of x (N, 2 C) = (gate, up).

    weight (C, k * k) float32, of the depthwise convolution; reach (4, N) int32 is `Layout.reach`.
    """
    gated = _gated(x.contiguous())
    out, side = torch.empty_like(gated), round(weight.shape[1] ** 0.5)
    _launch(_convolve, gated.shape, gated, weight.t().contiguous(), reach, out, SIDE=side)
    return out


@gated_convolution.register_fake
def _(x: Tensor, weight: Tensor, reach: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@torch.library.custom_op("arc::gated_convolution_backward", mutates_args=())
def gated_convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight; only x was kept, the gated features are computed again."""
    x, gradient = x.contiguous(), gradient.contiguous()
    gated, side, by_place = _gated(x), round(weight.shape[1] ** 0.5), weight.t().contiguous()
    grad_mixed, grad_x = torch.empty_like(gated), torch.empty_like(x)
    sums = x.new_empty(triton.cdiv(len(x), SUMMED_TILE[0] * TILES), side * side, gated.shape[1], dtype=torch.float32)
    arguments = gated, by_place, reach, gradient, grad_mixed, sums
    _launch(_convolve_backward, gated.shape, *arguments, tile=SUMMED_TILE, SIDE=side, TILES=TILES)
    _launch(_gate_backward, gated.shape, x, by_place, reach, grad_mixed, grad_x, SIDE=side)
    return grad_x, sums.sum(0).t().to(weight.dtype).contiguous()


@gated_convolution_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    grad_x, grad_weight = gated_convolution_backward(gradient, *ctx.saved_tensors)
    return grad_x, grad_weight, None


gated_convolution.register_autograd(_backward, setup_context=_keep)
