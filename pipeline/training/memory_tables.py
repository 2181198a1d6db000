"""Training of the tables of task memory by sign descent, outside of the optimizer and of gradient averaging.

A step of pipeline.training.trainer collects the row gradients of each backward pass and applies their sum over packs and
processes once.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import OptimizerConfig
from pipeline.models.network import Network
from pipeline.models.task_memory import RowGradients, ViewResidual
from pipeline.training.communication import AsyncCopy
from pipeline.training.ema import MovingAverage


def take_gradients(network: Network) -> RowGradients:
    """Return the row gradients of the last backward pass for every table of `network`."""
    return {prefix: table.take_gradient() for prefix, table in network.tables.items()}


def train_tables(
    network: Network,
    gradients: Sequence[RowGradients],
    accelerator: Accelerator,
    average: MovingAverage | None,
    config: OptimizerConfig,
    factor: float,
    counts: AsyncCopy,
) -> None:
    """Train every table by the `gradients` of this and every other process, all of which must call it.

    `factor` scales the rates of `config`, `counts` (P,) are the sequences of each process in this step.
    """

    def of_all(rows: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the processes."""
        if accelerator.num_processes == 1:
            return rows
        lengths = [int(count) for count in counts.wait().tolist()]
        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = accelerator.gather(padded).split(max(lengths))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    for prefix, table in network.tables.items():
        index = of_all(torch.cat([each[prefix].index for each in gradients]))
        gradient = of_all(torch.cat([each[prefix].gradient for each in gradients]))
        if average:
            average.before_rows(prefix, index)
        rate = config.residual_rate if isinstance(table, ViewResidual) else config.memory_rate
        sign_descent(table.rows, index, gradient, factor * rate, config.memory_decay)


def sign_descent(rows: Tensor, index: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
    """Train in place the `rows` (R, D) at `index` (B,) by the sign of their summed `gradient` (B, D).

    The published rule for TRM's task table: decoupled decay, duplicates in a batch are summed, other rows stay as they are.
    The number of different rows is never read from the device: a row that occurs twice is written twice, with the same values.
    """
    ordered, order = index.sort()
    number = F.pad(ordered.diff() != 0, (1, 0)).cumsum(0)  # of the different rows, in order
    place = torch.empty_like(index).scatter_(0, order, number)
    summed = torch.zeros(len(index), rows.shape[1], device=rows.device)
    if rows.is_cuda:  # in order, where `index_add_` sums as its threads come: a sign near zero would differ between processes
        summed.index_put_((place,), gradient.float(), accumulate=True)
    else:
        summed.index_add_(0, place, gradient.float())
    updated = rows[index] * (1 - rate * decay) - rate * summed[place].sign()
    rows.index_copy_(0, index, updated)
