"""Attention of a pack by few products: sequences of similar length are padded to the longest of their class.

A product for each canvas shape would be many small calls, of shapes that differ from pack to pack, and a CPU library makes code
for each. Here sequences are sorted by length and cut into classes so that padding and calls cost least together.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.models.layout import Layout

Integers = npt.NDArray[np.int64]
CLASS_SCORES = 100_000
"""A further class takes as much time as so many scores, forward and backward (from 65,536 to 200,000 nothing changes)."""
LENGTH_MULTIPLE = 16
"""Classes are padded to a multiple of this. With 4, a step on packs of ARC-1 takes 1.25 times as long on a core with AMX."""
HIDDEN = -1e9
"""What is added to the score of a key that is padding."""


@dataclass(frozen=True)
class LengthClass:
    """Sequences of all heads, padded to one length."""

    rows: slice
    """Of the padded rows."""
    count: int
    """Sequences times heads."""
    length: int
    padded: bool
    """Whether any of them is shorter."""


@dataclass(frozen=True)
class LengthClasses:
    """Where the N tokens of a pack lie among R padded rows: by class, by sequence, by head, by token."""

    classes: tuple[LengthClass, ...]
    spread: Tensor
    """(3 R,) int64: which of the N x 3 x heads queries, keys and values each padded query, key and value is; 0 for padding."""
    collect: Tensor
    """(N x 3 x heads,) int64: the reverse."""
    spread_heads: Tensor
    """(R,) int64: which of the N x heads results each padded row is; 0 for padding."""
    collect_heads: Tensor
    """(N x heads,) int64: the reverse."""
    padding: Tensor
    """(P,) int64: the rows that are padding."""
    bias: Tensor
    """(R,) float32: `HIDDEN` for padding, else 0."""


def cut_into_classes(lengths: Integers, heads: int) -> list[npt.NDArray[np.intp]]:
    """Return the numbers of the sequences of each class, by their `lengths` (B,): the cut that takes the least time."""
    order = np.argsort(lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)
    ends = counts.cumsum()
    scores = heads * _round_up(distinct) ** 2  # of one sequence, padded to that length
    least, begins = np.zeros(len(distinct) + 1), np.zeros(len(distinct) + 1, np.int64)
    for end in range(1, len(distinct) + 1):
        sequences = ends[end - 1] - np.concatenate(([0], ends))[:end]
        times = least[:end] + CLASS_SCORES + sequences * scores[end - 1]
        begins[end] = times.argmin()
        least[end] = times[begins[end]]
    cuts = [len(distinct)]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1]]))
    return np.split(order, [int(ends[cut - 1]) for cut in cuts[-2:0:-1]])


def make_classes(first: Integers, lengths: Integers, heads: int, device: torch.device) -> LengthClasses:
    """Return the classes of sequences that begin at `first` (B,) and have `lengths` (B,) tokens."""
    tokens, row = int(lengths.sum()), 0
    collect = np.empty((tokens, heads), np.int64)
    classes, spread, bias = [], [], []
    for members in cut_into_classes(lengths, heads):
        length = int(_round_up(lengths[members].max()))
        place = np.arange(length)
        inside = place < lengths[members][:, None]  # (B', length)
        token = np.where(inside, first[members][:, None] + place, 0)
        rows = row + np.arange(len(members) * heads * length).reshape(len(members), heads, length)
        collect[token[inside]] = rows.transpose(0, 2, 1)[inside]
        spread.append((inside[:, None] * (token[:, None] * heads + np.arange(heads)[:, None])).ravel())
        bias.append(np.repeat(np.where(inside, np.float32(0), np.float32(HIDDEN)), heads, axis=0).ravel())
        classes.append(LengthClass(slice(row, row + rows.size), len(members) * heads, length, not inside.all()))
        row += rows.size
    one = np.concatenate(spread)
    token, head = np.divmod(one, heads)
    hidden = np.concatenate(bias)
    arrays = (
        np.concatenate([(3 * token + part) * heads + head for part in range(3)]),
        np.stack([collect + part * row for part in range(3)], axis=1).ravel(),
        one,
        collect.ravel(),
        np.flatnonzero(hidden),
        hidden,
    )
    return LengthClasses(tuple(classes), *(torch.from_numpy(array).to(device) for array in arrays))


def _round_up(lengths: Any) -> Any:
    return -(-lengths // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


class _Spread(torch.autograd.Function):
    """The heads of tokens (3 N heads, S) as padded rows (3 R, S). No token takes a gradient from padding."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, layout: LengthClasses) -> Tensor:
        ctx.collect = layout.collect
        return heads.index_select(0, layout.spread)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.collect), None


class _Collect(torch.autograd.Function):
    """The padded results (R, S) as those of the heads of tokens (N heads, S). The gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, layout: LengthClasses) -> Tensor:
        ctx.layout = layout
        return mixed.index_select(0, layout.collect_heads)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        padded = gradient.index_select(0, ctx.layout.spread_heads)
        return padded.index_fill_(0, ctx.layout.padding, 0), None


class _Multiply(torch.autograd.Function):
    """softmax(q k^T / sqrt(S)) v of padded q, k and v (3, R, S), class by class; keeps the probabilities for the gradient."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, layout: LengthClasses) -> Tensor:
        mixed, probabilities = torch.empty_like(qkv[0]), []
        alpha, bias, nothing = 1 / math.sqrt(qkv.shape[-1]), layout.bias.to(qkv.dtype), qkv.new_empty(1, 1, 1)
        for part in layout.classes:
            query, key, value = _of_class(qkv, part)
            hidden = bias[part.rows].view(part.count, 1, part.length) if part.padded else nothing
            scores = torch.baddbmm(hidden, query, key.mT, beta=float(part.padded), alpha=alpha)
            probability = torch.softmax(scores, -1, out=scores)
            torch.bmm(probability, value, out=mixed[part.rows].view_as(query))
            probabilities.append(probability)
        ctx.save_for_backward(qkv, *probabilities)
        ctx.classes = layout.classes
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        qkv, *probabilities = ctx.saved_tensors
        given, nothing, alpha = torch.empty_like(qkv), qkv.new_empty(1, 1, 1), 1 / math.sqrt(qkv.shape[-1])
        for part, probability in zip(ctx.classes, probabilities, strict=True):
            query, key, value = _of_class(qkv, part)
            of_query, of_key, of_value = _of_class(given, part)
            of_mixed = gradient[part.rows].view_as(query)
            torch.bmm(probability.mT, of_mixed, out=of_value)
            of_probability = torch.bmm(of_mixed, value.mT)
            of_scores = torch.ops.aten._softmax_backward_data(of_probability, probability, -1, probability.dtype)
            torch.baddbmm(nothing, of_scores, key, beta=0, alpha=alpha, out=of_query)
            torch.baddbmm(nothing, of_scores.mT, query, beta=0, alpha=alpha, out=of_key)
        return given, None


def _of_class(qkv: Tensor, part: LengthClass) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries, keys and values of a class of (3, R, S), each (count, length, S), views."""
    query, key, value = qkv[:, part.rows].unflatten(1, (part.count, part.length)).unbind()
    return query, key, value


def classes_of(layout: Layout, heads: int) -> LengthClasses:
    """Return the classes of the sequences of a pack for attention with so many heads."""
    name = ("length classes", heads)
    if name not in layout.derived:
        bounds = layout.bounds.cpu().numpy().astype(np.int64)
        layout.derived[name] = make_classes(bounds[:-1], np.diff(bounds), heads, layout.bounds.device)
    classes: LengthClasses = layout.derived[name]
    return classes


def attend_by_classes(qkv: Tensor, layout: Layout) -> Tensor:
    """Return (N, heads * S): the attention of queries, keys and values (N, 3 heads, S) within each sequence, head by head."""
    classes = classes_of(layout, qkv.shape[1] // 3)
    rows = _Spread.apply(qkv.flatten(0, 1), classes).unflatten(0, (3, -1))
    mixed = _Collect.apply(_Multiply.apply(rows, classes), classes)
    return mixed.unflatten(0, (len(qkv), -1)).flatten(1)
