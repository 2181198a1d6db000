"""Values on their way from a device to this machine: asked for now, taken later, so that the device need not wait meanwhile."""

import torch
from torch import Tensor


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
