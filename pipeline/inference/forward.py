"""Batched inference under a time limit: takes samples, yields output tokens and halting probabilities per pack."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import PredictConfig
from pipeline.data.packs import Pack, PackMaker, Samples
from pipeline.device import to_batch
from pipeline.device_limits import OutOfMemory, free_cache, ran_out_of_memory
from pipeline.models.batch import Batch
from pipeline.models.compiled import enable_compiler, time_to_compile
from pipeline.models.layout import Layout, to_device
from pipeline.models.network import Network
from pipeline.models.reasoner import Segment
from pipeline.system.time_limit import Budget

logger = logging.getLogger(__name__)

PACK_SECONDS = 2.0
"""A pack is kept so small that it takes about this long, so that the time limit is checked often enough."""


@dataclass(frozen=True)
class Draft:
    """The output for one pack after a segment, or after a cycle of the only segment."""

    tokens: npt.NDArray[np.uint8]
    """(C,) the output token of each cell."""
    probability: npt.NDArray[np.float32]
    """(B,) halting probability; it may not be finite."""


@dataclass(frozen=True)
class Output(Draft):
    """The output for one pack after the last segment. Its halting probability, how sure it is to be right, is finite."""

    samples: Samples
    pack: Pack
    logits: Tensor | None = None
    """If requested, where all samples have one latent and run all segments: (C, V) on the device."""
    drafts: tuple[Draft, ...] = ()
    """If requested: after each segment; where there is only one segment, after each of its cycles."""


class InferenceRunner:
    """Runs one network in this process and measures its speed."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, network: Network, maker: PackMaker, config: PredictConfig,
        keep_logits: bool = False, execution: str | None = None,
    ) -> None:  # fmt: skip
        """`execution` is `train.execution` of the weights; with None, code is compiled where it is already."""
        self.device, self.dtype, self.maker, self.config, self.keep_logits = device, dtype, maker, config, keep_logits
        self.network = network.to(device).eval()
        self.execution = execution
        self.prepared = execution is None
        """Whether it is decided if code is compiled."""
        self.tokens_per_second: float | None = None
        self.most_tokens = config.pack_tokens
        self.token_segments = 0
        """Tokens of all segments so far: what prediction has cost."""
        assert not keep_logits or (maker.latents == 1 and config.halting == "off")

    def predict(self, samples: Samples, budget: Budget, drafts: bool = False) -> Iterator[Output]:
        """Yield the output for each pack of `samples`, equal shapes together; stop when the next would not be in time.

        A pack that is too large for the memory is repeated in halves, and later ones are no larger. With `drafts`, an output
        has them. Raises OutOfMemory when a single sequence is too large.
        """
        samples = samples[self.maker.order(samples)]
        ends = self.maker.tokens(samples).cumsum()
        position = 0
        while position < len(samples):
            compiles = not self.prepared and self._prepare(budget)
            done_tokens = int(ends[position - 1]) if position else 0
            limit = done_tokens + self._pack_tokens(budget)
            stop = max(position + 1, int(np.searchsorted(ends, limit, side="right")))
            tokens = int(ends[stop - 1]) - done_tokens
            needed = tokens / self.tokens_per_second if self.tokens_per_second else 0.0
            if budget.remaining() < needed:
                return
            started, before = time.monotonic(), self.token_segments
            try:
                output = self.forward(samples[position:stop], drafts)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                if stop - position == 1:
                    raise OutOfMemory(f"out of memory with a single test input in a pack: {error}") from error
                output = None
            if output is None:  # only here has the error released the memory of the pack
                self.most_tokens = max(1, tokens // 2)
                logger.warning("out of memory: packs of %d tokens from now on, not %d", self.most_tokens, tokens)
                free_cache(self.device)
                continue
            if not compiles:  # which takes long, and happens once
                whole = (self.token_segments - before) / self.config.segments  # of tokens that go through all segments
                speed = whole / max(time.monotonic() - started, 1e-6)
                self.tokens_per_second = speed if self.tokens_per_second is None else 0.5 * (speed + self.tokens_per_second)
            position = stop
            yield output

    def _prepare(self, budget: Budget) -> bool:
        """Compile for CPUs from now on where it works and pays in the time left; return whether the next pack compiles."""
        assert self.execution is not None
        self.prepared = True
        if self.device.type != "cpu":
            return False
        pays = self.execution != "eager" and time_to_compile(self.execution, budget.remaining())
        return enable_compiler(pays)  # not what training has compiled: it is compiled anew

    def _pack_tokens(self, budget: Budget) -> int:
        """Return the tokens of the next pack: a small one while the speed is unknown.

        Without a time limit they do not depend on the speed: the same packs give the same outputs to the last bit.
        """
        if budget.limit_seconds is None:
            return self.most_tokens
        if self.tokens_per_second is None:
            return 1
        return max(1, min(self.most_tokens, int(PACK_SECONDS * self.tokens_per_second)))

    @torch.inference_mode()
    def forward(self, samples: Samples, keep_drafts: bool = False) -> Output:
        """Return the output for one pack of `samples`, in order: all segments, however long it takes.

        Where `predict.halting` is "first", a sample leaves the pack after the segment in which one of its latents halts.
        """
        maker, latents = self.maker, self.maker.latents
        pack = maker.make(samples)
        calls, cycles = self.config.segments, None
        if keep_drafts and calls == 1:
            calls, cycles = self.network.reasoner.config.H_cycles, 1
        areas = pack.shapes.prod(axis=1)
        tokens, probability = np.zeros(int(areas.sum()), np.uint8), np.zeros(len(samples), np.float32)
        halts = self.config.halting == "first" and cycles is None
        left = np.ones(len(samples), np.bool_)
        batch = self._batch(samples, pack)
        state = self.network.reasoner.start(batch.layout, self.dtype, latents)
        drafts: list[Draft] = []
        for call in range(calls):
            segment = self.network(state, batch, cycles)
            if cycles is None or call == calls - 1:
                self.token_segments += batch.layout.tokens
            state = segment.state
            if keep_drafts or halts or call == calls - 1:
                tokens[np.repeat(left, areas)], probability[left] = _read(segment, batch.layout, latents)
                if keep_drafts:
                    drafts.append(Draft(tokens.copy(), probability.copy()))
            if halts and (halted := left & (probability > 0.5)).any():
                kept = np.repeat(~halted[left], maker.tokens(samples[left]))
                left &= ~halted
                if not left.any():
                    break
                index = to_device(np.flatnonzero(kept), self.device)
                batch, state = self._batch(samples[left]), tuple(part.index_select(0, index) for part in state)
        drafts += drafts[-1:] * (calls - len(drafts))
        if not np.isfinite(probability).all():
            logger.warning("halting probabilities that are not finite count as 0")
            probability = np.nan_to_num(probability, nan=0.0)
        return Output(tokens, probability, samples, pack, segment.logits if self.keep_logits else None, tuple(drafts))

    def _batch(self, samples: Samples, pack: Pack | None = None) -> Batch:
        """Return the sequences of all latents of `samples`, whose `pack` may be there already, on the device."""
        if pack is None or self.maker.latents > 1:
            pack = self.maker.make(self.maker.expand(samples))
        return to_batch(pack, self.maker.memory_tokens, self.device)


def _read(segment: Segment, layout: Layout, latents: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return the output tokens of every sample, end to end, and its halting probability (B,); waits for the device.

    They are those of the latent with the greatest one.
    """
    tokens, halting = segment.logits.argmax(-1), segment.halting[:, 0]
    if latents > 1:
        halting = halting.where(~halting.isnan(), -torch.inf)  # the others count
        halting, best = halting.unflatten(0, (-1, latents)).max(dim=1)
        number = layout.sequence[layout.cells]
        tokens = tokens[number % latents == best[number // latents]]
    return tokens.to(torch.uint8).cpu().numpy(), halting.sigmoid().cpu().numpy()
