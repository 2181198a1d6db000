"""What the processes of a training agree on at every step, through Accelerate: the clock of the main process decides for all.

On GPUs, results are read a step later, so that no process waits for its device.
"""

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.models.layout import to_device


class AsyncCopy:
    """Asynchronous device-to-host copy: it starts when this is made; `wait` for the values only when they are needed."""

    def __init__(self, tensor: Tensor) -> None:
        self.arrived: torch.cuda.Event | None = None
        self.values = tensor.detach()
        if tensor.is_cuda:
            self.values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.values.copy_(tensor.detach(), non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def wait(self) -> Tensor:
        """Return the values, on the CPU, when they have arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values


class Collectives:
    """Collective operations of a training: every process has to call the same ones, in the same order."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.several = accelerator.num_processes > 1
        self.waits = accelerator.device.type != "cuda" or accelerator.scaler is not None
        """Whether the result of a step is read before the weights change, and not, as on a GPU, during the next step. A scaler
        of losses waits anyway, to see whether gradients overflow."""
        self.begin()

    def begin(self) -> None:
        """Forget the earlier calls of `agree`."""
        self.before: AsyncCopy | None = None
        """What was shared at the step before, where it was not waited for."""
        self.due_was_shared = False
        """A checkpoint that is due is announced once, though the agreement comes a step later."""

    def share(self, values: Tensor | npt.NDArray[np.float32]) -> Tensor:
        """Return the sum of `values` over all processes, on the device, without waiting for it."""
        mine = values if isinstance(values, Tensor) else to_device(values, self.accelerator.device)
        return self.accelerator.reduce(mine, "sum") if self.several else mine

    def counts(self, mine: int) -> Tensor:
        """Return the number of each process, (P,) float32 on the device, without waiting for it."""
        counts = np.zeros(self.accelerator.num_processes, np.float32)
        counts[self.accelerator.process_index] = mine
        return self.share(counts)

    def agree(self, by_time: float, stop: bool, due: bool, interrupted: bool) -> tuple[float, bool, bool, bool]:
        """Return the first three values of the main process, and whether any process was interrupted.

        On GPUs, those of the step before; at the first step its own.
        """
        if not self.several:
            return by_time, stop, due, interrupted
        due = due and (self.waits or not self.due_was_shared)
        self.due_was_shared = due
        figures = [by_time, stop, due] if self.accelerator.is_main_process else [0.0, 0.0, 0.0]
        now = AsyncCopy(self.share(np.array([*figures, interrupted], np.float32)))
        before, self.before = now if self.waits else self.before, now
        by_time, stop, due, interrupted = (before or now).wait().tolist()
        due = due and before is not None  # else it would be announced twice
        return by_time, bool(stop), bool(due), bool(interrupted)
