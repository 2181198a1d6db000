"""The gradients of a step: every pack of this process through one segment, forward and backward, whole or in pieces.

Called by pipeline.training.trainer, which updates the weights. A piece is some neighboring sequences of a pack; gradients of
pieces add up to those of the pack, so that their number changes how much memory is needed, and nothing else. Carries and
weights are left as they are: a step that failed can be repeated.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.packs import Packs
from pipeline.device import to_batch
from pipeline.models.layout import to_device
from pipeline.models.loss import SegmentLoss, going_on_target, segment_loss
from pipeline.models.network import Network
from pipeline.models.reasoner import Segment
from pipeline.models.task_memory import RowGradient
from pipeline.training.carry import Carry, Turn, assemble_state, halt, join_carries
from pipeline.training.communication import Reading
from pipeline.training.compilation import Execution, Inputs, Outcome
from pipeline.training.memory_tables import Found, take_gradients
from pipeline.training.metrics import Totals


@dataclass(frozen=True)
class PieceCounts:
    """What is known of a piece before it is computed."""

    tasks: npt.NDArray[np.int64]
    """(B,)"""
    tokens: int
    segments: float
    """Run by its sequences so far, this one included."""


@dataclass(frozen=True)
class Computed:
    """What the packs of a step came to, besides the gradients of the parameters."""

    carries: dict[int, Carry]
    """By number of the pack: what goes on."""
    found: list[Found]
    """For the tables of the task memory, of each backward pass."""
    counts: list[PieceCounts]
    figures: Tensor
    """(P, 3) on the device: `Outcome.figures` of each piece."""
    reading: Reading
    """Of the figures."""

    @cached_property
    def totals(self) -> Totals:
        """What the step adds to the metrics; waits until it is computed."""
        token_loss, halting_loss, exact = self.reading.take().sum(0).tolist()
        return Totals(
            token_loss,
            halting_loss,
            exact,
            sum(len(piece.tasks) for piece in self.counts),
            sum(piece.tokens for piece in self.counts),
            sum(piece.segments for piece in self.counts),
        )

    @cached_property
    def broken(self) -> set[int]:
        """Tasks of pieces whose loss is not finite; waits until it is computed."""
        finite = self.reading.take().isfinite().all(dim=1).tolist()
        return {task for piece, fine in zip(self.counts, finite, strict=True) if not fine for task in piece.tasks.tolist()}


@dataclass(frozen=True)
class Gradients:
    """Computes the gradients of packs. `model` is `network` as Accelerate has prepared it."""

    accelerator: Accelerator
    model: nn.Module
    network: Network
    maker: Packs
    config: Config
    dtype: torch.dtype
    execution: Execution

    def compute(
        self, turns: Mapping[int, Turn], carries: Mapping[int, Carry], pieces: int, scale: Tensor | float, sync: bool = True
    ) -> Computed:
        """Add the gradients of the summed loss, times `scale`, of all `turns` to the parameters, each turn in `pieces`.

        With `sync` the last backward pass of this process shares the gradients of all with the other processes. Nothing waits
        for the device but what reads the result, and halting without delay.
        """
        if not isinstance(scale, Tensor):
            scale = to_device(np.array(scale, np.float32), self.accelerator.device)
        carried, last_pack = {}, max(turns)
        outcomes: list[Outcome] = []
        counts: list[PieceCounts] = []
        for pack, turn in turns.items():
            carry, parts = carries[pack], turn.cut(self.maker.tokens(turn.samples), pieces)
            lengths = self.maker.tokens(carry.samples)
            goes_on = []
            for number, part in enumerate(parts, start=1):
                last = sync and number == len(parts) and pack == last_pack
                with nullcontext() if last else self.accelerator.no_sync(self.model):
                    inputs = self._inputs(part, carry, lengths, scale, pieces)
                    outcome = self.execution.run(self._segment, inputs)
                layout, segments = inputs.batch.layout, float(part.segments.sum() + len(part.samples))
                goes_on.append(halt(part, outcome.halting, outcome.state, layout, self.config.train, carry))
                outcomes.append(replace(outcome, state=()))  # of which nothing else shall stay in memory
                counts.append(PieceCounts(part.pack.task, int(self.maker.tokens(part.samples).sum()), segments))
                del inputs, outcome
            carried[pack] = join_carries(goes_on)
        found = [_asked(outcome.found, len(count.tasks)) for outcome, count in zip(outcomes, counts, strict=True)]
        figures = torch.stack([outcome.figures for outcome in outcomes])
        return Computed(carried, found, counts, figures, Reading(figures))

    def _inputs(self, turn: Turn, carry: Carry, lengths: npt.NDArray[np.int64], scale: Tensor, pieces: int) -> Inputs:
        """Return a piece on the device; `lengths` (B',) are the tokens of the carried sequences."""
        device = self.accelerator.device
        room = self.execution.room(len(turn.pack.inputs), len(turn.samples), pieces)
        batch = to_batch(turn.pack, self.config.memory.tokens, device, room)
        initial = self.network.reasoner.initial_state(batch.layout.tokens, self.dtype)
        last = None
        if self.config.train.halting == "q-learning" and self.config.train.segments > 1:
            ends = np.zeros(batch.layout.sequences, bool)
            ends[: len(turn.segments)] = turn.segments + 1 >= self.config.train.segments
            last = to_device(ends, device)
        return Inputs(assemble_state(initial, carry, turn, batch.layout, lengths), batch, last, scale)

    def _segment(self, inputs: Inputs) -> Outcome:
        """Run one segment, forward and backward."""
        segment = self.model(inputs.state, inputs.batch)
        loss = self._loss(segment, inputs)
        self.accelerator.backward(loss.total * inputs.scale)
        figures = torch.stack((loss.token.detach(), loss.halting.detach(), loss.exact.sum().float()))
        return Outcome(figures, segment.halting.detach(), segment.state, take_gradients(self.network))

    def _loss(self, segment: Segment, inputs: Inputs) -> SegmentLoss:
        """Return the loss of one segment; Q-learning looks one segment ahead for what going on is worth."""
        train, batch, going_on = self.config.train, inputs.batch, None
        if inputs.last is not None:
            with torch.no_grad():
                going_on = going_on_target(self.network(segment.state, batch).halting, inputs.last)
        assert batch.labels is not None, "training packs have labels"
        weight = 0.0 if train.halting == "off" else 0.5
        return segment_loss(segment.logits, segment.halting, batch.labels, batch.layout, train.loss, going_on, weight)


def _asked(found: Found, sequences: int) -> Found:
    """Return what was found for the rows of the first `sequences`, after which blank ones may follow."""
    return {table: RowGradient(each.index[:sequences], each.gradient[:sequences]) for table, each in found.items()}
