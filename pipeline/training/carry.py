"""Rolling packs: a sequence stays, with its state, until it halts, and new ones are drawn into the room that it leaves.

What a pack holds at a step is a function of (seed, step, pack) and of what it held before, never of the process that computes
it: two processes with one pack each see what one process with two packs sees. Nor does it matter into how many micro-batches a
pack is cut, nor whether the packs of a process are computed as one: the carries are the same.

Which sequences halt is known on the device first; everything else about a pack is known on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.data.packs import Pack, Packs, Samples, step_generator
from pipeline.models.layout import Integers, Layout, to_device
from pipeline.models.reasoner import State
from pipeline.training.communication import AsyncCopy

_FILL, _EXPLORE = 0, 1
_PER_SEQUENCE = ("shapes", "offsets", "task", "transform", "dihedral", "colors")
"""Fields of a Pack with one entry a sequence."""


@dataclass(frozen=True)
class Carry:
    """The sequences of a pack that continue, and their states."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run."""
    state: State | None
    """Each (N, D), the tokens of `samples` end to end; None where there are no sequences."""

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device) -> "Carry":
        """Return the carry with its states on `device`."""
        return replace(self, state=None if self.state is None else tuple(part.to(device) for part in self.state))


@dataclass(frozen=True)
class StepBatch:
    """One pack at one step, before its segment; or a micro-batch of it."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run before this one."""
    least: npt.NDArray[np.int64]
    """(B,) segments that each has to run before it may halt."""
    pack: Pack
    source: npt.NDArray[np.int64]
    """(B,) place of each sequence in the carry of the whole pack, -1 where it is new."""

    def cut(self, tokens: npt.NDArray[np.int64], pieces: int) -> list["StepBatch"]:
        """Return `pieces` micro-batches of neighboring sequences, or one for each sequence; `tokens` (B,) of each."""
        if pieces == 1:
            return [self]
        cells = np.concatenate(([0], self.pack.shapes.prod(axis=1).cumsum()))
        batches = []
        for part in cut_evenly(tokens, pieces):
            inside = slice(int(cells[part.start]), int(cells[part.stop]))
            labels = None if self.pack.labels is None else self.pack.labels[inside]
            rest = {name: getattr(self.pack, name)[part] for name in _PER_SEQUENCE}
            pack = Pack(inputs=self.pack.inputs[inside], labels=labels, **rest)
            batches.append(StepBatch(self.samples[part], self.segments[part], self.least[part], pack, self.source[part]))
        return batches


def cut_evenly(tokens: npt.NDArray[np.int64], pieces: int) -> list[slice]:
    """Return ranges that cut sequences of `tokens` (B,) into `pieces`, none of them empty, of about as many tokens each.

    No piece is larger than an even share by more than one sequence. There are at most B pieces.
    """
    count, pieces = len(tokens), min(pieces, len(tokens))
    ends = tokens.cumsum()
    number = np.arange(1, pieces)
    bounds = np.searchsorted(ends - tokens / 2, ends[-1] / pieces * number)  # the nearest ends of sequences
    bounds = np.maximum.accumulate(np.maximum(bounds - number, 0)) + number
    bounds = np.minimum(bounds, count - pieces + number)
    return [slice(start, stop) for start, stop in pairwise([0, *bounds.tolist(), count])]


def join_batches(batches: Sequence[StepBatch], carries: Sequence[Carry], maker: Packs) -> tuple[StepBatch, Carry, Integers]:
    """Return the packs of a process as one, with their carries as one, and the place in `batches` of each sequence, (B,)."""
    samples = sum((batch.samples for batch in batches[1:]), batches[0].samples)
    order = maker.order(samples)  # stable: the sequences of a pack stay in order
    shapes = np.concatenate([batch.pack.shapes for batch in batches])
    areas = shapes.prod(axis=1)
    first, lengths = (areas.cumsum() - areas)[order], areas[order]
    cells = np.repeat(first - (lengths.cumsum() - lengths), lengths) + np.arange(lengths.sum())
    packs = [batch.pack for batch in batches]
    inputs = np.concatenate([pack.inputs for pack in packs])[cells]
    labels = np.concatenate([pack.labels for pack in packs if pack.labels is not None])[cells]
    rest = {name: np.concatenate([getattr(pack, name) for pack in packs])[order] for name in _PER_SEQUENCE}
    starts = np.cumsum([0, *map(len, carries)])
    source = np.concatenate([np.where(b.source < 0, -1, b.source + start) for b, start in zip(batches, starts, strict=False)])
    segments, least = (np.concatenate([getattr(batch, name) for batch in batches])[order] for name in ("segments", "least"))
    joined = StepBatch(samples[order], segments, least, Pack(inputs=inputs, labels=labels, **rest), source[order])
    owner = np.repeat(np.arange(len(batches)), [len(batch.samples) for batch in batches])
    return joined, join_carries(carries), owner[order]


def empty_carry() -> Carry:
    """Return the carry before the first step."""
    none = np.zeros(0, np.int64)
    return Carry(Samples(none, none, none.reshape(0, 2)), none, None)


def next_batch(carry: Carry, maker: Packs, config: TrainConfig, step: int, pack: int) -> StepBatch:
    """Fill the room that `carry` leaves in pack number `pack` with new samples and make the pack.

    With probability `exploration` a sequence has to run a random number of 2..`segments` segments before it may halt.
    """
    rng = step_generator(config.seed, step, pack, _FILL)
    room = config.pack_tokens - int(maker.tokens(carry.samples).sum())
    samples = carry.samples + maker.fill(room, rng, config.shift_probability)
    order = maker.order(samples)
    kept, count = len(carry), len(samples)
    segments = np.concatenate((carry.segments, np.zeros(count - kept, np.int64)))[order]
    samples = samples[order]
    least = np.zeros(count, np.int64)
    if config.segments > 1:
        rng = step_generator(config.seed, step, pack, _EXPLORE)
        explores = rng.random(count) < config.exploration
        least = np.where(explores, rng.integers(2, config.segments + 1, size=count), 0)
    return StepBatch(samples, segments, least, maker.make(samples), np.where(order < kept, order, -1))


def assemble_state(initial: State, carry: Carry, batch: StepBatch, layout: Layout, tokens: npt.NDArray[np.int64]) -> State:
    """Return the state of every token of `batch`: carried where its sequence continues, else `initial`, each (N, D).

    `tokens` (B',) is the number of tokens of each carried sequence.
    """
    if carry.state is None:
        return initial
    lengths, start = _lengths(batch, layout), tokens.cumsum() - tokens
    old = batch.source >= 0
    place = np.flatnonzero(np.repeat(old, lengths))  # in this pack
    shift = start[batch.source[old]] - (lengths.cumsum() - lengths)[old]  # of its sequences, from here to where they were
    device = layout.sequence.device
    here, there = to_device(place, device), to_device(place + np.repeat(shift, lengths[old]), device)
    return tuple(
        fresh.clone().index_copy_(0, here, before.index_select(0, there))
        for fresh, before in zip(initial, carry.state, strict=True)
    )


def _lengths(batch: StepBatch, layout: Layout) -> npt.NDArray[np.int64]:
    return batch.pack.shapes.prod(axis=1) + layout.memory_tokens


def halt_packs(
    batch: StepBatch, packs: Sequence[npt.NDArray[np.bool_]], halting: Tensor, state: State, layout: Layout, config: TrainConfig
) -> list[Carry]:
    """Return what continues after a segment, of each pack that is joined in `batch`; `packs` (B,) mark their sequences.

    All sequences continue but those that halt by the logits `halting` (B, 2), or have run all segments. They halt when
    "learned" halting has a positive logit, "q-learning" a greater one than for going on, "off" never; and not before the least
    number of segments that `batch` gives them. Waits for the logits, which costs a GPU a few percent of a step: docs/log.md.
    """
    done = batch.segments + 1
    continues = done < config.segments
    if continues.any() and config.halting != "off":
        logits = halting[: len(done)]
        halts = AsyncCopy(logits[:, 0] > (logits[:, 1] if config.halting == "q-learning" else 0)).wait().numpy()
        continues &= ~(halts & (done >= batch.least))
    carries = []
    for mine in packs:
        kept = continues & mine
        carried = None
        if kept.any():
            stay = to_device(np.flatnonzero(np.repeat(kept, _lengths(batch, layout))), layout.sequence.device)
            carried = tuple(part.index_select(0, stay) for part in state)
        carries.append(Carry(batch.samples[kept], done[kept], carried))
    return carries


def join_carries(parts: Sequence[Carry]) -> Carry:
    """Return the carry of a pack from those of its micro-batches, in order."""
    if len(parts) == 1:
        return parts[0]
    samples = sum((part.samples for part in parts[1:]), parts[0].samples)
    states = [part.state for part in parts if part.state is not None]
    state = tuple(torch.cat(same) for same in zip(*states, strict=True)) if states else None
    return Carry(samples, np.concatenate([part.segments for part in parts]), state)
