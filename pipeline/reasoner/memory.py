"""Task memory: what a reasoner knows of a task, prepended to its canvas as memory tokens.

`TableMemory` has a row for every task and transform, trained by sign descent on the rows of a batch, as TRM does.
`CompositionalMemory` has a row for every task, changed by what the transform is (CHARM, arXiv 2609.33270), so that a view that
was never trained can be asked.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.reasoner.blocks import truncated_normal


@dataclass(frozen=True)
class MemoryConfig:
    """The kind and size of the task memory."""

    kind: Literal["table", "compositional"] = "table"
    tokens: int = 16
    """Memory tokens before each canvas. The table fills the first and leaves the others zero, as published."""

    def __post_init__(self) -> None:
        if self.kind not in ("table", "compositional"):
            raise ValueError(f"memory kind must be table or compositional, got {self.kind!r}")
        if self.tokens < 1:
            raise ValueError(f"memory tokens must be at least 1, got {self.tokens}")


@dataclass(frozen=True)
class Views:
    """Which view each of B sequences is: everything a task memory may be asked by."""

    task: Tensor
    """(B,) int64: row of the task."""
    row: Tensor
    """(B,) int64: row of the task and transform in a table."""
    dihedral: Tensor
    """(B,) int64 in 0..7."""
    colors: Tensor
    """(B, 10) int64: the new color of each color."""


class TableMemory(nn.Module):
    """One row (D,) for every task and transform; starts at zero.

    The rows are a buffer: `forward` hands out the rows of a batch as a leaf that collects their gradient in `gathered`, and
    whoever trains them applies it (`pipeline.optim.sign_descent`). This keeps a table of a million rows out of the optimizer
    and out of gradient averaging.
    """

    def __init__(self, rows: int, hidden_size: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.register_buffer("rows", torch.zeros(rows, hidden_size))
        self.rows: Tensor
        self.gathered: Tensor | None = None

    def forward(self, views: Views) -> Tensor:  # -> (B, M, D)
        rows = self.rows.index_select(0, views.row)
        if torch.is_grad_enabled():
            self.gathered = rows.requires_grad_()
        return F.pad(rows[:, None], (0, 0, 0, self.tokens - 1))


class CompositionalMemory(nn.Module):
    """Task row e, changed by the transform's code u: (1 + G u) * e + B u, per memory token.

    u joins an embedding of the dihedral with ten parts of D/10 features: one shared, and one learned slot for each of the
    colors 1..9, in the order in which the transform puts them.
    """

    def __init__(self, tasks: int, hidden_size: int, tokens: int, generator: torch.Generator) -> None:
        super().__init__()
        self.tokens = tokens
        std = 1 / math.sqrt(hidden_size)
        part = max(4, hidden_size // 10)
        self.rows = nn.Parameter(truncated_normal((tasks, tokens * hidden_size), std, generator))
        self.dihedral = nn.Parameter(truncated_normal((8, hidden_size), 1.0, generator))
        self.color_base = nn.Parameter(truncated_normal((part,), 1.0, generator))
        self.color_slots = nn.Parameter(truncated_normal((9, part), 1.0, generator))
        code_size = hidden_size + 10 * part
        self.scale = nn.Parameter(torch.zeros(tokens * hidden_size, code_size))
        self.shift = nn.Parameter(truncated_normal((tokens * hidden_size, code_size), std / math.sqrt(code_size), generator))

    def forward(self, views: Views) -> Tensor:  # -> (B, M, D)
        slots = self.color_slots[views.colors[:, 1:] - 1].flatten(1)  # (B, 9 * part)
        base = self.color_base.expand(len(slots), -1)
        code = torch.cat((self.dihedral[views.dihedral], base, slots), dim=-1)
        row = self.rows[views.task]
        memory = (1 + F.linear(code, self.scale)) * row + F.linear(code, self.shift)
        return memory.unflatten(-1, (self.tokens, -1))
