"""The gradients of a step: every pack of this process through one segment, forward and backward, whole or in pieces.

Called by pipeline.train, which updates the weights. A piece is some neighboring sequences of a pack; gradients of pieces add up
to those of the pack, so that their number changes how much memory is needed, and nothing else. Carries and weights are left as
they are: a step that failed can be repeated.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.carry import Carry, Turn, assemble_state, halt, join_carries
from pipeline.config import Config
from pipeline.data.pack import Packs
from pipeline.engine import to_batch
from pipeline.progress import Totals
from pipeline.reasoner.base import Segment
from pipeline.reasoner.loss import SegmentLoss, going_on_target, segment_loss
from pipeline.reasoner.network import Batch, Network
from pipeline.tables import Found, take_gradients


@dataclass(frozen=True)
class Computed:
    """What the packs of a step came to, besides the gradients of the parameters."""

    carries: dict[int, Carry]
    """By number of the pack: what goes on."""
    found: list[Found]
    """For the tables of the task memory, of each backward pass."""
    totals: Totals
    broken: set[int]
    """Tasks of pieces whose loss is not finite."""


@dataclass(frozen=True)
class Gradients:
    """Computes the gradients of packs. `model` is `network` as Accelerate has prepared it."""

    accelerator: Accelerator
    model: nn.Module
    network: Network
    maker: Packs
    config: Config
    dtype: torch.dtype

    def compute(
        self, turns: Mapping[int, Turn], carries: Mapping[int, Carry], pieces: int, scale: float, sync: bool = True
    ) -> Computed:
        """Add the gradients of the summed loss, times `scale`, of all `turns` to the parameters, each turn in `pieces`.

        With `sync` the last backward pass of this process shares the gradients of all with the other processes.
        """
        whole, last_pack = Computed({}, [], Totals(), set()), max(turns)
        for pack, turn in turns.items():
            carry, parts = carries[pack], turn.cut(self.maker.tokens(turn.samples), pieces)
            lengths = self.maker.tokens(carry.samples)
            goes_on = []
            for number, part in enumerate(parts, start=1):
                last = sync and number == len(parts) and pack == last_pack
                with nullcontext() if last else self.accelerator.no_sync(self.model):
                    goes_on.append(self._compute_piece(part, carry, lengths, scale, whole))
            whole.carries[pack] = join_carries(goes_on)
        return whole

    def _compute_piece(
        self, turn: Turn, carry: Carry, lengths: npt.NDArray[np.int64], scale: float, whole: Computed
    ) -> Carry:  # nothing of the piece stays in memory but what is returned
        """Add a piece to `whole` and return what goes on of it; `lengths` (B',) are the tokens of the carried sequences."""
        batch = to_batch(turn.pack, self.config.memory.tokens, self.accelerator.device)
        initial = self.network.reasoner.initial_state(batch.layout.tokens, self.dtype)
        segment = self.model(assemble_state(initial, carry, turn, batch.layout, lengths), batch)
        loss = self._loss(segment, batch, turn.segments)
        self.accelerator.backward(loss.total * scale)
        whole.found.append(take_gradients(self.network))
        figures = torch.stack((loss.token, loss.halting, loss.exact.sum().float())).tolist()
        if not all(map(math.isfinite, figures)):
            whole.broken.update(turn.pack.task.tolist())
        token_loss, halting_loss, exact = figures
        count, segments = len(turn.samples), float(turn.segments.sum() + len(turn.samples))
        whole.totals.add(Totals(token_loss, halting_loss, exact, count, batch.layout.tokens, segments))
        return halt(turn, segment.halting, segment.state, batch.layout, self.config.train)

    def _loss(self, segment: Segment, batch: Batch, segments_before: npt.NDArray[np.int64]) -> SegmentLoss:
        """Return the loss of one segment; Q-learning looks one segment ahead for what going on is worth."""
        train, going_on = self.config.train, None
        if train.halting == "q-learning" and train.segments > 1:
            last = torch.from_numpy(segments_before + 1 >= train.segments).to(segment.halting.device)
            with torch.no_grad():
                going_on = going_on_target(self.network(segment.state, batch).halting, last)
        assert batch.labels is not None, "training packs have labels"
        weight = 0.0 if train.halting == "off" else 0.5
        return segment_loss(segment.logits, segment.halting, batch.labels, batch.layout, train.loss, going_on, weight)
