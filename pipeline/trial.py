"""A trial step: forward and backward of the largest packs that are to be expected, after which everything is as before.

Comes before the first step of pipeline.train, which learns from it into how many pieces a pack has to be cut
(pipeline.memory_fit).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.carry import Carry, Turn, begin, next_turn
from pipeline.data.pack import Samples
from pipeline.memory_fit import MOST_SHARE, DeviceMemory, free_memory, least_pieces

if TYPE_CHECKING:
    from pipeline.train import Trainer


def measure_pieces(trainer: "Trainer", memory: DeviceMemory) -> int:
    """Return into how many pieces packs are cut in this and every other process: as many as the one with least room needs.

    Raises OutOfMemory where no number of pieces fits.
    """
    accelerator, trial = trainer.accelerator, Trial(trainer)
    most = max(len(turn.samples) for turn in trial.turns)
    with trial.as_before():
        share = MOST_SHARE if trainer.gradients.execution.kind != "graphed" else MOST_SHARE / 2  # a graph keeps its own
        pieces = least_pieces(trial.run, memory, accelerator.device, most, share)
    if accelerator.num_processes == 1:
        return pieces
    return int(accelerator.gather(torch.tensor([pieces], device=accelerator.device)).max())


class Trial:
    """Steps of one trainer that leave no trace."""

    def __init__(self, trainer: "Trainer") -> None:
        """Make packs in which every sequence goes on: one as it is drawn, and one of the longest sequence where they differ."""
        self.trainer = trainer
        self.fresh = not trainer.optimizer.states()
        train, maker = trainer.config.train, trainer.maker
        packs = [next_turn(begin(), maker, train, trainer.progress.step, trainer.packs[0]).samples]
        every = maker.plain()
        tokens = maker.tokens(every)
        if tokens.min() < tokens.max():
            count = 1 + (train.pack_tokens + tokens.max() - 2) // tokens.max()  # one token was missing, the longest came
            packs.append(every[np.full(count, tokens.argmax())])
        self.turns = [self._going_on(samples) for samples in packs]

    def _going_on(self, samples: Samples) -> Turn:
        """Return the turn of `samples` that are all carried, and none of which halts after it if another segment is allowed."""
        train, carry = self.trainer.config.train, Carry(samples, np.zeros(len(samples), np.int64), None)
        turn = next_turn(carry, self.trainer.maker, train, self.trainer.progress.step, self.trainer.packs[0])
        return replace(turn, least=np.full(len(turn.samples), train.segments))

    def run(self, pieces: int) -> None:
        """Compute every pack of this process as the largest ones, beside all that training and a checkpoint keep in memory."""
        trainer = self.trainer
        for parameter in trainer.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if self.fresh:  # a step at rate 0, without gradients, makes the optimizer's states and changes nothing else
            self._drop_states()
            trainer.optimizer.set_rates(0.0)
            trainer.optimizer.step()
        trainer.weights_are_finite()
        for turn in self.turns:
            carries = {pack: self._carry(turn) for pack in trainer.packs}
            scale = 1 / len(turn.samples)
            with trainer.gradients.execution.paused():
                trainer.gradients.compute(dict.fromkeys(trainer.packs, turn), carries, pieces, scale, sync=False)

    def _carry(self, turn: Turn) -> Carry:
        """Return what a pack has carried to `turn`."""
        trainer, samples = self.trainer, turn.samples[np.argsort(turn.source)]
        initial = trainer.network.reasoner.initial_state(int(trainer.maker.tokens(samples).sum()), trainer.dtype)
        return Carry(samples, turn.segments, tuple(part.clone() for part in initial))

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Put what the trainer carries out of the way, and bring it back; drop what the trial leaves."""
        trainer = self.trainer
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        trainer.move_carries(torch.device("cpu"))
        try:
            yield
        finally:
            trainer.optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            if self.fresh:
                self._drop_states()
            free_memory(trainer.accelerator.device)
            trainer.move_carries(trainer.accelerator.device)

    def _drop_states(self) -> None:
        for optimizer in self.trainer.optimizer.optimizers:
            optimizer.state.clear()
