"""Training of the tables of task memory: by sign descent, outside of the optimizer and of gradient averaging.

A step of `pipeline.training.trainer` takes what the backward pass of each of its packs found for the rows that it asked, and
applies the sum over packs and processes once.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import OptimizerConfig
from pipeline.models.network import Network
from pipeline.models.task_memory import RowGradient, ViewResidual
from pipeline.training.communication import Reading
from pipeline.training.ema import MovingAverage

Found = dict[str, RowGradient]
"""What one backward pass found for every table, by state-dict prefix."""


def take_gradients(network: Network) -> Found:
    """Return what the last backward pass found for every table of `network`."""
    return {prefix: table.take_gradient() for prefix, table in network.tables().items()}


def train_tables(
    network: Network,
    found: Sequence[Found],
    accelerator: Accelerator,
    average: MovingAverage | None,
    config: OptimizerConfig,
    factor: float,
    counts: Reading,
) -> None:
    """Train every table by what the packs of this process and of all others found; every process must call it.

    `factor` scales the rates of `config`, `counts` (P,) are the sequences of each process in this step.
    """
    for prefix, table in network.tables().items():
        index = _of_all(accelerator, torch.cat([pack[prefix].index for pack in found]), counts)
        gradient = _of_all(accelerator, torch.cat([pack[prefix].gradient for pack in found]), counts)
        if average:
            average.before_rows(prefix, index)
        rate = config.residual_rate if isinstance(table, ViewResidual) else config.memory_rate
        sign_descent(table.rows, index, gradient, factor * rate, config.memory_decay)


def sign_descent(rows: Tensor, index: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
    """Train in place the `rows` (R, D) at `index` (B,) by the sign of their summed `gradient` (B, D).

    The published rule for TRM's task table: decoupled decay, duplicates in a batch are summed, other rows stay as they are.
    Nobody asks the device how many rows there are: one that comes twice is written twice, with the same values.
    """
    ordered, order = index.sort()
    number = F.pad(ordered.diff() != 0, (1, 0)).cumsum(0)  # of the different rows, in order
    place = torch.empty_like(index).scatter_(0, order, number)
    summed = torch.zeros(len(index), rows.shape[1], device=rows.device).index_add_(0, place, gradient.float())
    updated = rows[index] * (1 - rate * decay) - rate * summed[place].sign()
    rows.index_copy_(0, index, updated)


def _of_all(accelerator: Accelerator, rows: Tensor, counts: Reading) -> Tensor:
    """Return the rows of all processes, of which each has its own of the `counts`, in the order of the processes."""
    if accelerator.num_processes == 1:
        return rows
    lengths = [int(count) for count in counts.take().tolist()]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = accelerator.gather(padded).split(max(lengths))
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
