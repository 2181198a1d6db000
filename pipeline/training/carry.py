"""Rolling packs: a sequence stays, with its state, until it halts, and new ones are drawn into the room that it leaves.

What a pack holds at a step is a function of (seed, step, pack) and of what it held before, never of the process that works on
it: two processes with one pack each see what one process with two packs sees. Nor does it matter into how many pieces a pack
is cut to be computed: the carries of the pieces, joined, are that of the pack.

Who halts is known on the device first. With `train.halting_delay` that is acted on a step later, so that the next pack is made
while the device computes; everything else about a pack is known here.
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
from pipeline.models.layout import Layout, to_device
from pipeline.models.reasoner import State
from pipeline.training.communication import Reading

_FILL, _EXPLORE = 0, 1


@dataclass(frozen=True)
class Wishes:
    """Which sequences of a carry want to halt and may not yet."""

    parts: tuple[tuple[Reading, npt.NDArray[np.int64]], ...]
    """What sequences wanted, (B,) bool, and the places of those that went on; of each piece of a pack, in order."""

    @staticmethod
    def of(wants: npt.NDArray[np.bool_]) -> "Wishes":
        """Return the wishes of sequences that are known to want to halt, or not."""
        return Wishes(((Reading(torch.from_numpy(wants)), np.arange(len(wants))),))

    def take(self) -> npt.NDArray[np.bool_]:
        """Return who wants to halt, (B',) bool; waits for the step that found it."""
        return np.concatenate([reading.take().numpy()[places] for reading, places in self.parts])


@dataclass(frozen=True)
class Carry:
    """The sequences of a pack that go on, and their states."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run."""
    state: State | None
    """Each (N, D), the tokens of `samples` end to end; None where there are no sequences."""
    wishes: Wishes | None = None
    """Where wishes to halt are acted on a step later; None where there are no sequences."""

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device) -> "Carry":
        """Return the carry with its states on `device`."""
        return replace(self, state=None if self.state is None else tuple(part.to(device) for part in self.state))


@dataclass(frozen=True)
class Turn:
    """One pack at one step, before its segment; or a piece of it."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run before this one."""
    least: npt.NDArray[np.int64]
    """(B,) segments that each has to run before it may halt."""
    pack: Pack
    source: npt.NDArray[np.int64]
    """(B,) place of each sequence in the carry of the whole pack, -1 where it is new."""

    def cut(self, tokens: npt.NDArray[np.int64], pieces: int) -> list["Turn"]:
        """Return the turn in `pieces` of neighboring sequences, or in as many as it has sequences; `tokens` (B,) of each."""
        if pieces == 1:
            return [self]
        cells = np.concatenate(([0], self.pack.shapes.prod(axis=1).cumsum()))
        return [
            Turn(
                self.samples[part],
                self.segments[part],
                self.least[part],
                _part_of_pack(self.pack, part, slice(int(cells[part.start]), int(cells[part.stop]))),
                self.source[part],
            )
            for part in cut_evenly(tokens, pieces)
        ]


def cut_evenly(tokens: npt.NDArray[np.int64], pieces: int) -> list[slice]:
    """Return ranges that cut sequences of `tokens` (B,) into `pieces`, none of them empty, of about as many tokens each.

    No piece is larger than an even share by more than one sequence. There are B pieces where more are asked for.
    """
    count, pieces = len(tokens), min(pieces, len(tokens))
    ends = tokens.cumsum()
    number = np.arange(1, pieces)
    bounds = np.searchsorted(ends - tokens / 2, ends[-1] / pieces * number)  # the nearest ends of sequences
    bounds = np.maximum.accumulate(np.maximum(bounds - number, 0)) + number
    bounds = np.minimum(bounds, count - pieces + number)
    return [slice(start, stop) for start, stop in pairwise([0, *bounds.tolist(), count])]


def _part_of_pack(pack: Pack, part: slice, cells: slice) -> Pack:
    """Return the sequences `part` of `pack`, which have the cells `cells`."""
    return Pack(
        inputs=pack.inputs[cells],
        labels=None if pack.labels is None else pack.labels[cells],
        shapes=pack.shapes[part],
        offsets=pack.offsets[part],
        task=pack.task[part],
        transform=pack.transform[part],
        dihedral=pack.dihedral[part],
        colors=pack.colors[part],
    )


def begin() -> Carry:
    """Return the carry before the first step."""
    none = np.zeros(0, np.int64)
    return Carry(Samples(none, none, none.reshape(0, 2)), none, None)


def next_turn(carry: Carry, maker: Packs, config: TrainConfig, step: int, pack: int) -> Turn:
    """Fill the room that `carry` leaves in pack number `pack` with new samples and make the pack.

    With probability `exploration` a sequence has to run a random number of 2..`segments` segments before it may halt.
    """
    rng = step_generator(config.seed, step, pack, _FILL)
    room = config.pack_tokens - int(maker.tokens(carry.samples).sum())
    samples = carry.samples + maker.fill(room, rng, config.shift_probability)
    order = maker.order(samples)
    kept = len(carry)
    segments = np.concatenate((carry.segments, np.zeros(len(samples) - kept, np.int64)))[order]
    samples = samples[order]
    least = _least_segments(len(samples), config, step, pack)
    return Turn(samples, segments, least, maker.make(samples), np.where(order < kept, order, -1))


def _least_segments(count: int, config: TrainConfig, step: int, pack: int) -> npt.NDArray[np.int64]:
    """Draw how many segments each of `count` sequences has to run before it may halt. (B,)"""
    if config.segments == 1:
        return np.zeros(count, np.int64)
    rng = step_generator(config.seed, step, pack, _EXPLORE)
    explores = rng.random(count) < config.exploration
    return np.where(explores, rng.integers(2, config.segments + 1, size=count), 0)


def assemble_state(initial: State, carry: Carry, turn: Turn, layout: Layout, tokens: npt.NDArray[np.int64]) -> State:
    """Return the state of every token of `turn`: carried where its sequence goes on, `initial` (each (N, D)) where it is new.

    `tokens` (B',) is the number of tokens of each carried sequence.
    """
    if carry.state is None:
        return initial
    lengths, start = _lengths(turn, layout), tokens.cumsum() - tokens
    old = turn.source >= 0
    place = np.flatnonzero(np.repeat(old, lengths))  # in this pack
    shift = start[turn.source[old]] - (lengths.cumsum() - lengths)[old]  # of its sequences, from here to where they were
    device = layout.sequence.device
    here, there = to_device(place, device), to_device(place + np.repeat(shift, lengths[old]), device)
    return tuple(
        fresh.clone().index_copy_(0, here, before.index_select(0, there))
        for fresh, before in zip(initial, carry.state, strict=True)
    )


def _lengths(turn: Turn, layout: Layout) -> npt.NDArray[np.int64]:
    """Return the tokens of each sequence of `turn`. (B,)"""
    return turn.pack.shapes.prod(axis=1) + layout.memory_tokens


def halt(turn: Turn, halting: Tensor, state: State, layout: Layout, config: TrainConfig, before: Carry | None = None) -> Carry:
    """Return what goes on after a segment: all but the sequences that halt, by their logits `halting` (B, 2) or after the last.

    They halt when "learned" halting has a positive logit, "q-learning" a greater one than for going on, "off" never; and not
    before the least number of segments that `turn` gives them. With `halting_delay` they halt by their logits of the segment
    before, of which `before`, from which `turn` was made, knows.
    """
    done = turn.segments + 1
    goes_on, reading = done < config.segments, None
    if goes_on.any() and config.halting != "off":
        reading = Reading(_wants_to_halt(halting[: len(done)], config))
        wants = reading.take().numpy() if not config.halting_delay else _wanted(turn, before)
        goes_on &= ~(wants & (done >= turn.least))
    if not goes_on.any():
        return Carry(turn.samples[goes_on], done[goes_on], None)
    stay = to_device(np.flatnonzero(np.repeat(goes_on, _lengths(turn, layout))), layout.sequence.device)
    wishes = Wishes(((reading, np.flatnonzero(goes_on)),)) if reading is not None and config.halting_delay else None
    return Carry(turn.samples[goes_on], done[goes_on], tuple(part.index_select(0, stay) for part in state), wishes)


def _wanted(turn: Turn, before: Carry | None) -> npt.NDArray[np.bool_]:
    """Return which sequences of `turn` wanted to halt after the segment before this one. (B,)"""
    wanted = np.zeros(len(turn.samples), bool)
    if before is not None and before.wishes is not None:
        old = turn.source >= 0
        wanted[old] = before.wishes.take()[turn.source[old]]
    return wanted


def join_carries(parts: Sequence[Carry]) -> Carry:
    """Return the carry of a pack from those of its pieces, in order."""
    if len(parts) == 1:
        return parts[0]
    samples = sum((part.samples for part in parts[1:]), parts[0].samples)
    states = [part.state for part in parts if part.state is not None]
    state = tuple(torch.cat(same) for same in zip(*states, strict=True)) if states else None
    found = [part.wishes for part in parts if part.wishes is not None]
    wishes = Wishes(tuple(of_piece for each in found for of_piece in each.parts)) if found else None
    return Carry(samples, np.concatenate([part.segments for part in parts]), state, wishes)


def _wants_to_halt(halting: Tensor, config: TrainConfig) -> Tensor:
    """Return (B,) bool, by the logits `halting` (B, 2) of halting and of going on."""
    return halting[:, 0] > (halting[:, 1] if config.halting == "q-learning" else 0)
