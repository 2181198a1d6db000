"""How the segment of a micro-batch is computed: eagerly or with compiled code.

Used by pipeline.training.gradients. On a GPU whole blocks are compiled, for constant shapes: micro-batches are laid into a
`Room`, which those of puzzles, whose canvases all have one size, fill. On a CPU they are for any shapes
(pipeline.models.compiled).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.packs import PackMaker
from pipeline.device_limits import fall_back, ran_out_of_memory
from pipeline.models.attention import choose_way
from pipeline.models.compiled import (
    compiler_errors,
    configure_compiler,
    disable_compiler,
    enable_compiler,
    reason_of,
    time_to_compile,
)
from pipeline.models.layers import choose_fused, grid_kernel
from pipeline.models.layout import PACKED, Layout, Room, Way
from pipeline.models.network import Network
from pipeline.models.reasoner import Block, State
from pipeline.models.task_memory import RowGradients

SPARE_SEQUENCES = 1.25
"""A room has places for this many times the average sequences of a pack; a pack with more is computed eagerly."""
JOINED = 0
"""As the number of micro-batches of a pack: all packs of a process are one micro-batch."""


def cut_finer(pieces: int) -> int:
    """Return the next number of micro-batches of a pack after `pieces`, for less memory: 1 after JOINED, else twice as many."""
    return max(1, 2 * pieces)


@dataclass(frozen=True)
class SegmentResult:
    """The result of the segment of a micro-batch; the gradients of parameters are on them."""

    figures: Tensor
    """(3,) sums over the samples: token loss, halting loss, exact answers."""
    halting: Tensor
    """(B, 2) of each sample, by the latent that it learned from."""
    state: State
    row_gradients: RowGradients


class Execution:
    """Computes segments as `train.execution` says, on one device."""

    def __init__(
        self, network: Network, maker: PackMaker, config: Config, accelerator: Accelerator, dtype: torch.dtype
    ) -> None:
        self.maker, self.config = maker, config
        self.kind = config.train.execution
        self.rooms: dict[tuple[int, int], Room] = {}
        """By the number of micro-batches of a pack and the number of packs."""
        self.shapes: set[tuple[int, int]] = set()
        """Tokens and sequences of what has been computed in rooms: blocks have been compiled for them."""
        self.compiled = False
        self.any_shape = compiles_any_shape(accelerator.device)
        self.automatic = self.kind == "auto" and accelerator.device.type == "cuda"
        """Whether a trial is to show that compiled blocks are faster than eager ones."""
        if self.any_shape:
            enable_compiler(False)  # until `compile_any_shape`
            return
        if self.kind == "auto":
            self.kind = "compiled" if self.automatic else "eager"
        if self.kind == "eager":
            return
        sizes = maker.tokens(maker.plain())
        self.alike = bool(sizes.min() == sizes.max())
        self.way = choose_way(accelerator.device, dtype, config.model.hidden_size // config.model.heads)
        self.fused = choose_fused(accelerator.device, dtype, grid_kernel(config.model))
        if not self.alike and self.way not in PACKED:
            fall_back(f"train.execution={config.train.execution}: no constant shapes, attention goes shape by shape; eager")
            self.kind = "eager"
            return
        self.compiled = True
        compile_blocks(network)

    def compile_any_shape(self, left: float) -> None:
        """Have blocks compiled from now on, where it works here and pays in the `left` seconds of training."""
        self.kind = "compiled" if time_to_compile(self.kind, left) and enable_compiler() else "eager"

    def give_up(self, error: "DoesNotRun") -> None:
        """Go on eagerly after `error`."""
        if self.any_shape:
            disable_compiler()
        fall_back(f"train.execution={self.kind} does not run here, eager from now on: {error}")
        self.kind = "eager"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Compute everything eagerly inside the block: a single trial is not worth compiling."""
        kind, self.kind = self.kind, "eager"
        try:
            yield
        finally:
            self.kind = kind

    def room(self, cells: int, sequences: int, pieces: int, packs: int) -> Room | None:
        """Return the room of micro-batches of `packs` packs that are cut into `pieces`, or are one with JOINED.

        None where there is none or it does not hold so many cells and sequences.
        """
        if self.kind == "eager" or self.any_shape:
            return None
        if self.alike:  # all packs have one of two numbers of sequences
            length = cells // sequences + self.maker.memory_tokens
            return Room(cells, sequences, length, self.maker.memory_tokens, self.way, self.fused)
        if (pieces, packs) not in self.rooms:
            self.rooms[pieces, packs] = make_room(self.maker, self.config, pieces, self.way, self.fused, packs)
        room = self.rooms[pieces, packs]
        return room if room.holds(cells, sequences) else None

    def run(self, segment: Callable[[], SegmentResult], layout: Layout) -> SegmentResult:
        """Compute a segment on `layout`. Raises DoesNotRun where something cannot be compiled."""
        if self.any_shape:
            try:
                return segment()
            except compiler_errors() as error:  # of a gradient: `compiled_on_cpu` sees only the way there
                raise _cause_of(error) from error
        if self.kind == "eager" or layout.way is None:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                return segment()
        shapes = layout.tokens, layout.sequences
        if shapes in self.shapes:
            return segment()
        try:
            outcome = segment()
        except (RuntimeError, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            raise _cause_of(error) from error
        self.shapes.add(shapes)
        return outcome


class DoesNotRun(Exception):
    """Something can only be computed eagerly; the message says why."""


def _cause_of(error: BaseException) -> BaseException:
    """Return the error of too little memory that led to `error`, if there is one, or else a DoesNotRun."""
    cause: BaseException | None = error
    while cause is not None:
        if ran_out_of_memory(cause):
            return cause
        cause = cause.__context__
    return DoesNotRun(reason_of(error))


def compiles_any_shape(device: torch.device) -> bool:
    """Return whether blocks are compiled for any shapes on `device`, not for constant ones."""
    return device.type == "cpu"


def compile_blocks(network: nn.Module) -> None:
    """Compile every block of `network`, for each of the shapes that it is given."""
    configure_compiler()
    for block in network.modules():
        if isinstance(block, Block):
            block.compile(fullgraph=True, dynamic=False)


def make_room(maker: PackMaker, config: Config, pieces: int, way: Way, fused: bool = False, packs: int = 1) -> Room:
    """Return the room that holds nearly every micro-batch of a pack that is cut into `pieces`, for one of the ways PACKED.

    With JOINED, nearly every micro-batch of `packs` packs: they seldom all end with a sequence that is much too long.
    """
    memory_tokens, pack_tokens, latents = maker.memory_tokens, config.train.pack_tokens, maker.latents
    longest = int(maker.tokens(maker.plain()).max())  # of a sample
    drawn = maker.draw(4096, np.random.default_rng(config.train.seed), config.train.shift_probability)
    tokens = maker.tokens(drawn).astype(float)
    most = pack_tokens - 1 + longest  # one token was missing, the longest came
    if pieces > 1:
        most = math.ceil(most / pieces) + longest
    elif pieces == JOINED:
        beyond, square = np.mean(tokens**2) / (2 * tokens.mean()), np.mean(tokens**3) / (3 * tokens.mean())
        spread = math.sqrt(max(0.0, square - beyond**2) * packs)  # of the tokens by which packs exceed their size
        most = min(packs * most, math.ceil(packs * (pack_tokens + beyond) + 3 * spread))
    sequences = latents * (math.ceil(SPARE_SEQUENCES * most / float(tokens.mean())) + 8)
    cells = most - latents * memory_tokens * (most // longest)
    return Room(cells, sequences, longest // latents, memory_tokens, way, fused)
