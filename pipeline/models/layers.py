"""Layers of a block: linear maps, norms, the gated feed-forward layer with or without a convolution, and the token mixer.

Weights are float32 and are cast to the dtype of their input. Custom gradients keep less memory than autograd would.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from augment.errors import InputError
from pipeline.device_limits import kernel_works
from pipeline.models.compiled import compiled_on_cpu
from pipeline.models.config import ReasonerConfig
from pipeline.models.layout import Image, Layout, make_layout


def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Return a float32 tensor of exact standard deviation `std`, drawn from a normal cut at two deviations.

    `nn.init.trunc_normal_` draws other weights from one seed in PyTorch before and after 2.13; this draws those of 2.13.
    """
    std_before_cut = std / 0.87962566103423978  # deviation of a unit normal cut at +-2
    tensor = torch.empty(shape).normal_(0.0, std_before_cut, generator=generator)
    while not tensor.is_meta and bool((outside := tensor.abs() > 2 * std_before_cut).any()):
        tensor = torch.where(outside, torch.empty(shape).normal_(0.0, std_before_cut, generator=generator), tensor)
    return tensor


class CastLinear(nn.Module):
    """A linear map whose float32 weight (out, in) is cast to the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((outputs, inputs), 1 / math.sqrt(inputs), generator))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.cast: Tensor | None = None
        """The weight in the dtype of a segment, while `cast_weights` keeps it."""

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        weight = self.weight.to(x.dtype) if self.cast is None else self.cast
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the second half of the result by a product each: their gradients need not be joined."""
        first, second = (self.weight.to(x.dtype) if self.cast is None else self.cast).chunk(2)
        return F.linear(x, first), F.linear(x, second)


@contextmanager
def cast_weights(linears: Iterable[CastLinear], dtype: torch.dtype) -> Iterator[None]:
    """Cast the weights of `linears` once for everything inside the block, where no gradients are computed.

    With gradients each use has a cast of its own, so that the uses of a weight are added up in float32.
    """
    linears = [linear for linear in linears if linear.weight.dtype != dtype]
    for linear in linears:
        linear.cast = linear.weight.to(dtype)
    try:
        yield
    finally:
        for linear in linears:
            linear.cast = None


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
    """A depthwise k x k convolution over the cells of each canvas; memory tokens see only the center tap."""

    def __init__(self, channels: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((channels, 1, kernel, kernel), 1 / kernel, generator))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, C) -> (N, C)
        if layout.way is not None:  # in a room, nothing may depend on the shapes of canvases
            return _ConvolveNeighbors.apply(x, self.weight.to(x.dtype).flatten(1), layout.reach)
        if torch.compiler.is_compiling():  # for CPUs
            mixed: Tensor = convolve_rows(x, self.weight.flatten(1).T.contiguous(), *layout.neighbors(self.weight.shape[-1]))
            return mixed
        return _ConvolveGrids.apply(x, self.weight.to(x.dtype), layout)


HAS_TRITON = find_spec("triton") is not None


def grid_kernel(model: ReasonerConfig) -> int:
    """Return the width of the convolution on the grid that may be one operation with its gate, 0 for none."""
    return model.convolution if model.convolution_axes == "2d" and model.gate == "silu" else 0


def choose_fused(device: torch.device, dtype: torch.dtype, kernel: int) -> bool:
    """Return whether gate, kernel x kernel convolution and SiLU are one Triton operation for tensors of `dtype` on `device`.

    On GPUs from Ampere on, where a trial shows that it works.
    """
    if device.type != "cuda" or not kernel or not HAS_TRITON or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    if dtype == torch.float64:  # the kernel computes in float32
        return False
    return kernel_works("the fused convolution", fused_error, str(device), dtype, kernel)


def convolve_gated(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """Return silu(convolution(silu(gate) * up)), (N, C), of x (N, 2 C) = (gate, up); weight (C, 1, k, k) float32.

    The fused operation, for a layout that `choose_fused` allows it.
    """
    from pipeline.models.triton_convolution import gated_convolution  # noqa: PLC0415 (Triton, where there is a GPU)

    return gated_convolution(x, weight.flatten(1), layout.reach)


def fused_error(device: str, dtype: torch.dtype, kernel: int) -> float:
    """Return how far the fused operation is off the plain formula on a small trial, gradients included, relatively.

    It has several blocks of channels and tokens, and a multiple of 16 channels, as networks have: kernels are made for that.
    """
    shapes = torch.tensor([[1, 2], [3, 3], [3, 3], [9, 8], [13, 15]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 1, torch.device(device))
    generator = torch.Generator().manual_seed(0)
    channels = 272
    x = torch.randn(layout.tokens, 2 * channels, generator=generator).to(device, dtype)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator).to(device)
    wanted = torch.randn(layout.tokens, channels, generator=generator).to(device, dtype)

    def plain(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
        gate, up = x.float().chunk(2, dim=-1)
        return F.silu(_ConvolveNeighbors.apply(F.silu(gate) * up, weight.flatten(1), layout.reach)).to(dtype)

    found = []
    for way in (plain, convolve_gated):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = way(*leaves, layout)
        found.append((out.detach(), *torch.autograd.grad(out, leaves, wanted)))
    errors = [(fused - exact).float().abs().max() / exact.float().abs().max() for exact, fused in zip(*found, strict=True)]
    return float(torch.stack(errors).max())


class _ConvolveNeighbors(torch.autograd.Function):
    """The convolution by the neighbors of every token, whose shapes do not depend on those of the canvases.

    Where a token is another's neighbor at one place of the kernel, that one is its neighbor at the opposite place: the gradient
    gathers as well, and nothing is added up from several places at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, reach: Tensor) -> Tensor:
        """Return x (N, C) convolved with weight (C, k * k); `reach` is that of the layout."""
        ctx.save_for_backward(x, weight, reach)
        return _gather(x, weight, reach)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, reach = ctx.saved_tensors
        padded = F.pad(x, (0, 0, 0, 1))
        of_weight = [(gradient * padded.index_select(0, there)).sum(0) for there in _neighbors(reach, weight.shape[1])]
        return _gather(gradient, weight.flip(1), reach), torch.stack(of_weight, dim=1), None


def _gather(x: Tensor, weight: Tensor, reach: Tensor) -> Tensor:
    """Return (N, C), the sum over places of the kernel of weight (C, k * k) times the neighbor there, 0 where there is none."""
    padded = F.pad(x, (0, 0, 0, 1))
    mixed = x.new_zeros(())
    for place, there in enumerate(_neighbors(reach, weight.shape[1])):
        mixed = mixed + padded.index_select(0, there) * weight[:, place]
    return mixed


def _neighbors(reach: Tensor, places: int) -> Iterator[Tensor]:
    """Yield for each of the k * k `places` of a kernel which token lies there, (N,), or N where none does."""
    up, down, left, right = reach
    tokens, side = reach.shape[1], math.isqrt(places)
    token = torch.arange(tokens, dtype=torch.int32, device=reach.device)
    for place in range(places):
        y, x = place // side - side // 2, place % side - side // 2
        inside = (up >= -y) & (down >= y) & (left >= -x) & (right >= x)
        yield torch.where(inside, token + y * (left + right + 1) + x, tokens)


@compiled_on_cpu
def _sum_neighbors(x: Tensor, weight: Tensor, there: Tensor, inside: Tensor) -> Tensor:
    mixed = x.new_zeros((), dtype=weight.dtype)
    for place in range(len(weight)):
        mixed = mixed + x[there[place]] * (weight[place] * inside[place][:, None])
    return mixed.to(x.dtype)


@compiled_on_cpu
def _sum_over_rows(x: Tensor, gradient: Tensor, there: Tensor, inside: Tensor) -> Tensor:
    given = gradient.to(inside.dtype)
    return torch.stack([(x[there[place]] * (given * inside[place][:, None])).sum(0) for place in range(len(there))])


# The convolution row by row, each the sum of its neighbors times their weights, as operations that a compiler takes as they
# are: it would fuse them into what makes the rows, and make each row as often as it has neighbors.


@torch.library.custom_op("arc::convolve", mutates_args=())
def convolve_rows(x: Tensor, weight: Tensor, there: Tensor, inside: Tensor) -> Tensor:
    """Return x (N, C) convolved with weight (k * k, C) float32; `there` and `inside` are `Layout.neighbors`."""
    return _sum_neighbors(x, weight, there, inside)


@convolve_rows.register_fake
def _(x: Tensor, weight: Tensor, there: Tensor, inside: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("arc::convolve_gradient", mutates_args=())
def _convolve_rows_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, there: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    of_x = _sum_neighbors(gradient, weight.flip(0), there, inside)  # each is its neighbor's neighbor on the other side
    return of_x, _sum_over_rows(x, gradient, there, inside)


@_convolve_rows_gradient.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, there: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


convolve_rows.register_autograd(
    lambda ctx, gradient: (*_convolve_rows_gradient(gradient.contiguous(), *ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Leave convolutions to PyTorch's own kernels: cuDNN would make, and keep, a plan for every shape of image."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


class _ConvolveGrids(torch.autograd.Function):
    """The convolution on whole images of canvases (`Layout.images`): few calls, and no image is kept for the gradient."""

    @staticmethod
    @_without_cudnn()
    def forward(ctx: Any, x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
        """Return x (N, C) convolved with weight (C, 1, k, k) on the canvases of `layout`."""
        padded = F.pad(x, (0, 0, 0, 1))  # the last row is what lies where there is no cell
        ctx.save_for_backward(padded, weight)
        ctx.layout = layout
        mixed = torch.empty_like(x)
        for image in layout.images:
            _read(F.conv2d(_draw(padded, image), weight, padding=weight.shape[-1] // 2, groups=len(weight)), image, mixed)
        return mixed.index_copy_(0, layout.memory, x.index_select(0, layout.memory) * _center(weight))

    @staticmethod
    @_without_cudnn()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        layout: Layout = ctx.layout
        x_gradient, weight_gradient = torch.empty_like(gradient), torch.zeros_like(weight)
        padding, padded = [weight.shape[-1] // 2] * 2, F.pad(gradient, (0, 0, 0, 1))
        for image in layout.images:
            drawn, painted, _ = torch.ops.aten.convolution_backward(
                _draw(padded, image), _draw(x, image), weight, None,
                [1, 1], padding, [1, 1], False, [0, 0], len(weight), [True, True, False],
            )  # fmt: skip
            _read(drawn, image, x_gradient)
            weight_gradient += painted
        memory_gradient = gradient.index_select(0, layout.memory)
        x_gradient.index_copy_(0, layout.memory, memory_gradient * _center(weight))
        _center(weight_gradient).add_((memory_gradient * x.index_select(0, layout.memory)).sum(0))
        return x_gradient, weight_gradient, None


def _center(weight: Tensor) -> Tensor:  # (C, 1, k, k) -> (C,), a view
    return weight[:, 0, weight.shape[-2] // 2, weight.shape[-1] // 2]


def _draw(padded: Tensor, image: Image) -> Tensor:
    """Return the tokens of `padded` (N + 1, C) on the canvases of `image`, (count, C, height, width); the last row is blank."""
    return padded.index_select(0, image.drawn).unflatten(0, (image.count, image.height, image.width)).permute(0, 3, 1, 2)


def _read(drawn: Tensor, image: Image, out: Tensor) -> None:
    """Write the cells that `_draw` puts on an image into `out` (N, C), and anything into its memory tokens."""
    torch.index_select(drawn.permute(0, 2, 3, 1).flatten(0, 2), 0, image.places, out=out[image.tokens])


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
    return F.rms_norm(x, x.shape[-1:], eps=NORM_EPSILON) if x.is_cuda else _Norm.apply(x)


class _Gate(torch.autograd.Function):
    """silu(gate) * up of x (N, 2 inner) = (gate, up), keeping only x for the gradient, which is written in one tensor."""

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


class SwiGLU(nn.Module):
    """The gated feed-forward layer; with `convolution` k, a depthwise convolution of the gated features (ConvSwiGLU).

    `axes` "2d" makes it k x k on the grid, "1d" runs it along the sequence. `gate` is that of `ReasonerConfig`.
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
        gate: str = "silu",
    ) -> None:
        super().__init__()
        self.gate = gate
        inner = multiple * math.ceil(max(1, round(expansion * hidden_size * 2 / 3)) / multiple)
        self.gate_up = CastLinear(hidden_size, 2 * inner, generator)
        self.down = CastLinear(inner, hidden_size, generator)
        kind = GridConvolution if axes == "2d" else SequenceConvolution
        self.convolution = kind(inner, convolution, generator) if convolution else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, D) -> (N, D)
        if isinstance(self.convolution, GridConvolution) and self.gate == "silu":
            weight = self.convolution.weight
            fused = choose_fused(x.device, x.dtype, weight.shape[-1]) if layout.fused is None else layout.fused
            if fused:
                return self.down(convolve_gated(self.gate_up(x), weight, layout))
        gated = self._expand(x)
        return self.down(gated if self.convolution is None else F.silu(self.convolution(gated, layout)))

    def _expand(self, x: Tensor) -> Tensor:
        """Return the gated features (N, inner) of x (N, D)."""
        fuses = torch.compiler.is_compiling()
        if self.gate == "silu" and not fuses:
            return _Gate.apply(self.gate_up(x))
        gate, up = self.gate_up.halves(x) if fuses and x.device.type == "cpu" else self.gate_up(x).chunk(2, dim=-1)
        return F.silu(gate) * up if self.gate == "silu" else torch.sigmoid(gate) * rms_norm(gate * up)


class TokenMixer(nn.Module):
    """A gated feed-forward layer over the tokens of a sequence, feature by feature, in place of attention (MLP-Mixer).

    Followed, as published, by its residual sum and a norm over the tokens. Made for sequences of `length` tokens.
    """

    def __init__(
        self, length: int, expansion: float, generator: torch.Generator, multiple: int = 256, gate: str = "silu"
    ) -> None:
        super().__init__()
        self.length = length
        self.feed_forward = SwiGLU(length, expansion, generator, multiple=multiple, gate=gate)

    def check(self, layout: Layout) -> None:
        """Raise InputError for sequences of another length."""
        for group in layout.groups:
            if group.length != self.length:
                raise InputError(f"the token mixer is made for sequences of {self.length} tokens, got one of {group.length}")

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # (N, D) -> (N, D)
        """Return x mixed, summed and normed. Raises InputError like `check`, but in compiled code."""
        if not torch.compiler.is_compiling():
            self.check(layout)
        features = x.unflatten(0, (-1, self.length)).mT.flatten(0, 1)  # (B D, length)
        mixed = rms_norm(features + self.feed_forward(features, layout))
        return mixed.unflatten(0, (-1, x.shape[1])).mT.flatten(0, 1)
