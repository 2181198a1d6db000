"""What a GPU can do besides: training steps with compiled blocks, and replayed as a CUDA graph. Nothing of it on a CPU.

Ours in rooms of constant shapes (pipeline.execution), and the published way compiled, which has constant shapes by itself and
computes in bfloat16 as its code does on a GPU.
"""

import logging
import math
from collections.abc import Mapping

from torch._dynamo.exc import FailOnRecompileLimitHit

from pipeline.bench.measure import Prepare, Work
from pipeline.bench.stages import Computing, Draws
from pipeline.data.pack import Samples
from pipeline.engine import to_batch
from pipeline.execution import SPARE_SEQUENCES, Graph, Inputs, compile_blocks, grid_kernel
from pipeline.reasoner.attention import choose_way
from pipeline.reasoner.layout import Room

logger = logging.getLogger(__name__)


def gpu_sides(sides: Mapping[str, Computing], draws: Draws) -> dict[str, Prepare]:
    """Return the further sides of training on a GPU, those that run; none on a CPU."""
    ours = sides["ours"]
    if ours.device.type != "cuda":
        return {}
    published = Computing("published", ours.store, ours.plan, ours.device, ours.dtype)
    further = {"published, compiled": Accelerated(published, draws), "compiled": Accelerated(ours, draws)}
    further["graphed"] = Accelerated(ours, draws, graphed=True)
    found: dict[str, Prepare] = {}
    for name, side in further.items():
        try:
            side.prepare(ours.plan.train_sizes[0])()
        except (RuntimeError, ImportError, FailOnRecompileLimitHit) as error:
            logger.warning("%s: does not run here: %s", name, str(error).splitlines()[0])
        else:
            found[name] = side.prepare
    return found


class Accelerated:
    """One side of training with compiled blocks, on packs that are laid into a room unless their canvases are all full."""

    def __init__(self, eager: Computing, draws: Draws, graphed: bool = False) -> None:
        """Take everything from `eager` but its network, which stays as it is."""
        self.draws, self.graphed = draws, graphed
        self.computing = Computing(eager.side, eager.store, eager.plan, eager.device, eager.dtype)
        compile_blocks(self.computing.network)
        self.works: dict[int, Work] = {}

    def prepare(self, size: int) -> Work:
        """Return the step on `size` sequences, the pack made for it included; what is set up once has been."""
        if size not in self.works:
            samples = self.draws.samples(size)
            self.works[size] = self._graphed(samples) if self.graphed else lambda: self._step(samples)
            self.works[size]()
        return self.works[size]

    def _inputs(self, samples: Samples) -> Inputs:
        computing = self.computing
        pack = computing.pairs.make(samples[computing.pairs.order(samples)])
        room = room_for(len(pack.inputs), len(samples), computing)
        return computing.inputs(to_batch(pack, computing.pairs.memory_tokens, computing.device, room))

    def _step(self, samples: Samples) -> None:
        self.computing.network.train().zero_grad()
        self.computing.compute(self._inputs(samples))

    def _graphed(self, samples: Samples) -> Work:
        graph = Graph(self.computing.compute, self._inputs(samples), self.computing.network)

        def work() -> None:
            self.computing.network.zero_grad(set_to_none=False)
            graph(self._inputs(samples))

        return work


def room_for(cells: int, sequences: int, computing: Computing) -> Room:
    """Return a room such as training has for packs of about so many cells and sequences; full canvases fill it."""
    pairs, model = computing.pairs, computing.plan.model
    longest, kernel = int(pairs.tokens(pairs.plain()).max()), grid_kernel(model)
    if pairs.canvas == "full":
        way = choose_way(computing.device, computing.dtype, model.hidden_size // model.heads)
        return Room(cells, sequences, longest, pairs.memory_tokens, kernel, way)
    most = cells + longest - pairs.memory_tokens
    return Room(most, math.ceil(SPARE_SEQUENCES * sequences) + 1, longest, pairs.memory_tokens, kernel, "packed")
