"""Counts the floating-point operations of a segment from config and layout: a product of m x k and k x n is 2 m k n.

Products are counted, everything else (norms, gates, softmax, rotation) is not: the share of the peak that follows is a lower
bound on how busy the units are. `torch.utils.flop_counter` counts the same (tests/pipeline/bench).
"""

from pipeline.reasoner.base import Reasoner
from pipeline.reasoner.blocks import Block
from pipeline.reasoner.layout import Layout


def segment_operations(reasoner: Reasoner, layout: Layout, training: bool) -> int:
    """Return the operations of one segment on a pack, those of the task memory excluded.

    In `training` every backpropagated update costs twice as much again. Raises ValueError for a token mixer or a convolution,
    which are not counted here.
    """
    config = reasoner.config
    if config.mixing != "attention" or config.convolution:
        raise ValueError("operations are counted for attention without a convolution")
    updates, learned = len(reasoner.cycle()) * config.H_cycles, reasoner.learned_updates()
    times = updates + (2 * learned if training else 0)
    heads = 2 * config.hidden_size * (len(layout.cells) * config.vocabulary + 2 * layout.sequences)
    return times * sum(_block_operations(block, layout) for block in _blocks(reasoner)) + (3 if training else 1) * heads


def _blocks(reasoner: Reasoner) -> list[Block]:
    return [block for block in reasoner.blocks if isinstance(block, Block)]


def _block_operations(block: Block, layout: Layout) -> int:
    weights = sum(parameter.numel() for parameter in block.parameters())
    size = block.attention.out.weight.shape[0]
    pairs = sum(group.count * group.length**2 for group in layout.groups)
    return 2 * layout.tokens * weights + 4 * size * pairs  # 4: queries with keys, probabilities with values
