"""The Tiny Recursive Model (arXiv 2510.04871): one small network that alternates "think" and "act"."""

from torch import nn

from pipeline.models.reasoner import TwoStateReasoner


class TRM(TwoStateReasoner):
    """Answer and latent, updated by the same blocks."""

    def answer_network(self) -> nn.ModuleList:
        """Return the blocks that update the latent, too."""
        return self.blocks
