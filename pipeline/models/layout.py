"""The layout of the tokens of a pack: sequences end to end, no padding, equal shapes side by side.

A sequence is M memory tokens followed by the H x W cells of its canvas, row by row. Sequences of one shape are neighbors and
form a group, which a per-sequence operation (attention, a convolution on the grid) sees as one dense tensor; everything else
works on the flat (N, D) tokens.

Packs differ in size. Where all must have the same shapes (compiled code on a GPU) they are laid into a `Room`, which is
filled up with blank sequences whose results are ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]
Way = Literal["fused", "products", "packed", "efficient"]
"""Of attention. fused: `scaled_dot_product_attention`, shape by shape. products: sequences of similar length together, by two
products and a softmax where a gradient is needed. packed: `torch.nn.attention.varlen`, all sequences at once. efficient:
PyTorch's memory-efficient attention, which older GPUs and float32 have too, all sequences at once."""
PACKED: tuple[Way, ...] = ("packed", "efficient")
"""Ways that take a whole pack at once, the fastest first: nothing in them depends on the shapes of canvases."""


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
    tokens: slice
    """Of these sequences in the pack."""
    drawn: Tensor
    """(count * height * width,) int64: the token of the pack at each place of the image, N where there is none."""
    places: Tensor
    """(K,) int64: the place of each of the tokens; 0 for memory tokens, which have none."""


@dataclass(frozen=True)
class Room:
    """Constant shapes that packs are filled up to."""

    cells: int
    """C of every pack."""
    sequences: int
    """B of every pack."""
    longest: int
    """Most tokens of a sequence."""
    memory_tokens: int
    way: Way
    """Of attention: one of PACKED, unless no pack needs blank sequences; the others go shape by shape and leave those out."""
    fused: bool
    """Whether gate, grid convolution and SiLU are one operation (`pipeline.models.layers.choose_fused`)."""

    @property
    def tokens(self) -> int:
        """N of every pack."""
        return self.cells + self.sequences * self.memory_tokens

    def holds(self, cells: int, sequences: int) -> bool:
        """Return whether a pack of so many cells and sequences can be laid into it."""
        missing = self.sequences - sequences
        return missing >= 0 and 0 <= self.cells - cells <= missing * (self.longest - self.memory_tokens)

    def blanks(self, cells: int, sequences: int) -> Integers:
        """Return the shapes (B', 2) of the blank sequences that fill up a pack of so many: one row of cells each, or none.

        Raises ValueError for a pack that the room does not hold.
        """
        if not self.holds(cells, sequences):
            raise ValueError(f"{sequences} sequences of {cells} cells do not go into {self}")
        most = self.longest - self.memory_tokens
        left = self.cells - cells - most * np.arange(self.sequences - sequences)
        widths = left.clip(0, most)
        return np.stack((np.ones_like(widths), widths), axis=1)


IMAGE_CELLS = 4096
"""An image may have so many cells, and in addition twice those that it has to hold."""


@dataclass(frozen=True)
class Layout:
    """The geometry of one pack on one device."""

    groups: tuple[Group, ...]
    """Of the sequences of the pack; the blank ones of a room are in none."""
    memory_tokens: int
    sequence: Tensor
    """(N,) int64: which sequence a token belongs to."""
    row: Tensor
    """(N,) int64: canvas row of a cell plus its offset; -1 for memory tokens."""
    column: Tensor
    """(N,) int64: canvas column of a cell plus its offset; -1 for memory tokens."""
    cells: Tensor
    """(C,) int64: flat positions of all cells, in the order of the pack's inputs and labels."""
    memory: Tensor
    """(B M,) int64: flat positions of all memory tokens."""
    first: Tensor
    """(B,) int64: flat position of each sequence's first token."""
    reach: Tensor
    """(4, N) int32: how many cells of its canvas lie above, below, left and right of a cell; 0 for memory tokens."""
    bounds: Tensor
    """(B + 1,) int32: where each sequence begins, and the number of all tokens."""
    longest: int
    """Tokens of the longest sequence, or more."""
    way: Way | None = None
    """Of attention, in a room; None: the fastest for device and dtype."""
    fused: bool | None = None
    """In a room: whether gate, grid convolution and SiLU are one operation; None: where device and dtype allow it."""
    derived: dict[tuple[str, int], Any] = field(default_factory=dict, compare=False, repr=False)
    """What has been made of it once, for all that use it, by its name and what it depends on."""

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """All cells of the pack as images: few, and not much larger than the canvases that they hold."""
        images: list[Image] = []
        start = 0
        for count, groups in _share_images(self.groups):
            height, width = max(group.height for group in groups), max(group.width for group in groups)
            counts = [group.count for group in groups]
            lengths = np.repeat([group.length for group in groups], counts)
            widths = np.repeat([group.width for group in groups], counts)
            sequence = np.repeat(np.arange(count), lengths)
            cell = np.arange(len(sequence)) - (lengths.cumsum() - lengths)[sequence] - self.memory_tokens
            row, column = np.divmod(cell, widths[sequence])
            places = np.where(cell < 0, 0, sequence * (height * width) + row * width + column)
            drawn = np.full(count * height * width, self.tokens)
            drawn[places[cell >= 0]] = start + np.flatnonzero(cell >= 0)
            device, stop = self.cells.device, start + len(sequence)
            images.append(Image(count, height, width, slice(start, stop), to_device(drawn, device), to_device(places, device)))
            start = stop
        return tuple(images)

    def neighbors(self, side: int) -> tuple[Tensor, Tensor]:
        """Return which token lies at each place of a kernel of `side` x `side` around each, and whether one does.

        The first is (side^2, N) int64, the token itself where none does; the second (side^2, N) float32, 1 or 0.
        """
        name = ("neighbors", side)
        if name not in self.derived:
            up, down, left, right = self.reach
            place = torch.arange(side * side, device=up.device)[:, None]
            y, x = place // side - side // 2, place % side - side // 2
            inside = (up >= -y) & (down >= y) & (left >= -x) & (right >= x)
            there = torch.arange(self.tokens, device=up.device) + torch.where(inside, y * (left + right + 1) + x, 0)
            self.derived[name] = there, inside.float()
        neighbors: tuple[Tensor, Tensor] = self.derived[name]
        return neighbors

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


def make_layout(
    shapes: Tensor, offsets: Tensor, memory_tokens: int, device: torch.device | None = None, room: Room | None = None
) -> Layout:
    """Lay out sequences of canvas `shapes` (B, 2) int64, shifted by `offsets` (B, 2) int64 (row, column).

    Both are CPU tensors. In a `room` blank sequences follow, whose shapes `Room.blanks` gives. Nothing waits for the device.
    Raises ValueError unless equal shapes are neighbors and the room holds them.
    """
    groups = _groups(shapes, memory_tokens)
    sizes, shifts = shapes.numpy(), offsets.numpy()
    if room is not None:
        sizes = np.concatenate((sizes, room.blanks(int(sizes.prod(axis=1).sum()), len(sizes))))
        shifts = np.pad(shifts, ((0, len(sizes) - len(shifts)), (0, 0)))
    areas = sizes.prod(axis=1)
    lengths = areas + memory_tokens
    bounds = np.concatenate(([0], lengths.cumsum()))
    first = bounds[:-1]
    sequence = np.repeat(np.arange(len(sizes)), lengths)
    cell = np.arange(len(sequence)) - first[sequence] - memory_tokens
    is_cell = cell >= 0
    row, column = np.divmod(cell, np.maximum(sizes[sequence, 1], 1))
    last_row, last_column = np.repeat(sizes.astype(np.int32).T - 1, lengths, axis=1)
    reach = np.empty((4, len(sequence)), np.int32)
    reach[0], reach[2] = row, column
    np.subtract(last_row, reach[0], out=reach[1])
    np.subtract(last_column, reach[2], out=reach[3])
    reach[:, ~is_cell] = 0
    return Layout(
        groups=groups,
        memory_tokens=memory_tokens,
        sequence=to_device(sequence, device),
        row=to_device(np.where(is_cell, row + shifts[sequence, 0], -1), device),
        column=to_device(np.where(is_cell, column + shifts[sequence, 1], -1), device),
        cells=to_device(np.flatnonzero(is_cell), device),
        memory=to_device(np.flatnonzero(~is_cell), device),
        first=to_device(first, device),
        reach=to_device(reach, device),
        bounds=to_device(bounds.astype(np.int32), device),
        longest=int(lengths.max()) if room is None else room.longest,
        way=room.way if room else None,
        fused=room.fused if room else None,
    )


def to_device(array: npt.NDArray[Any], device: torch.device | None) -> Tensor:
    """Return `array` as a tensor on `device`, still on its way there where that is a GPU."""
    tensor = torch.from_numpy(array)
    if device is None or device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _groups(shapes: Tensor, memory_tokens: int) -> tuple[Group, ...]:
    unique, counts = torch.unique_consecutive(shapes, dim=0, return_counts=True)
    if len({tuple(shape) for shape in unique.tolist()}) != len(unique):
        raise ValueError("sequences of equal canvas shape must be neighbors")
    return tuple(
        Group(count, height, width, height * width + memory_tokens)
        for (height, width), count in zip(unique.tolist(), counts.tolist(), strict=True)
    )
