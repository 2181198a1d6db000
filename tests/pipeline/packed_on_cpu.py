"""CPU kernels behind PyTorch's attention for packs, varlen and memory-efficient: it runs and compiles without a GPU."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.attention.varlen  # defines the operators
from torch import Tensor


def _parts(bounds: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the (heads, length, S) of every sequence of tensors (N, heads, S)."""
    assert bounds.dtype == torch.int32
    return zip(*(torch.tensor_split(tensor.transpose(0, 1), bounds[1:-1].long(), dim=1) for tensor in tensors), strict=True)


def _probability(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)


def _mix(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int) -> Tensor:
    assert longest >= int(bounds.diff().max())
    mixed = [_probability(q, k) @ v for q, k, v in _parts(bounds, query, key, value)]
    return torch.cat(mixed, 1).transpose(0, 1).contiguous()


def _gradients(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bounds: Tensor) -> tuple[Tensor, ...]:
    found: list[tuple[Tensor, ...]] = []
    for q, k, v, given in _parts(bounds, query, key, value, gradient):
        probability, of_probability = _probability(q, k), given @ v.mT
        of_scores = (
            probability * (of_probability - (of_probability * probability).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        )
        found.append((of_scores @ k, of_scores.mT @ q, probability.mT @ given))
    return tuple(torch.cat(parts, 1).transpose(0, 1).contiguous() for parts in zip(*found, strict=True))


def _varlen(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, _: Tensor, longest: int, *__: Any, **___: Any) -> Any:
    normalizer, state = torch.zeros(query.shape[1], query.shape[0]), torch.empty(2, dtype=torch.uint64)
    return _mix(query, key, value, bounds, longest), normalizer, state


def _varlen_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, _: Any, __: Any, bounds: Tensor, *___: Any, **____: Any
) -> Any:
    return _gradients(gradient, query, key, value, bounds)


def _efficient(query: Tensor, key: Tensor, value: Tensor, _: None, bounds: Tensor, __: Tensor, longest: int, *rest: Any) -> Any:
    assert rest == (longest, 0.0, 0, True)  # the longest again, no dropout, no mask, with what a gradient needs
    mixed = _mix(*(part.squeeze(0) for part in (query, key, value)), bounds, longest)
    normalizer = torch.zeros(len(bounds) - 1, query.shape[2], 32 * math.ceil(longest / 32))
    return mixed[None], normalizer, torch.empty((), dtype=torch.long), torch.empty((), dtype=torch.long), longest, longest


def _efficient_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, _: None, __: Tensor, bounds: Tensor, *___: Any, **____: Any
) -> Any:
    parts = (part.squeeze(0) for part in (gradient, query, key, value))
    return *(part[None] for part in _gradients(*parts, bounds)), torch.empty(0)


_LIBRARY = torch.library.Library("aten", "IMPL")


@cache
def register_kernels() -> None:
    """Give this process the kernels; `choose_way` takes none of them on a CPU."""
    torch.library.register_kernel("torch_attn::_varlen_attn", "cpu", _varlen)
    torch.library.register_kernel("torch_attn::_varlen_attn_backward", "cpu", _varlen_backward)
    _LIBRARY.impl("_efficient_attention_forward", _efficient, "CPU")
    _LIBRARY.impl("_efficient_attention_backward", _efficient_backward, "CPU")
