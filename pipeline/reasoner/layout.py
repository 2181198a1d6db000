"""Where the tokens of a pack lie: sequences end to end, no padding, equal shapes side by side.

A sequence is M memory tokens followed by the H x W cells of its canvas, row by row. Sequences of one shape are neighbors and
form a group, which a per-sequence operation (attention, a convolution on the grid) sees as one dense tensor; everything else
works on the flat (N, D) tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """`count` neighboring sequences of one canvas shape."""

    count: int
    height: int
    width: int
    length: int
    """Tokens of one sequence: memory tokens and height * width cells."""


@dataclass(frozen=True)
class Image:
    """Neighboring sequences drawn on canvases of one size, the largest among them, for a convolution."""

    count: int
    height: int
    width: int
    cells: Tensor
    """(K,) int64: flat positions of the cells of these sequences in the pack."""
    places: Tensor
    """(K,) int64: where each of them lies in the count * height * width cells of the image."""


IMAGE_CELLS = 4096
"""An image may have so many cells, and in addition twice those that it has to hold."""


@dataclass(frozen=True)
class Layout:
    """The geometry of one pack on one device."""

    groups: tuple[Group, ...]
    memory_tokens: int
    sequence: Tensor
    """(N,) int64: which sequence a token belongs to."""
    row: Tensor
    """(N,) int64: canvas row of a cell plus its offset; -1 for memory tokens."""
    column: Tensor
    """(N,) int64: canvas column of a cell plus its offset; -1 for memory tokens."""
    cells: Tensor
    """(C,) int64: flat positions of all cells, in the order of the pack's inputs and labels."""
    first: Tensor
    """(B,) int64: flat position of each sequence's first token."""

    @cached_property
    def memory(self) -> Tensor:
        """(B M,) int64: flat positions of all memory tokens."""
        return (self.row < 0).nonzero().flatten()

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """All cells of the pack as images: few, and not much larger than the canvases that they hold."""
        images: list[Image] = []
        cell = 0
        for count, groups in _share_images(self.groups):
            height, width = max(group.height for group in groups), max(group.width for group in groups)
            areas = torch.tensor([group.height * group.width for group in groups for _ in range(group.count)])
            widths = torch.tensor([group.width for group in groups for _ in range(group.count)])
            sequence = torch.repeat_interleave(areas)
            within = torch.arange(len(sequence)) - (areas.cumsum(0) - areas)[sequence]
            row, column = within // widths[sequence], within % widths[sequence]
            places = sequence * (height * width) + row * width + column
            cells = self.cells[cell : cell + len(sequence)]
            images.append(Image(count, height, width, cells, places.to(cells.device)))
            cell += len(sequence)
        return tuple(images)

    @cached_property
    def bounds(self) -> Tensor:
        """(B + 1,) int32: flat position of each sequence's first token, and the number of all tokens."""
        return F.pad(self.first, (0, 1), value=self.tokens).to(torch.int32)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(group.length for group in self.groups)

    @property
    def sequences(self) -> int:
        return self.first.shape[0]

    @property
    def tokens(self) -> int:
        return self.sequence.shape[0]

    def split(self, flat: Tensor) -> Iterator[tuple[Group, Tensor]]:
        """Yield each group with its part of `flat`, (N, ...), seen as (count, length, ...)."""
        parts = flat.split([group.count * group.length for group in self.groups])
        for group, part in zip(self.groups, parts, strict=True):
            yield group, part.unflatten(0, (group.count, group.length))


def _share_images(groups: Sequence[Group]) -> list[tuple[int, list[Group]]]:
    """Return neighboring groups together, with their number of sequences, as far as their images are not too large."""
    shared: list[list[Group]] = []
    for group in groups:
        together = [*shared[-1], group] if shared else [group]
        count = sum(g.count for g in together)
        room = count * max(g.height for g in together) * max(g.width for g in together)
        needed = sum(g.count * g.height * g.width for g in together)
        if shared and room <= IMAGE_CELLS + 2 * needed:
            shared[-1].append(group)
        else:
            shared.append([group])
    return [(sum(group.count for group in together), together) for together in shared]


def make_layout(shapes: Tensor, offsets: Tensor, memory_tokens: int, device: torch.device | None = None) -> Layout:
    """Lay out sequences of canvas `shapes` (B, 2) int64, shifted by `offsets` (B, 2) int64 (row, column).

    Both are CPU tensors. Raises ValueError unless equal shapes are neighbors.
    """
    heights, widths = shapes.unbind(1)
    areas = heights * widths
    lengths = areas + memory_tokens
    first = lengths.cumsum(0) - lengths
    sequence = torch.repeat_interleave(lengths)
    cell = torch.arange(int(lengths.sum())) - first[sequence] - memory_tokens
    is_cell = cell >= 0
    row = torch.where(is_cell, cell // widths[sequence] + offsets[sequence, 0], -1)
    column = torch.where(is_cell, cell % widths[sequence] + offsets[sequence, 1], -1)
    return Layout(
        groups=_groups(shapes, memory_tokens),
        memory_tokens=memory_tokens,
        sequence=sequence.to(device),
        row=row.to(device),
        column=column.to(device),
        cells=is_cell.nonzero().flatten().to(device),
        first=first.to(device),
    )


def _groups(shapes: Tensor, memory_tokens: int) -> tuple[Group, ...]:
    unique, counts = torch.unique_consecutive(shapes, dim=0, return_counts=True)
    if len({tuple(shape) for shape in unique.tolist()}) != len(unique):
        raise ValueError("sequences of equal canvas shape must be neighbors")
    return tuple(
        Group(count, height, width, height * width + memory_tokens)
        for (height, width), count in zip(unique.tolist(), counts.tolist(), strict=True)
    )
