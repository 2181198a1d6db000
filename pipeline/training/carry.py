"""Rolling packs: a sequence stays, with its state, until it halts, and new ones are drawn into the room that it leaves.

What a pack holds at a step is a function of (seed, step, pack) and of what it held before, never of the process that computes
it: two processes with one pack each see what one process with two packs sees. Nor does it matter into how many micro-batches a
pack is cut, nor whether the packs of a process are computed as one: the carries are the same.

Which sequences halt is known on the device first; everything else about a pack is known on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.data.packs import PackMaker, Samples, step_generator
from pipeline.models.layout import Integers, Layout, to_device
from pipeline.models.reasoner import State
from pipeline.training.communication import AsyncCopy

_FILL, _EXPLORE = 0, 1


@dataclass(frozen=True)
class Carry:
    """The sequences of a pack that continue, and their states."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run."""
    place: npt.NDArray[np.int64]
    """(B,) place that each had in the pack."""
    state: State | None
    """Each (N, D), the tokens of `samples` end to end; None where there are no sequences."""

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device) -> "Carry":
        """Return the carry with its states on `device`."""
        return replace(self, state=None if self.state is None else tuple(part.to(device) for part in self.state))


@dataclass(frozen=True)
class StepBatch:
    """The sequences of a pack at one step, before its segment; or those of a micro-batch."""

    samples: Samples
    """In the order of the pack."""
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run before this one."""
    least: npt.NDArray[np.int64]
    """(B,) segments that each has to run before it may halt."""
    source: npt.NDArray[np.int64]
    """(B,) number of each sequence in the carry of the whole pack, -1 where it is new."""
    place: npt.NDArray[np.int64]
    """(B,) place of each sequence in the whole pack."""

    def __getitem__(self, index: npt.NDArray[np.int64] | slice) -> "StepBatch":
        return StepBatch(*(getattr(self, field.name)[index] for field in fields(self)))


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


def join_batches(batches: Sequence[StepBatch], carries: Sequence[Carry], maker: PackMaker) -> tuple[StepBatch, Carry, Integers]:
    """Return the packs of a process as one, with their carries as one, and which of `batches` each sequence is of, (B,)."""
    samples = sum((batch.samples for batch in batches[1:]), batches[0].samples)
    names = ("segments", "least", "place")
    segments, least, place = (np.concatenate([getattr(batch, name) for batch in batches]) for name in names)
    starts = np.cumsum([0, *map(len, carries)])
    source = np.concatenate([np.where(b.source < 0, -1, b.source + start) for b, start in zip(batches, starts, strict=False)])
    owner = np.repeat(np.arange(len(batches)), [len(batch.samples) for batch in batches])
    order = maker.order(samples)  # stable: the sequences of a pack stay in order
    return StepBatch(samples, segments, least, source, place)[order], join_carries(carries), owner[order]


def empty_carry() -> Carry:
    """Return the carry before the first step."""
    none = np.zeros(0, np.int64)
    return Carry(Samples(none, none, none.reshape(0, 2)), none, none, None)


def next_batch(carry: Carry, maker: PackMaker, config: TrainConfig, step: int, pack: int) -> StepBatch:
    """Fill the room that `carry` leaves in pack number `pack` with new samples.

    With probability `exploration` a sequence has to run a random number of 2..`segments` segments before it may halt.
    """
    rng = step_generator(config.seed, step, pack, _FILL)
    room = config.pack_tokens - int(maker.tokens(carry.samples).sum())
    if config.sampling == "views":
        new, place = _draw_views(carry, maker, config, room, rng)
        samples = carry.samples + new
        order = np.argsort(np.concatenate((carry.place, place)), kind="stable")
        order = order[maker.order(samples[order])]
    else:
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
    return StepBatch(samples, segments, least, np.where(order < kept, order, -1), np.arange(count))


def _draw_views(
    carry: Carry, maker: PackMaker, config: TrainConfig, room: int, rng: np.random.Generator
) -> tuple[Samples, Integers]:
    """Draw a whole pack of views; return its samples in the places that `carry` leaves free, and these places.

    So it is in published batches (HRM, TRM, URM), whose sequences are equally long. Where they are not, the places are those
    of the sequences in order, and samples of others make up for what is left of the `room`.
    """
    drawn = maker.fill(config.pack_tokens, rng, config.shift_probability, views=True)
    places = np.arange(len(drawn))
    taken = np.isin(places, carry.place)
    places = np.concatenate((places[~taken], places[taken]))
    new = maker.cut(drawn[places], room)
    return new, places[: len(new)]


def assemble_state(initial: State, carry: Carry, batch: StepBatch, maker: PackMaker) -> State:
    """Return the state of every token of `batch`: carried where its sequence continues, else `initial`, each (N, D)."""
    if carry.state is None:
        return initial
    lengths, carried = maker.tokens(batch.samples), maker.tokens(carry.samples)
    start = carried.cumsum() - carried
    old = batch.source >= 0
    place = np.flatnonzero(np.repeat(old, lengths))  # in this pack
    shift = start[batch.source[old]] - (lengths.cumsum() - lengths)[old]  # of its sequences, from here to where they were
    device = initial[0].device
    here, there = to_device(place, device), to_device(place + np.repeat(shift, lengths[old]), device)
    return tuple(
        fresh.clone().index_copy_(0, here, before.index_select(0, there))
        for fresh, before in zip(initial, carry.state, strict=True)
    )


def share_answer(state: State, winner: Tensor, layout: Layout, latents: int) -> State:
    """Return `state` with the answer of each sample's `winner` (B,) in the sequences of all its latents, which stay."""
    place = torch.arange(layout.tokens, device=winner.device) - layout.first[layout.sequence]
    token = layout.first[winner[layout.sequence // latents]] + place
    return (*(part.index_select(0, token) for part in state[:-1]), state[-1])


def halt_packs(
    batch: StepBatch,
    members: Sequence[npt.NDArray[np.bool_]],
    halting: Tensor,
    state: State,
    maker: PackMaker,
    config: TrainConfig,
) -> list[Carry]:
    """Return what continues after a segment, of each pack that is joined in `batch`; `members` (B,) mark their sequences.

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
    for mine in members:
        kept = continues & mine
        carried = None
        if kept.any():
            stay = to_device(np.flatnonzero(np.repeat(kept, maker.tokens(batch.samples))), halting.device)
            carried = tuple(part.index_select(0, stay) for part in state)
        carries.append(Carry(batch.samples[kept], done[kept], batch.place[kept], carried))
    return carries


def join_carries(parts: Sequence[Carry]) -> Carry:
    """Return the carry of a pack from those of its micro-batches, in order."""
    if len(parts) == 1:
        return parts[0]
    samples = sum((part.samples for part in parts[1:]), parts[0].samples)
    states = [part.state for part in parts if part.state is not None]
    state = tuple(torch.cat(same) for same in zip(*states, strict=True)) if states else None
    segments, place = (np.concatenate([getattr(part, name) for part in parts]) for name in ("segments", "place"))
    return Carry(samples, segments, place, state)
