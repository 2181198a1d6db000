"""The Tiny Recursive Model (arXiv 2510.04871): one small network that alternates "think" and "act"."""

from typing import ClassVar

from torch import nn

from pipeline.models.reasoner import Given, Reasoner, State, Update, apply_blocks


class TRM(Reasoner):
    """Answer y and latent z: a cycle thinks `L_cycles` times, z <- f(x, y, z), and acts once, y <- g(y, z). Here g is f."""

    states: ClassVar[tuple[str, ...]] = ("answer", "latent")

    def answer_network(self) -> nn.ModuleList:
        """Return the blocks of g, which updates the answer; `blocks` are those of f."""
        return self.blocks

    def cycle(self) -> list[Update]:
        """Return `L_cycles` times `think`, then `act`."""
        return [*[self.think] * self.config.L_cycles, self.act]

    def think(self, state: State, given: Given) -> State:
        """Update the latent by the question, the answer and itself."""
        answer, latent = state
        return answer, apply_blocks(self.blocks, (latent + answer).add_(given.tokens), given)

    def act(self, state: State, given: Given) -> State:
        """Update the answer by the latent."""
        answer, latent = state
        return apply_blocks(self.answer_network(), answer + latent, given), latent
