"""The Hierarchical Reasoning Model (arXiv 2506.21734), the baseline from which TRM was distilled.

Unlike TRM it has a second network for the answer (the "high level"), and, by config, a gradient through the last update of each
state only (`gradient="last-step"`) and halting by Q-learning (`train.halting="q-learning"`).
"""

import torch
from torch import nn

from pipeline.models.config import ReasonerConfig
from pipeline.models.trm import TRM


class HRM(TRM):
    """TRM's recursion, with blocks of its own for the answer."""

    def __init__(self, config: ReasonerConfig, memory_tokens: int, generator: torch.Generator) -> None:
        super().__init__(config, memory_tokens, generator)
        self.answer_blocks = self.make_blocks(memory_tokens, generator)

    def answer_network(self) -> nn.ModuleList:
        """Return the blocks of the high level."""
        return self.answer_blocks
