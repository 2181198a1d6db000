"""Depthwise convolutions within the feed-forward layer (ConvSwiGLU): over the cells of a canvas, or along a sequence."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.reasoner.layout import Image, Layout
from pipeline.reasoner.linear import truncated_normal


class SequenceConvolution(nn.Module):
    """A depthwise convolution along each sequence: a token and the k - 1 before it, nothing before the first (URM: k = 2)."""

    def __init__(self, channels: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((channels, 1, kernel), 1 / math.sqrt(kernel), generator))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, C) -> (N, C)
        weight = self.weight[:, 0].to(x.dtype)  # (C, k)
        mixed = torch.addcmul(self.bias.to(x.dtype), x, weight[:, -1])
        place = torch.arange(len(x), device=x.device) - layout.first[layout.sequence]
        for back in range(1, min(weight.shape[1], len(x))):
            reaches = (place[back:] >= back)[:, None]  # the token so far back is of the same sequence
            mixed = mixed + F.pad(x[:-back] * reaches * weight[:, -1 - back], (0, 0, back, 0))
        return mixed


class GridConvolution(nn.Module):
    """A depthwise k x k convolution over the cells of each canvas; memory tokens see the center tap alone."""

    def __init__(self, channels: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((channels, 1, kernel, kernel), 1 / kernel, generator))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, C) -> (N, C)
        weight = self.weight.to(x.dtype)
        assert layout.way is None or layout.neighbors is not None, "a room for a grid convolution knows the width of its kernel"
        if layout.neighbors is not None:
            return _ConvolveNeighbors.apply(x, weight.flatten(1), layout.neighbors)
        return _ConvolveGrids.apply(x, weight, layout)


class _ConvolveNeighbors(torch.autograd.Function):
    """The convolution by the neighbors of every token, whose shapes do not depend on those of the canvases.

    Where a token is another's neighbor at one place of the kernel, that one is its neighbor at the opposite place: the gradient
    gathers as well, and nothing is added up from several places at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, neighbors: Tensor) -> Tensor:
        """Return x (N, C) convolved with weight (C, k * k), by neighbors (k * k, N)."""
        ctx.save_for_backward(x, weight, neighbors)
        return _gather(x, weight, neighbors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and weight."""
        x, weight, neighbors = ctx.saved_tensors
        padded = F.pad(x, (0, 0, 0, 1))
        of_weight = torch.stack([(gradient * padded.index_select(0, there)).sum(0) for there in neighbors], dim=1)
        return _gather(gradient, weight.flip(1), neighbors), of_weight, None


def _gather(x: Tensor, weight: Tensor, neighbors: Tensor) -> Tensor:
    """Return (N, C), the sum over places of the kernel of weight (C, k * k) times the neighbor there, 0 where there is none."""
    padded = F.pad(x, (0, 0, 0, 1))
    mixed = x.new_zeros(())
    for place, there in enumerate(neighbors):
        mixed = mixed + padded.index_select(0, there) * weight[:, place]
    return mixed


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
