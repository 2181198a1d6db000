"""What the processes of a training agree on at every step: the clock of the main one decides for all.

Asked by pipeline.training.trainer. On GPUs, what is agreed on is read a step later, so that nobody waits for a device.
"""

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.models.layout import to_device


class Reading:
    """The values of a tensor at the time of asking. On a GPU they come while it computes on."""

    def __init__(self, tensor: Tensor) -> None:
        self.arrived: torch.cuda.Event | None = None
        self.values = tensor.detach()
        if tensor.is_cuda:
            self.values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.values.copy_(tensor.detach(), non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def take(self) -> Tensor:
        """Return the values, on the CPU; waits for those that have not arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values


class Together:
    """The processes of one training; every one of them has to ask for the same, in the same order."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.several = accelerator.num_processes > 1
        self.waits = accelerator.device.type != "cuda"
        """Whether a step is looked at before it changes the weights, and not, as on a GPU, while the next one is computed."""
        self.begin()

    def begin(self) -> None:
        """Forget what was asked before."""
        self.asked: Reading | None = None
        """What was asked at the step before, where it was not waited for."""
        self.due_was_asked = False
        """A checkpoint that is due is asked for once, though the answer comes a step later."""

    def sum(self, value: float) -> float:
        """Return the sum of `value` over all processes; waits for it."""
        if not self.several:
            return value
        mine = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(mine, "sum"))

    def share(self, values: Tensor | npt.NDArray[np.float32]) -> Tensor:
        """Return the sum of `values` over all processes, on the device; nobody waits for it."""
        mine = values if isinstance(values, Tensor) else to_device(values, self.accelerator.device)
        return self.accelerator.reduce(mine, "sum") if self.several else mine

    def agree(self, by_time: float, stop: bool, due: bool, asked_to_end: bool) -> tuple[float, bool, bool, bool]:
        """Return what the main process says of the first three, and whether any process was asked to end.

        On GPUs, as it was at the step before.
        """
        if not self.several:
            return by_time, stop, due, asked_to_end
        due = due and (self.waits or not self.due_was_asked)
        self.due_was_asked = due
        figures = [by_time, stop, due] if self.accelerator.is_main_process else [0.0, 0.0, 0.0]
        now = Reading(self.share(np.array([*figures, asked_to_end], np.float32)))
        before, self.asked = self.asked, now
        if not self.waits and before is None:  # the first step decides nothing but the share of the run
            return float(now.take()[0]), False, False, False
        by_time, stop, due, asked_to_end = (now if self.waits or before is None else before).take().tolist()
        return by_time, bool(stop), bool(due), bool(asked_to_end)

    def counts(self, mine: int) -> Tensor:
        """Return what every process says, (P,) float32 on the device; nobody waits for it."""
        said = np.zeros(self.accelerator.num_processes, np.float32)
        said[self.accelerator.process_index] = mine
        return self.share(said)
