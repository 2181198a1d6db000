"""The Tiny Recursive Model (arXiv 2510.04871): one small network that alternates "think" and "act".

A cycle is `L_cycles` updates of the latent, z <- f(x, y, z), and one of the answer, y <- f(y, z).
"""

from typing import ClassVar

from torch import nn

from pipeline.models.reasoner import Given, Reasoner, State, Update, apply_blocks


class TRM(Reasoner):
    """Two states, answer and latent, updated by the same blocks."""

    states: ClassVar[tuple[str, ...]] = ("answer", "latent")

    def cycle(self) -> list[Update]:
        """Return `L_cycles` times `think`, then `act`."""
        thinking: list[Update] = [self.think] * self.config.L_cycles
        return [*thinking, self.act]

    def think(self, state: State, given: Given) -> State:
        """Update the latent by the question, the answer and itself."""
        answer, latent = state
        return answer, apply_blocks(self.blocks, (latent + answer).add_(given.tokens), given)

    def act(self, state: State, given: Given) -> State:
        """Update the answer by the latent."""
        answer, latent = state
        return apply_blocks(self.answer_network(), answer + latent, given), latent

    def answer_network(self) -> nn.ModuleList:
        """Return the blocks that update the answer: TRM has one network for both."""
        return self.blocks
