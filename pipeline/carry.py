"""Rolling packs: a sequence stays, with its state, until it halts, and new ones are drawn into the room that it leaves.

What a pack holds at a step is a function of (seed, step, pack) and of what it held before, never of the process that works on
it: two processes with one pack each see what one process with two packs sees.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.data.pack import Pack, Packs, Samples, step_generator
from pipeline.reasoner.base import State
from pipeline.reasoner.layout import Layout

_FILL, _EXPLORE = 0, 1


@dataclass(frozen=True)
class Carry:
    """The sequences of a pack that go on, and their states."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run."""
    state: State | None
    """Each (N, D), the tokens of `samples` end to end; None where there are no sequences."""

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Turn:
    """One pack at one step, before its segment."""

    samples: Samples
    segments: npt.NDArray[np.int64]
    """(B,) segments that each has run before this one."""
    pack: Pack
    source: npt.NDArray[np.int64]
    """(B,) place of each sequence in the carry, -1 where it is new."""


def begin() -> Carry:
    """Return the carry before the first step."""
    none = np.zeros(0, np.int64)
    return Carry(Samples(none, none, none.reshape(0, 2)), none, None)


def next_turn(carry: Carry, maker: Packs, config: TrainConfig, step: int, pack: int) -> Turn:
    """Fill the room that `carry` leaves in pack number `pack` with new samples and make the pack."""
    rng = step_generator(config.seed, step, pack, _FILL)
    room = config.pack_tokens - int(maker.tokens(carry.samples).sum())
    samples = carry.samples + maker.fill(room, rng, config.shift_probability)
    order = maker.order(samples)
    kept = len(carry)
    segments = np.concatenate((carry.segments, np.zeros(len(samples) - kept, np.int64)))[order]
    samples = samples[order]
    return Turn(samples, segments, maker.make(samples), np.where(order < kept, order, -1))


def assemble_state(initial: State, carry: Carry, turn: Turn, layout: Layout, tokens: npt.NDArray[np.int64]) -> State:
    """Return the state of every token of `turn`: carried where its sequence goes on, `initial` (each (N, D)) where it is new.

    `tokens` (B',) is the number of tokens of each carried sequence.
    """
    if carry.state is None:
        return initial
    device = layout.sequence.device
    starts = np.concatenate((np.cumsum(tokens) - tokens, [0]))  # the last entry serves source -1
    start = torch.from_numpy(starts[turn.source]).to(device)
    goes_on = torch.from_numpy(turn.source >= 0).to(device)[layout.sequence]
    within = torch.arange(layout.tokens, device=device) - layout.first[layout.sequence]
    position = (start[layout.sequence] + within)[goes_on]
    return tuple(
        fresh.clone().index_copy_(0, goes_on.nonzero().flatten(), old[position])
        for fresh, old in zip(initial, carry.state, strict=True)
    )


def halt(turn: Turn, halting: Tensor, state: State, layout: Layout, config: TrainConfig, step: int, pack: int) -> Carry:
    """Return what goes on after a segment: all but the sequences that halt, by their logits `halting` (B, 2) or after the last.

    They halt when "learned" halting has a positive logit, "q-learning" a greater one than for going on, "off" never. With
    probability `exploration` a sequence has to run a random number of 2..`segments` segments before it may halt.
    """
    done = turn.segments + 1
    if config.segments == 1:
        goes_on = np.zeros(len(done), bool)
    else:
        rng = step_generator(config.seed, step, pack, _EXPLORE)
        explores = rng.random(len(done)) < config.exploration
        least = np.where(explores, rng.integers(2, config.segments + 1, size=len(done)), 0)
        wants = _wants_to_halt(halting, config).cpu().numpy()
        goes_on = (done < config.segments) & ~(wants & (done >= least))
    if not goes_on.any():
        return Carry(turn.samples[goes_on], done[goes_on], None)
    mask = torch.from_numpy(goes_on).to(layout.sequence.device)[layout.sequence]
    return Carry(turn.samples[goes_on], done[goes_on], tuple(part[mask] for part in state))


def _wants_to_halt(halting: Tensor, config: TrainConfig) -> Tensor:
    """Return (B,) bool, by the logits `halting` (B, 2) of halting and of going on."""
    if config.halting == "off":
        return torch.zeros(len(halting), dtype=torch.bool)
    return halting[:, 0] > (halting[:, 1] if config.halting == "q-learning" else 0)
