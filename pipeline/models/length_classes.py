"""Attention of a pack by few products: sequences of similar length are padded to the longest of their class.

A product for each canvas shape would be many small calls, of shapes that differ from pack to pack, and a CPU library makes code
for each. Here sequences are sorted by length and cut into classes so that padding and calls cost least together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
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


class LengthClasses(NamedTuple):
    """Where the N tokens of a pack lie among R padded rows: by class, by sequence, by head, by token."""

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
    table: Tensor
    """(3 K,) int64, on the CPU: of each class sequences times heads, length, and whether any of them is shorter."""
    scores: Tensor
    """(T,) without memory: its length is the number of scores of all classes."""

    @property
    def classes(self) -> list[LengthClass]:
        """The classes, in order."""
        found, row = [], 0
        for count, length, padded in self.table.view(-1, 3).tolist():
            found.append(LengthClass(slice(row, row + count * length), count, length, bool(padded)))
            row += count * length
        return found


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
    table, spread, bias = [], [], []
    for members in cut_into_classes(lengths, heads):
        length = int(_round_up(lengths[members].max()))
        place = np.arange(length)
        inside = place < lengths[members][:, None]  # (B', length)
        token = np.where(inside, first[members][:, None] + place, 0)
        rows = row + np.arange(len(members) * heads * length).reshape(len(members), heads, length)
        collect[token[inside]] = rows.transpose(0, 2, 1)[inside]
        spread.append((inside[:, None] * (token[:, None] * heads + np.arange(heads)[:, None])).ravel())
        bias.append(np.repeat(np.where(inside, np.float32(0), np.float32(HIDDEN)), heads, axis=0).ravel())
        table.append((len(members) * heads, length, not inside.all()))
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
    scores = torch.empty(1, device=device).expand(sum(count * length**2 for count, length, _ in table))
    tensors = (torch.from_numpy(array).to(device) for array in arrays)
    return LengthClasses._make((*tensors, torch.tensor(table, dtype=torch.int64).flatten(), scores))


def _round_up(lengths: Any) -> Any:
    return -(-lengths // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _mix(heads: Tensor, classes: LengthClasses) -> Tensor:
    """Return the attention (N, heads S) of `heads` (N, 3 heads, S) where no gradient is needed, by PyTorch's fused one.

    Its gradient takes several times as long as `_mix_gradient` on a CPU, and without one it is faster than `_mix_and_keep`.
    """
    rows = _spread(heads, classes)
    mixed, bias = torch.empty_like(rows[0]), classes.bias.to(rows.dtype)
    for part in classes.classes:
        query, key, value = (x[:, None] for x in _of_class(rows, part))  # (count, 1, length, S)
        mask = bias[part.rows].view(part.count, 1, 1, part.length) if part.padded else None
        mixed[part.rows] = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).flatten(0, 2)
    return mixed.index_select(0, classes.collect_heads).view(len(heads), -1)


def _mix_and_keep(heads: Tensor, classes: LengthClasses) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same, and what its gradient needs: the padded rows (3, R, S) and all probabilities (T,)."""
    rows = _spread(heads, classes)
    mixed, kept = torch.empty_like(rows[0]), rows.new_empty(len(classes.scores))
    alpha, bias, nothing, at = 1 / math.sqrt(rows.shape[-1]), classes.bias.to(rows.dtype), rows.new_empty(1, 1, 1), 0
    for part in classes.classes:
        query, key, value = _of_class(rows, part)
        hidden = bias[part.rows].view(part.count, 1, part.length) if part.padded else nothing
        scores = torch.baddbmm(hidden, query, key.mT, beta=float(part.padded), alpha=alpha)
        probability = torch.softmax(scores, -1, out=_take(kept, at, part))
        torch.bmm(probability, value, out=mixed[part.rows].view_as(query))
        at += part.count * part.length**2
    return mixed.index_select(0, classes.collect_heads).view(len(heads), -1), rows, kept


def _mix_gradient(gradient: Tensor, rows: Tensor, probabilities: Tensor, classes: LengthClasses) -> Tensor:
    """Return the gradient (N, 3 heads, S) of the heads by that of their attention, (N, heads S), and by what was kept.

    Padding takes no gradient, and no token takes one from padding.
    """
    of_rows = gradient.unflatten(1, (-1, rows.shape[-1])).flatten(0, 1).index_select(0, classes.spread_heads)
    of_rows.index_fill_(0, classes.padding, 0)
    given, nothing, alpha, at = torch.empty_like(rows), rows.new_empty(1, 1, 1), 1 / math.sqrt(rows.shape[-1]), 0
    for part in classes.classes:
        query, key, value = _of_class(rows, part)
        of_query, of_key, of_value = _of_class(given, part)
        of_mixed, probability = of_rows[part.rows].view_as(query), _take(probabilities, at, part)
        torch.bmm(probability.mT, of_mixed, out=of_value)
        of_probability = torch.bmm(of_mixed, value.mT)
        of_scores = torch.ops.aten._softmax_backward_data(of_probability, probability, -1, probability.dtype)
        torch.baddbmm(nothing, of_scores, key, beta=0, alpha=alpha, out=of_query)
        torch.baddbmm(nothing, of_scores.mT, query, beta=0, alpha=alpha, out=of_key)
        at += part.count * part.length**2
    return given.flatten(0, 1).index_select(0, classes.collect).unflatten(0, (len(gradient), -1))


def _spread(heads: Tensor, classes: LengthClasses) -> Tensor:
    return heads.flatten(0, 1).index_select(0, classes.spread).unflatten(0, (3, -1))


def _take(probabilities: Tensor, start: int, part: LengthClass) -> Tensor:
    """Return those of a class, (count, length, length), a view."""
    return probabilities[start : start + part.count * part.length**2].view(part.count, part.length, part.length)


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


class _Attend(torch.autograd.Function):
    """The attention of the heads of a pack."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, classes: LengthClasses) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return _mix(heads, classes)
        mixed, rows, probabilities = _mix_and_keep(heads, classes)
        ctx.save_for_backward(rows, probabilities)
        ctx.classes = classes
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows, probabilities = ctx.saved_tensors
        return _mix_gradient(gradient, rows, probabilities, ctx.classes), None


# The same as operations that a compiler takes as they are: their number of products depends on the pack.


@torch.library.custom_op("arc::attend", mutates_args=())
def _attend(heads: Tensor, classes: Sequence[Tensor]) -> Tensor:
    return _mix(heads, LengthClasses(*classes))


@_attend.register_fake
def _(heads: Tensor, classes: Sequence[Tensor]) -> Tensor:
    tokens, triple, size = heads.shape
    return heads.new_empty(tokens, triple // 3 * size)


@torch.library.custom_op("arc::attend_and_keep", mutates_args=())
def _attend_and_keep(heads: Tensor, classes: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return _mix_and_keep(heads, LengthClasses(*classes))


@_attend_and_keep.register_fake
def _(heads: Tensor, classes: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    (tokens, triple, size), known = heads.shape, LengthClasses(*classes)  # `len` would make a constant of a size
    mixed = heads.new_empty(tokens, triple // 3 * size)
    return mixed, heads.new_empty(3, known.bias.shape[0], size), heads.new_empty(known.scores.shape[0])


@torch.library.custom_op("arc::attend_gradient", mutates_args=())
def _attend_gradient(gradient: Tensor, rows: Tensor, probabilities: Tensor, classes: Sequence[Tensor]) -> Tensor:
    return _mix_gradient(gradient, rows, probabilities, LengthClasses(*classes))


@_attend_gradient.register_fake
def _(gradient: Tensor, rows: Tensor, probabilities: Tensor, classes: Sequence[Tensor]) -> Tensor:
    tokens, width = gradient.shape
    return gradient.new_empty(tokens, 3 * width // rows.shape[-1], rows.shape[-1])


def _keep_for_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.count = len(inputs[1])
    ctx.save_for_backward(*output[1:], *inputs[1])


def _use_gradient(ctx: Any, gradient: Tensor, *_: None) -> tuple[Any, ...]:
    rows, probabilities, *classes = ctx.saved_tensors
    return _attend_gradient(gradient, rows, probabilities, classes), [None] * ctx.count


_attend_and_keep.register_autograd(_use_gradient, setup_context=_keep_for_gradient)


def attend_by_classes(heads: Tensor, layout: Layout) -> Tensor:
    """Return (N, heads * S): the attention of queries, keys and values (N, 3 heads, S) within each sequence, head by head."""
    classes = classes_of(layout, heads.shape[1] // 3)
    if not torch.compiler.is_compiling():
        return _Attend.apply(heads, classes)
    mixed: Tensor = _attend_and_keep(heads, list(classes))[0] if torch.is_grad_enabled() else _attend(heads, list(classes))
    return mixed
