"""Linear maps in the compute dtype, and how weights are drawn.

Weights are kept in float32 and cast to the dtype of what flows through them. torch.autocast is not used: its cache of cast
weights would hand tensors made under `no_grad` (the first cycles of a segment) to the cycles that need gradients.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
