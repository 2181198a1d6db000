"""Into how many micro-batches (`train.pieces`) a pack is cut so that a step fits into the memory of the device: by trial.

pipeline.training.trainer calls it before the first step. A trial leaves the state of the training as it was.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from pipeline.device import gather
from pipeline.device_limits import OutOfMemory, first_line, free_cache, ran_out_of_memory
from pipeline.training.carry import Carry, StepBatch, empty_carry, next_batch
from pipeline.training.execution import JOINED, cut_finer
from pipeline.training.state import TrainState

logger = logging.getLogger(__name__)

MOST_SHARE = 0.9
"""Of the device's memory that a step may use; the rest is for fragmentation."""
BUSY_TOKENS = 65_536
"""So many tokens keep a GPU busy (BENCHMARKS.md, "A GPU, beside what was predicted"); not many more are joined."""
Compute = Callable[[dict[int, StepBatch], dict[int, Carry], int, float], object]
"""Forward and backward of the packs of this process, by number: (batches, carries, pieces, scale of the loss)."""


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


def measure_pieces(state: TrainState, compute: Compute, memory: CudaMemory) -> int:
    """Return the `pieces` of packs in every process: as many as the one with least room needs to stay under MOST_SHARE.

    Raises OutOfMemory where no number of pieces fits.
    """
    accelerator, optimizer = state.accelerator, state.optimizer
    batches = _largest_batches(state)
    fresh = not optimizer.states()
    rates = [group["lr"] for group in optimizer.param_groups]

    def trial(pieces: int) -> None:
        """Compute every pack of this process as the largest ones, beside all that training and a checkpoint keep in memory."""
        for parameter in state.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if fresh:  # a step at rate 0, without gradients, makes the optimizer's states and changes nothing else
            optimizer.clear_states()
            optimizer.set_rates(0.0)
            optimizer.step()
        state.weights_are_finite()
        for batch in batches:
            samples = batch.samples[np.argsort(batch.source)]
            initial = state.network.reasoner.initial_state(int(state.maker.tokens(samples).sum()), state.dtype)
            full = partial(Carry, samples, batch.segments, batch.place)
            carries = {pack: full(tuple(part.clone() for part in initial)) for pack in state.packs}
            compute(dict.fromkeys(state.packs, batch), carries, pieces, 1 / len(batch.samples))

    state.move_carries(torch.device("cpu"))
    try:
        most = max(len(batch.samples) for batch in batches)
        packs = -(-state.all_packs // accelerator.num_processes)  # in every process alike
        join = packs > 1 and packs * state.config.train.pack_tokens <= 2 * BUSY_TOKENS
        pieces = least_pieces(trial, memory, accelerator.device, most, JOINED if join else 1)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if fresh:
            optimizer.clear_states()
        free_cache(accelerator.device)
        state.move_carries(accelerator.device)
    return max(gather(accelerator, pieces))


def least_pieces(trial: Callable[[int], None], memory: CudaMemory, device: torch.device, most: int, pieces: int = 1) -> int:
    """Return the first of `pieces` (JOINED, or 1), 1, 2, 4.. for which `trial(pieces)` stays under MOST_SHARE of the memory.

    `most` are the sequences of a pack, and what is returned where none does. Raises OutOfMemory where not even that fits.
    """
    limit = MOST_SHARE * memory.total_bytes
    while True:
        free_cache(device)
        memory.reset()
        try:
            trial(pieces)
            lack = ""
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            lack = first_line(error)
        peak = memory.peak_bytes()
        if not lack and (peak <= limit or pieces >= most):
            used, total = f"{peak / 2**30:.1f}", f"{memory.total_bytes / 2**30:.1f}"
            way = "all packs are one micro-batch" if pieces == JOINED else f"a pack is computed in {pieces} micro-batches"
            logger.info("%s: a trial step used %s of %s GiB", way, used, total)
            return pieces
        if pieces >= most:
            raise OutOfMemory(
                "out of memory with a single sequence in each micro-batch: a smaller train.pack_tokens leaves more room for it "
                f"({lack})"
            )
        pieces = min(cut_finer(pieces), most)


def _largest_batches(state: TrainState) -> list[StepBatch]:
    """Return packs in which every sequence continues: one as it is drawn, and one of the longest sequence where they differ."""
    train, maker, step, pack = state.config.train, state.maker, state.progress.step, state.packs[0]
    packs = [next_batch(empty_carry(), maker, train, step, pack).samples]
    every = maker.plain()
    tokens = maker.tokens(every)
    if tokens.min() < tokens.max():
        count = 1 + (train.pack_tokens + tokens.max() - 2) // tokens.max()  # one token was missing, the longest came
        packs.append(every[np.full(count, tokens.argmax())])
    carries = [Carry(samples, np.zeros(len(samples), np.int64), np.arange(len(samples)), None) for samples in packs]
    batches = [next_batch(carry, maker, train, step, pack) for carry in carries]
    return [replace(batch, least=np.full(len(batch.samples), train.segments)) for batch in batches]
