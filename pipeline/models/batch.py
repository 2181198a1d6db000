"""One pack on the device of the network: tokens, geometry, and the view of its task that each sequence shows."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.models.layout import Layout


@dataclass(frozen=True)
class Views:
    """Which view each of B sequences is: the key of its task memory."""

    task: Tensor
    """(B,) int64: row of the task."""
    row: Tensor
    """(B,) int64: row of the task and transform in a table."""
    dihedral: Tensor
    """(B,) int64 in 0..7."""
    colors: Tensor
    """(B, 10) int64: the new color of each color."""


@dataclass(frozen=True)
class Batch:
    """One pack on the device of the network."""

    inputs: Tensor
    """(C,) int64 tokens."""
    labels: Tensor | None
    """(C,) int64 tokens, -100 where ignored; None when predicting."""
    layout: Layout
    views: Views
