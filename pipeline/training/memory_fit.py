"""Into how many pieces a pack has to be cut so that a step fits into the memory of the device: found by trying.

Called by pipeline.training.trainer before the first step; a trial leaves no trace in the state that it works on.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from pipeline.data.packs import Samples
from pipeline.device import OutOfMemory, free_memory, ran_out_of_memory
from pipeline.training.carry import Carry, Turn, begin, next_turn
from pipeline.training.gradients import Gradients
from pipeline.training.state import TrainState

logger = logging.getLogger(__name__)

MOST_SHARE = 0.9
"""Of the device's memory that a step may use; the rest is for what lies scattered between what is in use."""


class DeviceMemory(Protocol):
    """What is asked about the memory of a device."""

    total_bytes: int

    def reset(self) -> None:
        """Forget the peak so far."""

    def peak_bytes(self) -> int:
        """Return the most that was in use since `reset`, by this process and by others."""


class CudaMemory:
    """The memory of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total_bytes: int = torch.cuda.mem_get_info(device)[1]

    def reset(self) -> None:
        """Forget the peak so far."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """Return the peak of this process's tensors, and what everything else has now: other processes, and CUDA itself."""
        free, total = torch.cuda.mem_get_info(self.device)
        elsewhere = total - free - torch.cuda.memory_reserved(self.device)
        return elsewhere + torch.cuda.max_memory_allocated(self.device)


def least_pieces(
    trial: Callable[[int], None], memory: DeviceMemory, device: torch.device, most: int, share: float = MOST_SHARE
) -> int:
    """Return the least power of two for which `trial(pieces)` stays under a `share` of the memory, `most` where none does.

    `most` are the sequences of a pack. Raises OutOfMemory where even that many pieces do not fit.
    """
    limit, pieces = share * memory.total_bytes, 1
    while True:
        free_memory(device)
        memory.reset()
        fits = _fits(trial, pieces)
        peak = memory.peak_bytes()
        if fits and (peak <= limit or pieces >= most):
            used, total = f"{peak / 2**30:.1f}", f"{memory.total_bytes / 2**30:.1f}"
            logger.info("a pack is computed in %d pieces: a trial step used %s of %s GiB", pieces, used, total)
            return pieces
        if pieces >= most:
            raise OutOfMemory(
                "out of memory with a single sequence in each piece: a smaller train.pack_tokens leaves more room for it"
            )
        pieces = min(2 * pieces, most)


def _fits(trial: Callable[[int], None], pieces: int) -> bool:
    try:
        trial(pieces)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        return False
    return True


def measure_pieces(state: TrainState, gradients: Gradients, memory: DeviceMemory) -> int:
    """Return into how many pieces packs are cut in this and every other process: as many as the one with least room needs.

    Raises OutOfMemory where no number of pieces fits.
    """
    accelerator, trial = state.accelerator, Trial(state, gradients)
    most = max(len(turn.samples) for turn in trial.turns)
    with trial.as_before():
        share = MOST_SHARE if gradients.execution.kind != "graphed" else MOST_SHARE / 2  # a graph keeps its own
        pieces = least_pieces(trial.run, memory, accelerator.device, most, share)
    if accelerator.num_processes == 1:
        return pieces
    return int(accelerator.gather(torch.tensor([pieces], device=accelerator.device)).max())


class Trial:
    """Steps of one trainer that leave no trace."""

    def __init__(self, state: TrainState, gradients: Gradients) -> None:
        """Make packs in which every sequence goes on: one as it is drawn, and one of the longest sequence where they differ."""
        self.state, self.gradients = state, gradients
        self.fresh = not state.optimizer.states()
        train, maker = state.config.train, state.maker
        packs = [next_turn(begin(), maker, train, state.progress.step, state.packs[0]).samples]
        every = maker.plain()
        tokens = maker.tokens(every)
        if tokens.min() < tokens.max():
            count = 1 + (train.pack_tokens + tokens.max() - 2) // tokens.max()  # one token was missing, the longest came
            packs.append(every[np.full(count, tokens.argmax())])
        self.turns = [self._going_on(samples) for samples in packs]

    def _going_on(self, samples: Samples) -> Turn:
        """Return the turn of `samples` that are all carried, and none of which halts after it if another segment is allowed."""
        train, carry = self.state.config.train, Carry(samples, np.zeros(len(samples), np.int64), None)
        turn = next_turn(carry, self.state.maker, train, self.state.progress.step, self.state.packs[0])
        return replace(turn, least=np.full(len(turn.samples), train.segments))

    def run(self, pieces: int) -> None:
        """Compute every pack of this process as the largest ones, beside all that training and a checkpoint keep in memory."""
        state = self.state
        for parameter in state.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if self.fresh:  # a step at rate 0, without gradients, makes the optimizer's states and changes nothing else
            self._drop_states()
            state.optimizer.set_rates(0.0)
            state.optimizer.step()
        state.weights_are_finite()
        for turn in self.turns:
            carries = {pack: self._carry(turn) for pack in state.packs}
            scale = 1 / len(turn.samples)
            with self.gradients.execution.paused():
                self.gradients.compute(dict.fromkeys(state.packs, turn), carries, pieces, scale, sync=False)

    def _carry(self, turn: Turn) -> Carry:
        """Return what a pack has carried to `turn`."""
        state, samples = self.state, turn.samples[np.argsort(turn.source)]
        initial = state.network.reasoner.initial_state(int(state.maker.tokens(samples).sum()), state.dtype)
        return Carry(samples, turn.segments, tuple(part.clone() for part in initial))

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Put what the trainer carries out of the way, and bring it back; drop what the trial leaves."""
        state = self.state
        rates = [group["lr"] for group in state.optimizer.param_groups]
        state.move_carries(torch.device("cpu"))
        try:
            yield
        finally:
            state.optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            if self.fresh:
                self._drop_states()
            free_memory(state.accelerator.device)
            state.move_carries(state.accelerator.device)

    def _drop_states(self) -> None:
        for optimizer in self.state.optimizer.optimizers:
            optimizer.state.clear()
