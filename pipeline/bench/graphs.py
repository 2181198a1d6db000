"""What a GPU can do besides: the same training step compiled, and replayed as a CUDA graph. Nothing of it on a CPU."""

import logging
from collections.abc import Callable

import torch

from pipeline.bench.measure import Prepare, Work
from pipeline.bench.stages import Computing, Draws, on_samples
from pipeline.data.pack import Samples

logger = logging.getLogger(__name__)

WARM_UPS = 3
"""Steps before a graph is captured: what is set up once must not be in it."""


def gpu_sides(eager: Computing, draws: Draws) -> dict[str, Prepare]:
    """Return the sides "compiled" and "graphed" of training on a GPU, those that run; none on a CPU."""
    if eager.device.type != "cuda":
        return {}
    sides: dict[str, Prepare] = {}
    for name, make in (("compiled", compiled), ("graphed", graphed)):
        try:
            prepare = make(eager, draws)
            prepare(1)()
        except (RuntimeError, ImportError) as error:
            logger.warning("%s: does not run here: %s", name, str(error).splitlines()[0])
        else:
            sides[name] = prepare
    return sides


def compiled(eager: Computing, draws: Draws) -> Prepare:
    """Return the step of a network with compiled blocks; shapes may change without compiling again."""
    computing = Computing(eager.side, eager.store, eager.plan, eager.device, eager.dtype)
    for block in computing.network.reasoner.blocks:
        block.compile(dynamic=True)

    def train(samples: Samples) -> None:
        computing.train(samples)

    warm = on_samples(train, draws)
    return lambda size: _warmed(warm(size))


def _warmed(work: Work) -> Work:
    work()
    return work


def graphed(eager: Computing, draws: Draws) -> Prepare:
    """Return the replay of one step that was captured on one pack; making the pack is not in it."""

    def prepare(size: int) -> Work:
        batch = eager.batch(draws.samples(size))
        return capture(lambda: eager.step(batch), eager.network)

    return prepare


def capture(step: Callable[[], None], network: torch.nn.Module) -> Work:
    """Return the replay of `step`, captured as a CUDA graph; gradients add up from replay to replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            network.zero_grad()
            step()
    torch.cuda.current_stream().wait_stream(stream)
    network.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
