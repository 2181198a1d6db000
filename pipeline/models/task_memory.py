"""Task memory: learned parameters of a task, prepended to its canvas as memory tokens.

`TableMemory` has a row for every task and transform, trained by sign descent on the rows of a batch, as TRM does.
`CompositionalMemory` has a row for every task, changed by what the transform is (CHARM, arXiv 2609.33270), so that a view that
was never trained has a memory too; with a residual, a view that was trained has a small row of its own besides.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.batch import Views
from pipeline.models.config import MemoryConfig
from pipeline.models.layers import truncated_normal


@dataclass(frozen=True)
class RowGradient:
    """The gradient of one backward pass for the rows of a table."""

    index: Tensor
    """(B,) int64 rows; one that was gathered several times comes as often."""
    gradient: Tensor
    """(B, S) for rows of S values."""


RowGradients = dict[str, RowGradient]
"""Of one backward pass, by state-dict prefix of the table."""


class RowTable(nn.Module):
    """Rows (R, S) that start at zero and are trained outside of the optimizer, by sign descent.

    The rows are a buffer: `gather` hands out the rows of a batch as a leaf that collects their gradient in `gathered`, and
    `pipeline.training.memory_tables` applies it. This keeps a table of a million rows out of the optimizer and out of gradient
    averaging.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(rows, size))
        self.rows: Tensor
        self.index: Tensor | None = None
        self.gathered: Tensor | None = None

    def gather(self, index: Tensor) -> Tensor:
        """Return the rows (B, S) at `index` (B,), and keep both for `take_gradient` where gradients are computed."""
        rows = self.rows.index_select(0, index)
        if torch.is_grad_enabled():
            self.index, self.gathered = index, rows.requires_grad_()
        return rows

    def take_gradient(self) -> RowGradient:
        """Return the gradient of the backward pass since the last `gather`, and forget it."""
        assert self.index is not None, "no rows were gathered since the last gradient was taken"
        assert self.gathered is not None and self.gathered.grad is not None, "no backward pass has reached the gathered rows"
        found = RowGradient(self.index, self.gathered.grad)
        self.index = self.gathered = None
        return found


class TableMemory(RowTable):
    """One row (D,) for every task and transform, as the first memory token."""

    def __init__(self, rows: int, hidden_size: int, tokens: int) -> None:
        super().__init__(rows, hidden_size)
        self.tokens = tokens

    def forward(self, views: Views) -> Tensor:  # -> (B, M, D)
        return F.pad(self.gather(views.row)[:, None], (0, 0, 0, self.tokens - 1))


class ViewResidual(RowTable):
    """One row r of few values for every task and transform, spread over the features of its memory: sigmoid(gate) * A r.

    A view that was never trained has a row of zeros, and so no residual. `MemoryConfig.residual_gate` says what the gate is.
    """

    def __init__(self, rows: int, config: MemoryConfig, features: int, generator: torch.Generator) -> None:
        rank = config.residual
        super().__init__(rows, rank)
        self.matrix = nn.Parameter(truncated_normal((features, rank), 1 / math.sqrt(rank), generator))
        self.gate = self.gate_bias = None
        if config.residual_gate == "features":
            self.gate = nn.Parameter(torch.full((features,), -2.0))  # mostly closed, open enough for gradients
        elif config.residual_gate == "memory":
            self.gate = nn.Parameter(torch.zeros(features, features))
            self.gate_bias = nn.Parameter(torch.full((features,), 2.0))

    def forward(self, views: Views, memory: Tensor) -> Tensor:  # -> (B, M * D), of the memory without it (B, M * D)
        spread = F.linear(self.gather(views.row), self.matrix)
        if self.gate is None:
            return spread
        gate = self.gate if self.gate_bias is None else F.linear(memory, self.gate, self.gate_bias)
        return torch.sigmoid(gate) * spread


class CompositionalMemory(nn.Module):
    """Task row e, changed by the transform's code u: (1 + G u) * e + B u, per used memory token; the others are zero.

    u joins an embedding of the dihedral with ten parts of D/10 features: one shared, and one learned slot for each of the
    colors 1..9, in the order in which the transform puts them. With a `residual` of some rank, the `ViewResidual` of each of
    the `views` (tasks and transforms) is added. Started at zero, G u and B u have biases, as in CHARM.
    """

    def __init__(self, config: MemoryConfig, tasks: int, views: int, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.tokens = config.tokens
        size = (config.used or config.tokens) * hidden_size
        std = 1 / math.sqrt(hidden_size)
        part = max(4, hidden_size // 10)
        code_size = hidden_size + 10 * part
        start = 0.0 if config.start == "zero" else 1.0
        self.rows = nn.Parameter(start * truncated_normal((tasks, size), std, generator))
        self.dihedral = nn.Parameter(start * truncated_normal((8, hidden_size), 1.0, generator))
        self.color_base = nn.Parameter(start * truncated_normal((part,), 1.0, generator))
        self.color_slots = nn.Parameter(start * truncated_normal((9, part), 1.0, generator))
        self.scale = nn.Parameter(torch.zeros(size, code_size))
        self.shift = nn.Parameter(truncated_normal((size, code_size), std / math.sqrt(code_size), generator))
        biased = config.start == "zero"
        self.scale_bias = nn.Parameter(torch.zeros(size)) if biased else None
        self.shift_bias = nn.Parameter(torch.zeros(size)) if biased else None
        self.residual = ViewResidual(views, config, size, generator) if config.residual else None

    def forward(self, views: Views) -> Tensor:  # -> (B, M, D)
        slots = self.color_slots[views.colors[:, 1:] - 1].flatten(1)  # (B, 9 * part)
        base = self.color_base.expand(len(slots), -1)
        code = torch.cat((self.dihedral[views.dihedral], base, slots), dim=-1)
        row = self.rows[views.task]
        memory = (1 + F.linear(code, self.scale, self.scale_bias)) * row + F.linear(code, self.shift, self.shift_bias)
        if self.residual is not None:
            memory = memory + self.residual(views, memory)
        memory = memory.unflatten(-1, (-1, self.dihedral.shape[1]))
        return F.pad(memory, (0, 0, 0, self.tokens - memory.shape[1]))
