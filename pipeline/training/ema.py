"""The moving average (EMA) of the weights, which predictions use."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.models.task_memory import RowTable


class MovingAverage:
    """Exponential moving average of all weights, buffers and task memory of a network.

    Rows of a table that a step did not touch need no work: since they are constant in between, their average is brought up to
    date when they are next touched, or read.
    """

    def __init__(self, network: nn.Module, tables: Mapping[str, RowTable], decay: float, start: int = 0) -> None:
        """Average the steps of a network with these tables after `start`; until then the average equals the weights.

        So the initial weights do not linger in the average of a short run.
        """
        self.decay = decay
        self.start = start
        current = network.state_dict()  # the tensors that training changes in place
        self.weights = {name: tensor.detach().clone() for name, tensor in current.items()}
        self.tables = tables
        dense = [name for name in current if name.removesuffix(".rows") not in tables]
        self.dense, self.dense_averages = ([part[name] for name in dense] for part in (current, self.weights))
        self.table_steps = {
            prefix: torch.zeros(len(table.rows), dtype=torch.int64, device=table.rows.device)
            for prefix, table in self.tables.items()
        }
        self.step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Average the weights in once; call after the optimizers' step (and `before_rows` before rows of a table change)."""
        self.step += 1
        torch._foreach_lerp_(self.dense_averages, self.dense, 1.0 if self.step <= self.start else 1 - self.decay)

    @torch.no_grad()
    def before_rows(self, prefix: str, index: Tensor) -> None:
        """Bring the averages of rows `index` of a table up to the last step, with the values that they had since."""
        average, rows, steps = self.weights[f"{prefix}.rows"], self.tables[prefix].rows, self.table_steps[prefix]
        kept = self._kept(steps[index])
        average[index] = rows[index] + kept * (average[index] - rows[index])
        steps[index] = self.step

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights, by the network's names, up to date at the last step."""
        current = dict(self.weights)
        for prefix, table in self.tables.items():
            name = f"{prefix}.rows"
            current[name] = torch.lerp(table.rows, self.weights[name], self._kept(self.table_steps[prefix]))
        return current

    def _kept(self, touched: Tensor) -> Tensor:
        """Return the weight, (R, 1), of an average of step `touched` (R,), for rows that have not changed since."""
        return torch.where(touched < self.start, 0.0, self.decay ** (self.step - touched).float())[:, None]

    def resume_state(self) -> dict[str, Tensor]:
        """Return what `load` needs to continue exactly."""
        return self.weights | {f"{prefix}.table_steps": steps for prefix, steps in self.table_steps.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Continue from a `resume_state` that was taken after `step` updates."""
        for name, tensor in self.weights.items():
            tensor.copy_(state[name])
        self.step = step
        for prefix, steps in self.table_steps.items():
            steps.copy_(state[f"{prefix}.table_steps"])
