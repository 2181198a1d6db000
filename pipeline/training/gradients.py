"""The gradients of a step: every pack of this process through one segment, forward and backward, in micro-batches.

pipeline.training.trainer calls it and updates the weights. A micro-batch is a range of sequences of a pack; the gradients of
micro-batches add up to those of the pack, so that their number (`train.pieces`) changes only how much memory is needed.
Carries and weights stay as they are, so that a step that failed can be repeated.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.packs import PackMaker
from pipeline.device import to_batch
from pipeline.models.batch import Batch
from pipeline.models.layout import to_device
from pipeline.models.loss import going_on_target, segment_loss
from pipeline.models.network import Network
from pipeline.models.task_memory import RowGradient, RowGradients
from pipeline.training.carry import (
    Carry,
    StepBatch,
    assemble_state,
    cut_evenly,
    halt_packs,
    join_batches,
    join_carries,
    share_answer,
)
from pipeline.training.communication import AsyncCopy
from pipeline.training.execution import JOINED, Execution, SegmentResult
from pipeline.training.memory_tables import take_gradients
from pipeline.training.metrics import Totals


@dataclass(frozen=True)
class Computed:
    """The result of the packs of a step, besides the gradients of the parameters."""

    carries: dict[int, Carry]
    """By number of the pack: what continues."""
    row_gradients: list[RowGradients]
    """For the tables of the task memory, of each micro-batch."""
    tasks: list[npt.NDArray[np.int64]]
    """(B,) of the sequences of each micro-batch."""
    counts: Totals
    """Sequences, tokens and segments of all micro-batches; their losses are in `figures`."""
    figures: Tensor
    """(P, 3) on the device: `SegmentResult.figures` of each micro-batch."""
    copy: AsyncCopy
    """Of the figures."""

    @cached_property
    def totals(self) -> Totals:
        """What the step adds to the metrics; waits until it is computed."""
        token_loss, halting_loss, exact = self.copy.wait().sum(0).tolist()
        return replace(self.counts, token_loss=token_loss, halting_loss=halting_loss, exact=exact)

    @cached_property
    def broken(self) -> set[int]:
        """Tasks of micro-batches whose loss is not finite; waits until it is computed."""
        finite = self.copy.wait().isfinite().all(dim=1).tolist()
        return {task for tasks, fine in zip(self.tasks, finite, strict=True) if not fine for task in tasks.tolist()}


@dataclass(frozen=True)
class Gradients:
    """Computes the gradients of packs. `model` is `network` as Accelerate has prepared it."""

    accelerator: Accelerator
    model: nn.Module
    network: Network
    maker: PackMaker
    config: Config
    dtype: torch.dtype
    execution: Execution

    def compute(
        self,
        batches: Mapping[int, StepBatch],
        carries: Mapping[int, Carry],
        pieces: int,
        scale: Tensor | float,
        sync: bool = True,
        depth: float = 1.0,
    ) -> Computed:
        """Add the gradients of the summed loss of `batches`, times `scale`, to the parameters; each is cut into `pieces`.

        With `pieces` JOINED all of them are one micro-batch, which is faster where the device has the memory: one pack may not
        keep it busy. With `sync` the last backward pass of this process shares all its gradients with the other processes. Only
        halting and a reader of the result wait for the device. `depth` is that of the segments (`Reasoner.updates`).
        """
        carried: dict[int, Carry] = {}
        row_gradients: list[RowGradients] = []
        tasks: list[npt.NDArray[np.int64]] = []
        counts = Totals()
        figures: list[Tensor] = []
        if pieces == JOINED:
            joined, carry, owner = join_batches(list(batches.values()), [carries[pack] for pack in batches], self.maker)
            units = [(list(batches), [joined], carry)]
        else:
            owner = None
            cuts = {pack: cut_evenly(self.maker.tokens(batch.samples), pieces) for pack, batch in batches.items()}
            units = [([pack], [batch[cut] for cut in cuts[pack]], carries[pack]) for pack, batch in batches.items()]
        for packs, parts, carry in units:
            continues: list[list[Carry]] = []
            for part in parts:
                pack = self.maker.make(self.maker.expand(part.samples))
                last = sync and part is units[-1][1][-1]
                with nullcontext() if last else self.accelerator.no_sync(self.model):
                    room = self.execution.room(len(pack.inputs), len(pack.task), pieces, len(packs))
                    batch = to_batch(pack, self.config.memory.tokens, self.accelerator.device, room)
                    outcome = self.execution.run(partial(self._segment, part, carry, batch, scale, depth), batch.layout)
                count, tokens = len(part.samples), int(self.maker.tokens(part.samples).sum())
                mine = [np.ones(count, bool)] if owner is None else [owner == place for place in range(len(packs))]
                continues.append(halt_packs(part, mine, outcome.halting, outcome.state, self.maker, self.config.train))
                row_gradients.append(_of_samples(outcome.row_gradients, len(pack.task), self.maker.latents))
                tasks.append(pack.task[:: self.maker.latents])
                counts.add(Totals(sequences=count, tokens=tokens, segments=float(part.segments.sum() + count)))
                figures.append(outcome.figures)
                del batch, outcome  # nothing else of them may stay in memory
            carried |= {pack: join_carries(of_pack) for pack, *of_pack in zip(packs, *continues, strict=True)}
        stacked = torch.stack(figures)
        return Computed(carried, row_gradients, tasks, counts, stacked, AsyncCopy(stacked))

    def _segment(self, part: StepBatch, carry: Carry, batch: Batch, scale: Tensor | float, depth: float) -> SegmentResult:
        """Run one segment of `part`, forward and backward; Q-learning runs one more to see what going on is worth.

        `batch` is its pack on the device.
        """
        train, going_on = self.config.train, None
        assert batch.labels is not None, "training packs have labels"
        initial = self.network.reasoner.start(batch.layout, self.dtype, train.latents)
        segment = self.model(assemble_state(initial, carry, part, self.maker), batch, None, depth)
        if train.halting == "q-learning" and train.segments > 1:
            last = np.zeros(batch.layout.sequences, bool)
            last[: len(part.segments)] = part.segments + 1 >= train.segments
            with torch.no_grad():
                following = self.network(segment.state, batch, None, depth).halting
                going_on = going_on_target(following, to_device(last, self.accelerator.device))
        weight = 0.0 if train.halting == "off" else train.halting_weight
        given = segment.logits, segment.halting, batch.labels, batch.layout
        loss = segment_loss(*given, train.loss, going_on, weight, train.label_smoothing, latents=train.latents)
        self.accelerator.backward(loss.total * scale)
        figures = torch.stack((loss.token.detach(), loss.halting.detach(), loss.exact.sum().float()))
        halting, state = segment.halting.detach(), segment.state
        if loss.winner is not None:
            halting, state = halting[loss.winner], share_answer(state, loss.winner, batch.layout, train.latents)
        return SegmentResult(figures, halting, state, take_gradients(self.network))


def _of_samples(gradients: RowGradients, sequences: int, latents: int) -> RowGradients:
    """Return the gradients of rows of each sample, without the blank sequences that fill up a room after `sequences`."""
    return {
        table: RowGradient(each.index[:sequences:latents], each.gradient[:sequences].unflatten(0, (-1, latents)).sum(dim=1))
        if latents > 1
        else RowGradient(each.index[:sequences], each.gradient[:sequences])
        for table, each in gradients.items()
    }
